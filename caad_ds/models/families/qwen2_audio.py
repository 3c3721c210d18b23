"""Qwen2-Audio: a Whisper tower over windows of 30 s with a mask, a linear projector, Qwen2."""

from functools import partial

from caad_ds.models import transformers_lm
from caad_ds.models.family import Family

FAMILY = Family(
    model_type="qwen2_audio",
    model="Qwen2AudioForConditionalGeneration",
    tower="audio_tower",
    connector="multi_modal_projector",
    longest_seconds=lambda processor: processor.feature_extractor.chunk_length,  # longer audio is silently truncated
    # With a single placeholder its forward believes that the placeholder is not expanded yet.
    shortest_seconds=0.1,
)

load, build = partial(transformers_lm.load, FAMILY), partial(transformers_lm.build, FAMILY)
