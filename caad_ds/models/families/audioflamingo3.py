"""Audio Flamingo 3: a Whisper tower over each window of 30 s, a projector of two layers, Qwen2."""

from functools import partial

from caad_ds.models import transformers_lm
from caad_ds.models.family import Family, whole_windows

FAMILY = Family(
    model_type="audioflamingo3",
    model="AudioFlamingo3ForConditionalGeneration",
    tower="audio_tower",
    connector="multi_modal_projector",
    longest_seconds=whole_windows,
    shortest_seconds=0.03,  # two frames have no position
    most_audios=1,  # its processor takes one audio per prompt
    windows=True,
)

load, build = partial(transformers_lm.load, FAMILY), partial(transformers_lm.build, FAMILY)
