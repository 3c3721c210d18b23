"""Load a language model's tokenizer, and check that it is the one of given weights."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from caad_ds.models.prompts.answer_turn import FORM
from caad_ds.models.prompts.chat_template import TemplateSettings, freeze_template
from caad_ds.models.whisper_qformer.config import SpeechLMConfig
from caad_ds.models.whisper_qformer.prompt_ids import PIECES
from caad_ds.utils.errors import UserError, first_line
from caad_ds.utils.files import read_json

TOKENIZER_FILES = ("tokenizer*", "vocab.*", "merges.txt", "spiece.model", "*.tiktoken", "tekken.json")


def load_tokenizer(name: str | Path, settings: TemplateSettings | None = None) -> Any:
    """Load the tokenizer of a hub id or folder, with a frozen chat template; UserError if there is none."""
    try:
        # With a tekken.json transformers uses mistral-common if installed, which writes ids and no text.
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, mistral_format=False)
    except (OSError, ValueError, ImportError) as error:  # a format may need a package that is not installed
        reason = first_line(error)
        raise UserError(f"{name}: no tokenizer there ({reason}); give a hub id or a folder") from error
    config = Path(name) / "config.json"
    if config.is_file() and read_json(config, "give a complete folder").get("model_type") == SpeechLMConfig.model_type:
        tokenizer.init_kwargs.setdefault(FORM, PIECES)  # saved before models recorded how their ids are made
    return freeze_template(tokenizer, settings)


def check_own_vocabulary(name: str, tokenizer: Any) -> None:
    """Refuse a tokenizer whose ids differ from those of the tokenizer beside the weights of `name`, if there is one.

    Only vocabularies are compared: another chat template over the same vocabulary is fine, and so are tokens added
    after it.
    """
    if Path(name).is_dir() and not any(next(Path(name).glob(pattern), None) for pattern in TOKENIZER_FILES):
        return
    try:
        own, used = load_tokenizer(name).get_vocab(), tokenizer.get_vocab()
    except UserError as error:
        if Path(name).is_dir():
            raise
        raise UserError(
            f"{error}; {tokenizer.name_or_path} is to be compared with it: if these weights have none of their own, "
            "download them and give the folder"
        ) from error
    there = f"{name}: the tokenizer {tokenizer.name_or_path} is not that of these weights:"
    remedy = "set student.tokenizer to their own, or take weights of that vocabulary"
    by_id = {number: token for token, number in used.items()}
    for token, number in own.items():
        if used.get(token, number) != number:
            raise UserError(f"{there} {token!r} has id {used[token]}, and here {number}; {remedy}")
        if by_id.get(number, token) != token:
            raise UserError(f"{there} id {number} is {by_id[number]!r}, and here {token!r}; {remedy}")
