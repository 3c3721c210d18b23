"""How audio is written in a prompt's text: the positions of placeholders and transcriptions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from jinja2 import TemplateError

from caad_ds.data.audio_markers import AUDIO
from caad_ds.models.prompts.control_tokens import SPAN
from caad_ds.utils.errors import UserError

Messages = Sequence[tuple[str, str]]  # (role, content), with `<start_audio><|AUDIO|><end_audio>` once per audio


class AudioSpans(Protocol):
    """Writes messages as a prompt's text, with one `mark` per audio."""

    mark: str

    def in_messages(self, messages: Messages, transcripts: Sequence[str]) -> Messages:
        """Return the messages for the template, with transcriptions that belong in messages."""
        ...

    def render(self, tokenizer: Any, messages: Messages) -> str:
        """Render such messages by the chat template; UserError with its message if it refuses them."""
        ...

    def texts(self, content: str) -> list[str]:
        """Return the parts of a content that must appear unchanged in the template's text."""
        ...

    def in_text(self, text: str, transcripts: Sequence[str]) -> str:
        """Return the text with transcriptions that do not belong in messages."""
        ...


class MarkedText:
    """Audio as markers in a content; a transcription directly follows its marker (DeSTA2, section 3)."""

    mark = AUDIO

    def in_messages(self, messages: Messages, transcripts: Sequence[str]) -> Messages:
        """Return the messages unchanged."""
        return messages

    def render(self, tokenizer: Any, messages: Messages) -> str:
        """Render contents as texts."""
        return render(tokenizer, [{"role": role, "content": content} for role, content in messages])

    def texts(self, content: str) -> list[str]:
        """Return the whole content, including markers."""
        return [content]

    def in_text(self, text: str, transcripts: Sequence[str]) -> str:
        """Insert each transcription after its marker."""
        first, *rest = text.split(AUDIO)
        return AUDIO.join([first, *map(str.__add__, transcripts, rest)])


class ContentParts:
    """Audio as a part of a content, as transformers processors take it; `mark` is the family's placeholder.

    `before` and `after` are tokens around it that the processor writes and the template does not. A transcription is
    the first line of the text after its audio.
    """

    def __init__(self, mark: str, before: str = "", after: str = ""):
        self.mark, self.whole = mark, before + mark + after

    def in_messages(self, messages: Messages, transcripts: Sequence[str]) -> Messages:
        """Insert each transcription after its audio's marker."""
        lines = iter(f"\n{text}" if text else "" for text in transcripts)
        return [(role, SPAN.sub(lambda span: span[0] + next(lines, ""), content)) for role, content in messages]

    def render(self, tokenizer: Any, messages: Messages) -> str:
        """Render contents as lists of parts, and add the tokens around each audio."""
        text = render(tokenizer, [{"role": role, "content": self._parts(content)} for role, content in messages])
        return text.replace(self.mark, self.whole)

    def texts(self, content: str) -> list[str]:
        """Return the texts between its audios."""
        return SPAN.split(content)

    def in_text(self, text: str, transcripts: Sequence[str]) -> str:
        """Return the text unchanged."""
        return text

    def _parts(self, content: str) -> str | list[dict[str, str]]:
        if not SPAN.search(content):
            return content
        parts: list[dict[str, str]] = []
        for number, text in enumerate(SPAN.split(content)):
            if number:
                parts.append({"type": "audio", "audio": ""})  # templates check one or the other
            # The template itself writes the line break that ends a marked span.
            text = text.removeprefix("\n") if number else text
            if text:
                parts.append({"type": "text", "text": text})
        return parts


class MarkInText(ContentParts):
    """Audio as the family's placeholder in a single text: the template takes no parts."""

    def _parts(self, content: str) -> str:
        first, *rest = SPAN.split(content)
        return self.mark.join([first, *(text.removeprefix("\n") for text in rest)])


def render(tokenizer: Any, chat: Iterable[Mapping[str, Any]], prompt: bool = True) -> str:
    """Render messages by the chat template; UserError with its message if it refuses them."""
    chat = list(chat)
    try:
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
    except (TemplateError, ValueError, TypeError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = "change its messages"
        if any(message["role"] == "system" for message in chat):
            remedy = (
                "leave out the system message; of a student.llm, set student.template.merge_system (--merge-system in "
                "Stage 1)"
            )
        raise UserError(f"the chat template refuses it: {reason:.200}; {remedy}") from error
