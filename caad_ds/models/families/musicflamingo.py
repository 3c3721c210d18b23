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
    """Every window that the model is given has a position."""

    def spans(self) -> ContentParts:
        """Begin and end of an audio are tokens that the template does not write."""
        tokenizer = self.processor.tokenizer
        if missing := [token for token in self._around() if token not in tokenizer.get_vocab()]:
            raise UserError(
                f"{tokenizer.name_or_path}: its tokenizer has no token {missing[0]!r}, which stands beside audio; give "
                "a whole folder"
            )
        return ContentParts(self._mark, *self._around())

    def extracted(self, waveforms: Sequence[np.ndarray]) -> Features:
        """The processor's own inputs but for a last window of one or two frames, which has no position.

        The model finds the audio of a window by the positions before it, so that it would take this one for the first
        of the next audio, whose times would all be one window late.
        """
        made = super().extracted(waveforms)
        heard = self.processor._get_audio_token_length(made.audio["input_features_mask"].sum(-1)) > 0
        return Features({name: value[heard] for name, value in made.audio.items()}, made.positions)

    def _around(self) -> tuple[str, str]:
        return self.processor.audio_bos_token, self.processor.audio_eos_token


class MusicFlamingo(transformers_lm.TransformersLM):
    """Read by `MusicReader`."""

    reads = MusicReader


load = partial(transformers_lm.load, FAMILY, lm=MusicFlamingo)
build = partial(transformers_lm.build, FAMILY, lm=MusicFlamingo)
