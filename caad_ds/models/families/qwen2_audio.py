"""Qwen2-Audio: a Whisper tower over windows of 30 s with a mask, a linear projector, Qwen2."""

from functools import partial

from caad_ds.models import transformers_lm
from caad_ds.models.family import Family

FAMILY = Family(
    model_type="qwen2_audio",
    model="Qwen2AudioForConditionalGeneration",
    tower="audio_tower",
    connector="multi_modal_projector",
    longest_seconds=lambda processor: processor.feature_extractor.chunk_length,  # cut without a word beyond
    # With a single placeholder its forward takes the text for one that is still to be expanded.
    shortest_seconds=0.1,
)

load, build = partial(transformers_lm.load, FAMILY), partial(transformers_lm.build, FAMILY)
