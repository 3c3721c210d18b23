"""Mistral's tekken vocabularies: a transformers tokenizer with a chat template equal to mistral-common's encoding.

mistral-common writes ids and no text, from conversations that it has validated. The tokenizer here writes the same ids
(tests/models/families/test_voxtral.py compares them), and has what the prompt encoder needs: a template, added tokens,
and a vocabulary with a unique name for each id.
"""

from pathlib import Path
from typing import Any

from transformers.integrations.mistral import convert_tekken_tokenizer

AUDIO = "[AUDIO]"
# mistral-common joins consecutive messages of one role; here such conversations are refused, and so are all that it
# refuses. It strips trailing spaces of an assistant's message.
TEMPLATE = (
    "{{- bos_token -}}"
    "{%- set last = namespace(role='') -%}"
    "{%- for message in messages -%}"
    "{%- set role = message['role'] -%}"
    "{%- set content = message['content'] -%}"
    "{%- if role not in ('system', 'user', 'assistant') -%}"
    "{{- raise_exception('its messages have the roles system, user and assistant alone') -}}"
    "{%- elif role == last.role and role != 'system' -%}"
    "{{- raise_exception('two messages of the ' + role + ' follow one another; make them one') -}}"
    "{%- elif role == 'system' and last.role == 'assistant' -%}"
    "{{- raise_exception('a system message follows an answer') -}}"
    "{%- elif role != 'user' and content is not string -%}"
    "{{- raise_exception('audio stands in a message of the ' + role) -}}"
    "{%- elif role == 'assistant' and not content -%}"
    "{{- raise_exception('an answer among the messages is empty') -}}"
    "{%- endif -%}"
    "{%- set last.role = role -%}"
    "{%- if role == 'system' -%}{{- '[SYSTEM_PROMPT]' + content + '[/SYSTEM_PROMPT]' -}}"
    "{%- elif role == 'assistant' -%}{{- content.rstrip(' ') + eos_token -}}"
    "{%- else -%}"
    "{{- '[INST]' -}}"
    "{%- if content is string -%}{{- content -}}"
    "{%- else -%}"
    "{%- for part in content -%}"
    "{%- if part['type'] == 'audio' -%}{{- '[BEGIN_AUDIO][AUDIO]' -}}"
    "{%- else -%}"
    "{%- if loop.previtem is defined and loop.previtem['type'] != 'audio' -%}{{- '\\n\\n' -}}{%- endif -%}"
    "{{- part['text'] -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '[/INST]' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt and last.role != 'user' -%}"
    "{{- raise_exception('its last message is not the user\\'s') -}}"
    "{%- endif -%}"
)
# Prepended for the versions that refuse it.
NO_SYSTEM_BESIDE_AUDIO = (
    "{%- if messages | selectattr('role', 'equalto', 'system') | list -%}"
    "{%- for message in messages if message['content'] is not string -%}"
    "{{- raise_exception('this version of the tokenizer has no system message beside audio') -}}"
    "{%- endfor -%}"
    "{%- endif -%}"
)


def tekken_tokenizer(file: Path, template: str) -> Any:
    """Build a transformers tokenizer with the ids of a tekken.json, and a chat template."""
    tokenizer = convert_tekken_tokenizer(str(file), chat_template=template)
    tokenizer.name_or_path = str(file.parent)
    return tokenizer
