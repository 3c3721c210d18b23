"""Tokenizers of five kinds, each with a chat template of the form that such models have, and what counts as control."""

import base64
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.root import ROOT

WHEELS = ROOT / ".venv/tokenizers"  # .ci/run puts them there; their files alone are read
RANKS = int(os.environ.get("CAAD_DS_RANKS", "4000"))  # pieces that are read of a published vocabulary, the first ones
WORDS = "The speaker is happy. It sounds low, high or sad? Is the tone high? he said stop yes no user assistant audio"

LLAMA3_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEKKEN_TOKENS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKING = CHATML.removesuffix("{% endif %}") + (
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '\n\n' + system + '<|eot_id|>' }}"
    "{%- for m in messages %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim "
    "+ '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + m['content'] + "
    "'[/SYSTEM_PROMPT]' }}{% elif m['role'] == 'user' %}{{ '[INST]' + m['content'] + '[/INST]' }}{% else %}"
    "{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}"
    "{% set role = m['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Kind:
    """A tokenizer and the texts that are control to it: its tokens, and its template's marks in plain text."""

    tokenizer: Any
    control: tuple[str, ...]
    marks: tuple[str, ...] = ()


def sentence_piece(folder: Path, prefix: bool, template: str = ZEPHYR) -> Any:
    """A SentencePiece tokenizer with byte fallback, which adds a space before a text or does not."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS, *WORDS.split()] * 20), model_writer=model, vocab_size=420, model_type="bpe",
        hard_vocab_limit=False, byte_fallback=True, user_defined_symbols=["<user>", "<start_of_turn>", "<end_of_turn>"],
        add_dummy_prefix=prefix, remove_extra_whitespaces=False, normalization_rule_name="identity", num_threads=1,
        minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    settings = {
        "tokenizer_class": "LlamaTokenizer", "chat_template": template, "add_prefix_space": prefix,
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return AutoTokenizer.from_pretrained(folder)


def byte_level(template: str = CHATML, **special: str | None) -> Any:
    """A byte-level BPE tokenizer with ChatML's tokens, and one of reasoning that is not special."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    words.train_from_iterator([WORDS] * 4, trainer)
    words.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    words.add_tokens([AddedToken(token, special=False, normalized=False) for token in ("<think>", "</think>")])
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=words, chat_template=template, **special)


def llama3() -> Any:
    """Llama 3's vocabulary and rules, of PyPI's `llama-models`."""
    lines = _published("llama_models", "llama_models/llama3/tokenizer.model").splitlines()[:RANKS]
    ranks = [base64.b64decode(line.split()[0]) for line in lines]
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )
    return _ranked(ranks, pattern, LLAMA3_TOKENS, LLAMA3, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")


def tekken() -> Any:
    """Mistral's tekken, of PyPI's `mistral-common`."""
    content = json.loads(_published("mistral_common", "mistral_common/data/tekken_240911.json"))
    ranks = [base64.b64decode(each["token_bytes"]) for each in content["vocab"][:RANKS]]
    return _ranked(ranks, content["config"]["pattern"], TEKKEN_TOKENS, MISTRAL, bos_token="<s>", eos_token="</s>")


def _published(package: str, member: str) -> bytes:
    wheel = next(WHEELS.glob(f"{package}-*.whl"), None)
    if wheel is None:
        pytest.skip(f"no wheel of {package} in {WHEELS}; .ci/run downloads it")
    return zipfile.ZipFile(wheel).read(member)


def _ranked(ranks: list[bytes], pattern: str, special: Iterable[str], template: str, **named: str) -> Any:
    """The tokenizer of tiktoken's ranks: two pieces join where they make a piece, the lowest rank first."""
    text = bytes_to_unicode()
    pieces = {"".join(text[byte] for byte in piece): rank for rank, piece in enumerate(ranks)}
    halves = ((piece[:cut], piece[cut:]) for piece in pieces for cut in range(1, len(piece)))
    merges = [pair for pair in halves if pair[0] in pieces and pair[1] in pieces]
    words = Tokenizer(models.BPE(pieces, merges, ignore_merges=True))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=words, chat_template=template, **named)


USER_DEFINED = ("<s>", "</s>", "<user>", "<start_of_turn>", "<end_of_turn>")
MARKS = ("<|user|>", "<|assistant|>", "<|system|>")
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
KINDS: dict[str, Callable[[Path], Kind]] = {
    "SentencePiece with a prefix": lambda folder: Kind(sentence_piece(folder, True), USER_DEFINED, MARKS),
    "SentencePiece without": lambda folder: Kind(sentence_piece(folder, False), USER_DEFINED, MARKS),
    "byte-level BPE": lambda folder: Kind(byte_level(), CHATML_TOKENS),
    "Llama 3": lambda folder: Kind(llama3(), LLAMA3_TOKENS),
    "tekken": lambda folder: Kind(tekken(), TEKKEN_TOKENS),
}
