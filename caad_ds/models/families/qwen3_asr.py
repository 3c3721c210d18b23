"""Qwen3-ASR: a tower over windows of 8 s with a mask, a projector of two layers, Qwen3 with a tied head."""

from collections.abc import Sequence
from functools import partial

from caad_ds.models import transformers_lm
from caad_ds.models.family import Family
from caad_ds.models.processor_reader import ProcessorReader
from caad_ds.models.prompts.audio_spans import ContentParts, Messages
from caad_ds.models.prompts.control_tokens import SPAN
from caad_ds.utils.errors import UserError

FAMILY = Family(
    model_type="qwen3_asr",
    model="Qwen3ASRForConditionalGeneration",
    tower="audio_tower",
    connector="multi_modal_projector",
    longest_seconds=lambda processor: processor.feature_extractor.chunk_length,
    most_audios=1,  # its processor takes one audio per prompt
    alone=True,  # the end of a shorter audio differs beside a longer one
)


class SystemText(ContentParts):
    """Text as the system message, where its processor puts a `prompt`: the template has no other place for it."""

    def in_messages(self, messages: Messages, transcripts: Sequence[str]) -> Messages:
        """Move texts of system and user, a line each, to the system message; the user's has only the audio."""
        if [role for role, _ in messages if role != "system"] != ["user"]:
            raise UserError("a qwen3_asr model reads one user message, after the system's; leave out the others")
        lines: list[str] = []
        spans: list[str] = []
        for _, content in super().in_messages(messages, transcripts):
            first, *rest = SPAN.split(content)
            lines += [first, *(text.removeprefix("\n") for text in rest)]
            spans += SPAN.findall(content)
        return [("system", "\n".join(filter(None, lines))), ("user", "".join(spans))]


class Qwen3ASRReader(ProcessorReader):
    """Writes text as the system message."""

    def spans(self) -> ContentParts:
        """Write a prompt like its processor's `apply_transcription_request`."""
        return SystemText(self._mark)

    def positions_of(self, seconds: float) -> int:
        """Return the positions of that length; shorter audio is padded to a minimum, which counts as audio."""
        extractor = self.processor.feature_extractor
        return super().positions_of(max(seconds, extractor.min_length / extractor.sampling_rate))


class Qwen3ASRLM(transformers_lm.TransformersLM):
    """The model, read by `Qwen3ASRReader`."""

    reads = Qwen3ASRReader


load = partial(transformers_lm.load, FAMILY, lm=Qwen3ASRLM)
build = partial(transformers_lm.build, FAMILY, lm=Qwen3ASRLM)
