"""Qwen2.5-Omni's thinker: a Whisper tower over chunks of 2 s, its last layer the projector, Qwen2.5."""

from functools import partial

from caad_ds.models import transformers_lm
from caad_ds.models.family import Family
from caad_ds.models.omni_thinker import ThinkerLM

FAMILY = Family(
    model_type="qwen2_5_omni",
    model="Qwen2_5OmniThinkerForConditionalGeneration",
    tower="audio_tower",
    connector="audio_tower.proj",
    longest_seconds=lambda processor: processor.feature_extractor.chunk_length,  # longer audio is silently truncated
    shortest_seconds=0.03,  # two frames have no position
    idle=("audio_tower.audio_bos_eos_token",),
    part="thinker_config",
    packages=("torchvision",),
)

load = partial(transformers_lm.load, FAMILY, lm=ThinkerLM)
build = partial(transformers_lm.build, FAMILY, lm=ThinkerLM)
