"""Granite Speech Plus: Granite Speech whose projector reads states of several of the tower's layers."""

from dataclasses import replace
from functools import partial

from caad_ds.models import transformers_lm
from caad_ds.models.families import granite_speech

FAMILY = replace(
    granite_speech.FAMILY, model_type="granite_speech_plus", model="GraniteSpeechPlusForConditionalGeneration"
)

load = partial(granite_speech.load_with_adapters, FAMILY)
build = partial(transformers_lm.build, FAMILY, lm=granite_speech.GraniteSpeechLM)
