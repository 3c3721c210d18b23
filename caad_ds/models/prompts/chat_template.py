"""Freeze a tokenizer's chat template to a pure function of the messages: date, switches and system text are fixed."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

from jinja2 import Environment, TemplateError, meta, nodes
from jinja2.ext import loopcontrols

from caad_ds.config.schema import TEMPLATE_DATE
from caad_ds.utils.errors import UserError

CLOCK = "strftime_now"
DIRECTIVES = ("%-d", "%-m", *(f"%{letter}" for letter in "YymdebBaAHIMSpjFTDRzZ"))
MERGED_SYSTEM = """\
{%- if messages and messages[0]['role'] == 'system' -%}
{%- if messages | length > 1 and messages[1]['role'] == 'user' -%}
{%- set messages = [{'role': 'user', 'content': messages[0]['content'] + '\\n\\n' + messages[1]['content']}] \
+ messages[2:] -%}
{%- else -%}
{%- set messages = [{'role': 'user', 'content': messages[0]['content']}] + messages[1:] -%}
{%- endif -%}
{%- endif %}
"""


@dataclass(frozen=True)
class TemplateSettings:
    """Settings that a chat template is frozen with.

    `date` answers `strftime_now`; `switches` are variables that the template reads, such as `enable_thinking`;
    `merge_system` puts system text before the first user turn, for templates that refuse the system role. `key` names
    the settings in messages.
    """

    date: date = TEMPLATE_DATE
    merge_system: bool = False
    switches: Mapping[str, Any] = field(default_factory=dict)
    key: str = "student.template.switches"


class _Generation(loopcontrols):
    """Parses transformers' `{% generation %}` blocks."""

    tags = loopcontrols.tags | {"generation"}

    def parse(self, parser: Any) -> Any:
        if parser.stream.current.value != "generation":
            return super().parse(parser)
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def freeze_template(tokenizer: Any, settings: TemplateSettings | None = None) -> Any:
    """Rewrite the tokenizer's chat template to depend only on the messages, and return the tokenizer.

    The settings are written at the head of the template's text, so a later loader of the saved tokenizer writes the
    same prompt. A template that is frozen already, or has nothing to freeze, is not changed.

    Raises:
        UserError: the template does not parse, draws at random, does not read one of the switches, or was frozen with
            other settings; a switch is a variable that every template is given.
    """
    settings = settings or TemplateSettings()
    try:
        text = tokenizer.get_chat_template() if tokenizer.chat_template else None
    except ValueError:  # several templates, none of which is the default
        text = None
    if text is None:
        return tokenizer
    read = _undeclared(text, tokenizer.name_or_path)
    head = ""
    for name, value in settings.switches.items():
        if name in PASSED:
            raise UserError(f"{settings.key}: {name!r} is given to every template and is no switch; remove it")
        line = f"{{%- set {name} = {_literal(value)} %}}\n"
        if name in read:
            head += line
        elif line in text:
            continue
        elif frozen := re.search(rf"^\{{%- set ({re.escape(name)} = .*) %\}}$", text, re.MULTILINE):
            raise UserError(
                f"{settings.key}: the chat template of {tokenizer.name_or_path} was frozen with {frozen[1]} "
                f"before, and {name} = {_literal(value)} is requested; remove the switch, or take the tokenizer of the "
                "original model"
            )
        else:
            offered = ", ".join(sorted(read - PASSED)) or "none"
            raise UserError(
                f"{settings.key}: the chat template of {tokenizer.name_or_path} does not read {name!r} "
                f"(variables that it reads and nothing sets: {offered}); correct the name, or remove it"
            )
    if CLOCK in read:
        head += _clock(settings.date)
    elif settings.date != TEMPLATE_DATE and f"macro {CLOCK}(" in text and _clock(settings.date) not in text:
        raise UserError(
            f"student.template.date: the chat template of {tokenizer.name_or_path} was frozen with another date "
            "before; remove the key, or take the tokenizer of the original model"
        )
    if settings.merge_system and MERGED_SYSTEM not in text:
        head += MERGED_SYSTEM
    if head:
        tokenizer.chat_template = head + text
    return tokenizer


# Variables that are the chat itself, or that transformers passes to every template.
PASSED = frozenset(
    "messages tools documents add_generation_prompt bos_token eos_token unk_token pad_token sep_token cls_token "
    "mask_token raise_exception strftime_now namespace dict range".split()
)


def _undeclared(text: str, name: str) -> set[str]:
    """Return the variables that the template reads and does not set."""
    try:
        tree = Environment(extensions=[_Generation]).parse(text)
    except TemplateError as error:
        raise UserError(f"tokenizer {name}: its chat template is not valid ({error}); use another tokenizer") from error
    called = {call.node.name for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Name)}
    if "lipsum" in called or any(each.name == "random" for each in tree.find_all(nodes.Filter)):
        raise UserError(
            f"tokenizer {name}: its chat template draws at random, so no prompt is written twice alike; edit it"
        )
    return meta.find_undeclared_variables(tree)


def _literal(value: Any) -> str:
    """Return a Jinja literal of a switch's value."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"student.template.switches: {value} is no number that a chat template could hold")
    return json.dumps(value, ensure_ascii=False)


def _clock(day: date) -> str:
    """Define `strftime_now` as a macro that formats midnight of a fixed day."""
    fixed = datetime.combine(day, time())
    chain = "".join(f".replace('{each}', '{fixed.strftime(each)}')" for each in DIRECTIVES)
    return (
        f"{{%- macro {CLOCK}(format) -%}}{{%- set text = format{chain} -%}}"
        "{%- if '%' in text -%}{{- raise_exception('this date format cannot be frozen: ' + format) -}}{%- endif -%}"
        "{{- text -}}{%- endmacro %}\n"
    )
