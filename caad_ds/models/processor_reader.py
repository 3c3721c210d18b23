"""Batches by a processor of transformers: its template, its placeholders, its features."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from caad_ds.data.audio.levels import SAMPLE_RATE
from caad_ds.models.prompts.audio_spans import ContentParts
from caad_ds.models.prompts.chat_template import TemplateSettings, freeze_template
from caad_ds.models.prompts.prompt_encoder import PromptEncoder
from caad_ds.models.reader import AFTER_AUDIO, NO_TRANSCRIPT, TRANSCRIPT, Features, Reader

NOT_AUDIO = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


class ProcessorReader(Reader):
    """As many positions for an audio as the processor gives it; a mask tells the model how long it was.

    The field's own models have no transcription in the prompt, unless the model's tokenizer_config.json says so.
    """

    def __init__(
        self,
        processor: Any,
        family: str,
        longest_seconds: Callable[[Any], float],
        shortest_seconds: float = 0.0,
        template: TemplateSettings | None = None,
        **prompts: Any,
    ):
        super().__init__()
        self.family, self.processor = family, processor
        self.longest_seconds, self.shortest_seconds = longest_seconds(processor), shortest_seconds
        tokenizer = processor.tokenizer
        tokenizer.chat_template = processor.chat_template or tokenizer.chat_template
        freeze_template(tokenizer, template)
        processor.chat_template = tokenizer.chat_template
        self._mark = processor.audio_token
        # A tokenizer of its own: it keeps the padding of the last call, and would be saved with it.
        self._features = copy.copy(processor)
        self._features.tokenizer = copy.deepcopy(tokenizer)
        self.prompts = PromptEncoder(
            tokenizer,
            0,
            spans=ContentParts(self._mark),
            transcripts=tokenizer.init_kwargs.get(TRANSCRIPT, NO_TRANSCRIPT) == AFTER_AUDIO,
            **prompts,
        )
        [most] = self.features([np.zeros(int(self.longest_seconds * SAMPLE_RATE), np.float32)]).positions
        self._positions_per_second = most / self.longest_seconds

    def features(self, waveforms: Sequence[np.ndarray]) -> Features:
        """The processor's own inputs, and the number of placeholders that it writes for each audio."""
        made = self._features(
            text=[self._mark] * len(waveforms),
            audio=list(waveforms),
            text_kwargs={"padding": True},
            audio_kwargs={"sampling_rate": SAMPLE_RATE},
            return_tensors="pt",
        )
        positions = (made["input_ids"] == self.prompts.placeholder).sum(1).tolist()
        audio = {name: each for name, each in made.items() if isinstance(each, Tensor) and name not in NOT_AUDIO}
        return Features(audio, positions)

    def positions_of(self, seconds: float) -> int:
        """As many as the longest audio has for its length, and one for rounding."""
        return math.ceil(seconds * self._positions_per_second) + 1

    def features_identity(self) -> dict[str, Any]:
        """The processor's feature extractor, and its placeholder."""
        return {"features": self.processor.feature_extractor.to_json_string(), "placeholder": self._mark}
