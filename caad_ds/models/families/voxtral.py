"""Voxtral: a Whisper tower over whole windows of 30 s without a mask, a projector of four frames each, Llama."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caad_ds.data.audio.usable_audio import SAMPLE_RATE
from caad_ds.data.audio_markers import user_content
from caad_ds.models import transformers_lm
from caad_ds.models.family import Family
from caad_ds.models.processor_reader import ProcessorReader, check_packages
from caad_ds.models.reader import Features
from caad_ds.models.tekken_processor import TekkenProcessor, load_processor
from caad_ds.utils.errors import UserError


class VoxtralReader(ProcessorReader):
    """Audio in whole windows with equally many positions; levels are normalized over all windows of an audio."""

    processor: TekkenProcessor

    def __init__(self, processor: TekkenProcessor, *args: Any, **kwargs: Any):
        self._per_window = processor.encoder.audio_config.num_audio_tokens(processor.window)
        super().__init__(processor, *args, **kwargs)

    @classmethod
    def load(cls, family: Family, folder: str | Path, **reading: Any) -> "VoxtralReader":
        """Load it from a folder's files; UserError if one is missing or broken, or its prompts would differ."""
        check_packages(family, str(folder))
        reader = cls(load_processor(Path(folder)), family, **reading)
        reader.check_prompts(str(folder))
        return reader

    def extracted(self, waveforms: Sequence[np.ndarray]) -> Features:
        """Extract the windows of all waveforms, one after another."""
        mels = [self._mel(waveform) for waveform in waveforms]
        return Features({"input_features": torch.cat(mels)}, [len(mel) * self._per_window for mel in mels])

    def _mel(self, waveform: np.ndarray) -> Tensor:
        """Compute the log-mel windows [W, mel, frames] of one audio."""
        extractor = self.processor.feature_extractor
        settings = {"sampling_rate": SAMPLE_RATE, "truncation": False, "pad_to_multiple_of": self.processor.window}
        mel = extractor(waveform, padding=True, return_tensors="pt", **settings)["input_features"]
        return mel.reshape(extractor.feature_size, -1, extractor.nb_max_frames).transpose(0, 1).contiguous()

    def positions_of(self, seconds: float) -> int:
        """Return the positions of its windows; the last one counts whole."""
        return math.ceil(round(seconds * SAMPLE_RATE) / self.processor.window) * self._per_window

    def features_identity(self) -> dict[str, Any]:
        """Return the feature extractor, the placeholder, and the number of positions per window."""
        return super().features_identity() | {"positions per window": self._per_window}

    def check_prompts(self, name: str) -> None:
        """Refuse a tekken.json whose prompts by mistral-common differ from those of the template here."""
        clip, turns = np.zeros(self.processor.window + 1, np.float32), ["Hello", "Good day.", "What is it?"]
        chat: list[dict[str, Any]] = [
            {"role": role, "content": text} for role, text in zip(["user", "assistant", "user"], turns, strict=True)
        ]
        record: Any = {"id": "", "audios": [{"path": ""}], "messages": [dict(message) for message in chat]}
        record["messages"][2]["content"] = user_content(turns[2], audios=1)
        chat[2]["content"] = [{"type": "audio"}, {"type": "text", "text": turns[2]}]
        count = self.positions_of(len(clip) / SAMPLE_RATE)
        ids = self.prompts.encode(record, with_answer=False, positions=[count]).prompt
        if ids != self.processor.ids(chat, clip):
            raise UserError(
                f"{name}: mistral-common writes other prompts of its tekken.json (version {self.processor.version}) "
                "than are known here; take the tekken.json of a Voxtral of 2507"
            )


class VoxtralLM(transformers_lm.TransformersLM):
    """The model, read by `VoxtralReader`."""

    reads = VoxtralReader


FAMILY = Family(
    model_type="voxtral",
    model="VoxtralForConditionalGeneration",
    tower="audio_tower",
    connector="multi_modal_projector",
    longest_seconds=lambda processor: processor.longest_seconds,
    windows=True,
    packages=("mistral_common",),
)

load = partial(transformers_lm.load, FAMILY, lm=VoxtralLM)
build = partial(transformers_lm.build, FAMILY, lm=VoxtralLM)
