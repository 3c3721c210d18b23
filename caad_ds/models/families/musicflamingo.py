"""Music Flamingo: Audio Flamingo 3 with the time of each frame rotated into its state, and a mark around each audio."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from caad_ds.models import transformers_lm
from caad_ds.models.families import audioflamingo3
from caad_ds.models.processor_reader import ProcessorReader
from caad_ds.models.prompts.audio_spans import ContentParts
from caad_ds.models.reader import Features
from caad_ds.utils.errors import UserError

FAMILY = replace(audioflamingo3.FAMILY, model_type="musicflamingo", model="MusicFlamingoForConditionalGeneration")


class MusicReader(ProcessorReader):
    """Passes only windows with a position to the model."""

    def spans(self) -> ContentParts:
        """Return spans with the begin and end tokens of an audio, which the template does not write."""
        tokenizer = self.processor.tokenizer
        if missing := [token for token in self._around() if token not in tokenizer.get_vocab()]:
            raise UserError(
                f"{tokenizer.name_or_path}: its tokenizer has no token {missing[0]!r}, which stands beside audio; give "
                "a complete folder"
            )
        return ContentParts(self._mark, *self._around())

    def extracted(self, waveforms: Sequence[np.ndarray]) -> Features:
        """Extract the processor's inputs, except a last window of one or two frames, which has no position.

        The model finds a window's audio by the positions before it: it would take this one for the first of the next
        audio, and all times there would be one window late.
        """
        features = super().extracted(waveforms)
        kept = self.processor._get_audio_token_length(features.audio["input_features_mask"].sum(-1)) > 0
        return Features({name: value[kept] for name, value in features.audio.items()}, features.positions)

    def _around(self) -> tuple[str, str]:
        return self.processor.audio_bos_token, self.processor.audio_eos_token


class MusicFlamingo(transformers_lm.TransformersLM):
    """The model, read by `MusicReader`."""

    reads = MusicReader


load = partial(transformers_lm.load, FAMILY, lm=MusicFlamingo)
build = partial(transformers_lm.build, FAMILY, lm=MusicFlamingo)
