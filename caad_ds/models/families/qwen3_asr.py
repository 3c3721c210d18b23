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
    most_audios=1,  # its processor takes one audio a prompt
    alone=True,  # the end of a shorter audio is another beside a longer one
)


class SystemText(ContentParts):
    """Text as what the system says, where its processor puts a `prompt`: the template has no other place for it."""

    def given(self, messages: Messages, transcripts: Sequence[str]) -> Messages:
        """The texts of system and user, a line each, as the system's message; the user's is the audio alone."""
        if [role for role, _ in messages if role != "system"] != ["user"]:
            raise UserError("a qwen3_asr model reads one user message, after the system's; leave out the others")
        lines: list[str] = []
        spans: list[str] = []
        for _, content in super().given(messages, transcripts):
            first, *rest = SPAN.split(content)
            lines += [first, *(text.removeprefix("\n") for text in rest)]
            spans += SPAN.findall(content)
        return [("system", "\n".join(filter(None, lines))), ("user", "".join(spans))]


class Qwen3ASRReader(ProcessorReader):
    """Reads text as the system's."""

    def spans(self) -> ContentParts:
        """As its processor's `apply_transcription_request` writes a prompt."""
        return SystemText(self._mark)

    def positions_of(self, seconds: float) -> int:
        """As many as for its length; a shorter audio is padded to a least length that counts as audio."""
        extractor = self.processor.feature_extractor
        return super().positions_of(max(seconds, extractor.min_length / extractor.sampling_rate))


class Qwen3ASRLM(transformers_lm.TransformersLM):
    """Its model, as every family's."""

    reads = Qwen3ASRReader


load = partial(transformers_lm.load, FAMILY, lm=Qwen3ASRLM)
build = partial(transformers_lm.build, FAMILY, lm=Qwen3ASRLM)
