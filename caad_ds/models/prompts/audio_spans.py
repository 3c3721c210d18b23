"""How audio stands in the text of a prompt: where the placeholders are, and where a transcription is."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from jinja2 import TemplateError

from caad_ds.data.markers import AUDIO
from caad_ds.models.prompts.control_tokens import SPAN
from caad_ds.utils.errors import UserError

Messages = Sequence[tuple[str, str]]  # (role, content), with `<start_audio><|AUDIO|><end_audio>` once per audio


class AudioSpans(Protocol):
    """Writes messages as a prompt's text, in which `mark` stands once for each audio."""

    mark: str

    def given(self, messages: Messages, transcripts: Sequence[str]) -> Messages:
        """The messages as the template is given them, with what of the transcriptions stands in a message."""
        ...

    def render(self, tokenizer: Any, messages: Messages) -> str:
        """The chat template's text of such messages; UserError with the template's words if it refuses them."""
        ...

    def texts(self, content: str) -> list[str]:
        """What of a content must stand in the template's text as it is."""
        ...

    def finished(self, text: str, transcripts: Sequence[str]) -> str:
        """The text with the transcriptions that do not stand in a message."""
        ...


class MarkedText:
    """Audio as markers inside a content; a transcription follows its marker at once (DeSTA2, section 3)."""

    mark = AUDIO

    def given(self, messages: Messages, transcripts: Sequence[str]) -> Messages:
        """The messages as they are."""
        return messages

    def render(self, tokenizer: Any, messages: Messages) -> str:
        """The template's text of contents that are texts."""
        return render(tokenizer, [{"role": role, "content": content} for role, content in messages])

    def texts(self, content: str) -> list[str]:
        """All of it, markers included."""
        return [content]

    def finished(self, text: str, transcripts: Sequence[str]) -> str:
        """Each transcription after its marker."""
        first, *rest = text.split(AUDIO)
        return AUDIO.join([first, *map(str.__add__, transcripts, rest)])


class ContentParts:
    """Audio as a part of a content, as the processors of transformers take it; `mark` is the family's placeholder.

    `before` and `after` are tokens around it that the processor writes and the template does not. A transcription is
    the beginning of the text after its audio, as a line of its own.
    """

    def __init__(self, mark: str, before: str = "", after: str = ""):
        self.mark, self.whole = mark, before + mark + after

    def given(self, messages: Messages, transcripts: Sequence[str]) -> Messages:
        """The messages with each transcription after its audio's marker."""
        lines = iter(f"\n{text}" if text else "" for text in transcripts)
        return [(role, SPAN.sub(lambda span: span[0] + next(lines, ""), content)) for role, content in messages]

    def render(self, tokenizer: Any, messages: Messages) -> str:
        """The template's text of contents that are lists of parts, with the tokens around an audio."""
        text = render(tokenizer, [{"role": role, "content": self._parts(content)} for role, content in messages])
        return text.replace(self.mark, self.whole)

    def texts(self, content: str) -> list[str]:
        """What stands between its audios."""
        return SPAN.split(content)

    def finished(self, text: str, transcripts: Sequence[str]) -> str:
        """The text as it is."""
        return text

    def _parts(self, content: str) -> str | list[dict[str, str]]:
        if not SPAN.search(content):
            return content
        parts: list[dict[str, str]] = []
        for number, text in enumerate(SPAN.split(content)):
            if number:
                parts.append({"type": "audio", "audio": ""})  # templates look for the one or the other
            # The line break that ends a marked span is the template's own to write.
            text = text.removeprefix("\n") if number else text
            if text:
                parts.append({"type": "text", "text": text})
        return parts


class MarkInText(ContentParts):
    """Audio as the family's placeholder inside a content that is one text: the template takes no parts."""

    def _parts(self, content: str) -> str:
        first, *rest = SPAN.split(content)
        return self.mark.join([first, *(text.removeprefix("\n") for text in rest)])


def render(tokenizer: Any, chat: Iterable[Mapping[str, Any]], prompt: bool = True) -> str:
    """The chat template's text of messages; UserError with the template's words if it refuses them."""
    chat = list(chat)
    try:
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
    except (TemplateError, ValueError, TypeError, KeyError, IndexError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        remedy = "change its messages"
        if any(message["role"] == "system" for message in chat):
            remedy = (
                "leave out the system message; of a student.llm, set student.template.merge_system (--merge-system in "
                "Stage 1)"
            )
        raise UserError(f"the chat template refuses it: {told:.200}; {remedy}") from error
