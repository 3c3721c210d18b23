"""The thinker of an Omni model: the part of a larger checkpoint from audio to text, without the talker."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import GenerationConfig

from caad_ds.data.audio.usable_audio import SAMPLE_RATE
from caad_ds.models.processor_reader import ProcessorReader
from caad_ds.models.transformers_lm import TransformersLM

SPEAKERS = "spk_dict.pt"  # voices of the talker; transformers needs the file to read a Qwen2.5-Omni folder


class ThinkerReader(ProcessorReader):
    """Pads audio to whole seconds, not to the processor's 300 s: padding is masked, but takes most of the time.

    At least one window of the extractor's transform is padding, so all frames with audio equal the processor's.
    """

    def audio_settings(self, waveforms: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return the number of samples that audio is padded to."""
        extractor = self.processor.feature_extractor
        seconds = -(-(max(map(len, waveforms)) + extractor.n_fft) // SAMPLE_RATE)
        return {"max_length": min(seconds * SAMPLE_RATE, extractor.n_samples)}


class ThinkerLM(TransformersLM):
    """Loaded from a whole checkpoint, and saved without a talker, which was trained on another thinker's states."""

    reads = ThinkerReader

    def save_model(self, folder: Path) -> None:
        """Write the whole model's class and config, with `enable_audio_output` false, and weights under `thinker.`."""
        config = deepcopy(self.whole)
        assert config is not None and self.of.part is not None  # set by `load` and `build`
        setattr(config, self.of.part, deepcopy(self.module.config))
        config.enable_audio_output = False  # type: ignore[union-attr]
        with torch.device("meta"):
            model = getattr(transformers, self.of.model.replace("Thinker", ""))(config)
        model.thinker = self.module
        model.generation_config = GenerationConfig()
        model.save_pretrained(folder)
        torch.save({}, folder / SPEAKERS)
