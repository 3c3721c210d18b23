"""The signals of a teacher, and the token sequences of its paths."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.teacher_check.encoded_clips import EncodedClips
from caad_ds.evaluation.teacher_check.prefix_tree import Ids
from caad_ds.generation.clips import different_clips
from caad_ds.generation.model import Model
from caad_ds.generation.question import as_sample
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.prompts.prompt_encoder import Encoded
from caad_ds.utils.errors import UserError


@dataclass(frozen=True)
class Signal:
    """Logits of the teacher: z_pos (no negative), z_neg (no alpha), or z_c = (1 + alpha) z_pos - alpha z_neg."""

    negative: str | None = None
    alpha: float | None = None

    @property
    def name(self) -> str:
        """The name in tables."""
        if self.negative is None:
            return "z_pos"
        return f"z_neg {self.negative}" if self.alpha is None else f"z_c {self.negative} {self.alpha:g}"


def signals(negatives: Sequence[str], alphas: Sequence[float]) -> list[Signal]:
    """Return z_pos, then z_neg and the contrasts of each negative."""
    return [Signal(), *(Signal(negative, alpha) for negative in negatives for alpha in (None, *alphas))]


class Paths:
    """Prompts of all paths: with the audio, then with each negative instead of it.

    `audio` [n, E] holds the embeddings of the audio positions: those of the items' clips, then those of the negatives.
    Each clip has its own rows; a negative uses the same rows in every prompt.
    """

    def __init__(self, loaded: Model, items: Sequence[Item], encoded_clips: EncodedClips, negatives: Sequence[str]):
        """`encoded_clips` has encoded the items."""
        assert isinstance(loaded.lm, SpeechAudioLM)  # as `EncodedClips.shares` says
        self._reader, self.model = loaded.reader, loaded.lm.module
        constants = [encoded_clips.constant(negative) for negative in negatives]
        outputs_of_negatives = [outputs for outputs in constants if outputs is not None]
        self.audio = torch.cat([encoded_clips.outputs(items), *outputs_of_negatives]).flatten(0, 1)
        number = {clip: index for index, clip in enumerate(different_clips(items))}
        own = [[number[clip] for clip in item.clips] for item in items]
        numbers = iter(range(len(number), len(number) + len(outputs_of_negatives)))
        self._numbers: list[list[list[int]] | None] = [own]  # audio numbers by path and item; None: removed
        for outputs in constants:
            constant = None if outputs is None else next(numbers)
            self._numbers.append(None if constant is None else [[constant] * len(audios) for audios in own])
        self._items = items

    def __len__(self) -> int:
        return len(self._numbers)

    def prompts(self, encoded: Sequence[Encoded]) -> list[list[Ids]]:
        """Return the items' prompts for each path."""
        found = [
            [self._ids(prompt, None if numbers is None else numbers[k]) for k, prompt in enumerate(encoded)]
            for numbers in self._numbers
        ]
        for item, prompts in zip(self._items, zip(*found, strict=True), strict=True):
            if not all(prompts):
                raise UserError(
                    f"{item.id}: without its audio nothing comes before an answer; choose other negatives than "
                    "text_only, or write a question"
                )
        return found

    def encoded(self, answers: Sequence[str | None]) -> list[Encoded]:
        """Return the items' encoded prompts, each with its answer (None: the prompt alone)."""
        return [
            self._reader.check(as_sample(item, answer), with_answer=answer is not None)
            for item, answer in zip(self._items, answers, strict=True)
        ]

    def _ids(self, prompt: Encoded, audios: list[int] | None) -> Ids:
        if audios is None:
            return tuple(token for token, is_audio in zip(prompt.prompt, prompt.is_audio, strict=True) if not is_audio)
        queries = self._reader.prompts.num_queries
        rows = iter(-1 - (audio * queries + k) for audio in audios for k in range(queries))
        pairs = zip(prompt.prompt, prompt.is_audio, strict=True)
        return tuple(next(rows) if is_audio else token for token, is_audio in pairs)
