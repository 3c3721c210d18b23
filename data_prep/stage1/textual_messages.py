"""A record's messages for a text LLM, with the seed description in place of the audio."""

from collections.abc import Iterator

from caad_ds.data.audio_markers import AUDIO, END_AUDIO, START_AUDIO
from caad_ds.data.record import Message, Record
from caad_ds.utils.errors import UserError
from data_prep.common.prompt_metadata import prompt_of


def textual_messages(record: Record) -> list[Message]:
    """Return the record's messages with the seed description in place of the audio.

    If `prep describe` recorded the question, the hint is left out: a false hint would give false pseudo ground truth.
    Each of several audios is replaced by its line of the seed description.
    """
    description, messages = record.get("seed_description"), record.get("messages")
    if not description or not messages:
        raise UserError("it has no seed description or messages; run `caad-ds prep describe` first")
    if question := prompt_of(record).get("question"):
        return [{"role": "user", "content": f"{description}\n{question}"}]
    lines = description.split("\n") if len(record["audios"]) > 1 else [description]
    if len(lines) != len(record["audios"]):
        raise UserError(f"its seed description has {len(lines)} lines for {len(record['audios'])} audios")
    rest = iter(lines)
    return [{**message, "content": _described(message["content"], rest)} for message in messages]


def _described(content: str, lines: Iterator[str]) -> str:
    first, *others = content.replace(f"{START_AUDIO}{AUDIO}{END_AUDIO}", AUDIO).split(AUDIO)
    return first + "".join(next(lines) + other for other in others)
