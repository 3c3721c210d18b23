"""What one micro-step sees: tokens, and the audio that stands among them, of one model's reading of some samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from caad_ds.data.stored_states import StoredStates

IGNORE = -100

Audio = Mapping[str, Tensor]  # what a model takes of audio, by the names of its inputs, a row for each different audio


def _none() -> Tensor:
    return torch.empty(0, dtype=torch.long)


@dataclass(frozen=True)
class Batch:
    """B tokenised samples with A audios in all, in order of appearance, as one model reads them.

    `input_ids`, `attention_mask`, `labels` are int64 [B, S]; `labels[b, t]` is the token that stands at t if it
    belongs to the answer, else -100. `audio_mask` is bool [B, S]: the positions that stand for audio. `audio` has the
    inputs of U different audios, a row each; of the A audios in the text `audio_index` int64 [A] says which row each
    is, `audio_sample` int64 [A] whose it is, and `audio_positions` int64 [A] how many positions it has. A row may have
    no place in the text. `constant` names audio that is the same in every batch, so that its encoding can be kept.
    """

    keys: list[str]
    input_ids: Tensor
    attention_mask: Tensor
    audio_mask: Tensor
    labels: Tensor
    audio: Audio = field(default_factory=dict)
    audio_index: Tensor = field(default_factory=_none)
    audio_sample: Tensor = field(default_factory=_none)
    audio_positions: Tensor = field(default_factory=_none)
    constant: str = ""

    @staticmethod
    def cat(batches: Sequence["Batch"], pad: str = "right") -> "Batch":
        """Several batches as one, padded to the longest on the side `pad`; answer rows and audios keep their order.

        Where all have the same constant, or share their audio, its rows stay as they are.
        """
        if len(batches) == 1:
            return batches[0]
        length = max(batch.input_ids.shape[1] for batch in batches)

        def column(name: str, value: int) -> Tensor:
            gaps = [length - batch.input_ids.shape[1] for batch in batches]
            sides = [(gap, 0) if pad == "left" else (0, gap) for gap in gaps]
            parts = [F.pad(getattr(batch, name), side, value=value) for batch, side in zip(batches, sides, strict=True)]
            return torch.cat(parts)

        constants = {batch.constant for batch in batches}
        constant = constants.pop() if len(constants) == 1 else ""
        audio: Audio
        if constant or all(batch.audio is batches[0].audio for batch in batches):
            audio, rows = batches[0].audio, [0] * len(batches)
        else:
            audio, rows = joined([batch.audio for batch in batches]), [len_of(batch.audio) for batch in batches]
        first_row = np.cumsum([0, *rows[:-1]]).tolist()
        first_sample = np.cumsum([0, *(len(batch.keys) for batch in batches[:-1])]).tolist()
        return Batch(
            keys=[key for batch in batches for key in batch.keys],
            input_ids=column("input_ids", 0),
            attention_mask=column("attention_mask", 0),
            audio_mask=column("audio_mask", False),
            labels=column("labels", IGNORE),
            audio=audio,
            audio_index=torch.cat([b.audio_index + o for b, o in zip(batches, first_row, strict=True)]),
            audio_sample=torch.cat([b.audio_sample + o for b, o in zip(batches, first_sample, strict=True)]),
            audio_positions=torch.cat([batch.audio_positions for batch in batches]),
            constant=constant,
        )

    @property
    def is_prompt(self) -> bool:
        """Whether no sample has an answer: prompts are padded on the left, for answers to be written after them."""
        return bool((self.labels == IGNORE).all())

    @property
    def answer_rows(self) -> Tensor:
        """Flat indices b * S + t, int64 [N], of the positions that predict an answer token (the next one)."""
        predicts = self.labels[:, 1:] != IGNORE
        rows = torch.zeros_like(self.labels, dtype=torch.bool)
        rows[:, :-1] = predicts
        return rows.flatten().nonzero().squeeze(-1)

    @property
    def targets(self) -> Tensor:
        """The answer tokens, int64 [N], in the order of `answer_rows`."""
        shifted = self.labels[:, 1:]
        return shifted[shifted != IGNORE]

    @property
    def sample_of_row(self) -> Tensor:
        """For each answer row, int64 [N], which of the B samples it belongs to."""
        return self.answer_rows // self.labels.shape[1]

    def placed(self) -> Audio:
        """The audio with a row for each of the A audios in the text, in their order."""
        return {name: value[self.audio_index] for name, value in self.audio.items()}

    def without_audio(self, samples: Tensor | None = None) -> "Batch":
        """The batch with the audio of the samples in `samples` (bool [B]; None: of all) removed, as if it never was.

        What remains moves together: to the beginning where answers follow, to the end where an answer is to be written.
        Hiding the positions instead would not do: to a sliding window, a convolution or a state they would still be
        there. The length S stays, in padding.
        """
        chosen = torch.ones_like(self.audio_mask[:, 0]) if samples is None else samples
        removed = self.audio_mask & chosen[:, None]
        kept = self.attention_mask.bool() & ~removed
        order = (kept if self.is_prompt else ~kept).to(torch.uint8).argsort(dim=1, stable=True)
        kept = kept.gather(1, order)
        heard = ~chosen[self.audio_sample]
        # A pad must not hold the id of a placeholder: families count it whatever the mask says.
        ids = torch.where(removed, self._filler(), self.input_ids)
        return replace(
            self,
            input_ids=ids.gather(1, order),
            attention_mask=kept.to(self.attention_mask.dtype),
            audio_mask=(self.audio_mask & ~removed).gather(1, order),
            labels=self.labels.gather(1, order),
            audio=self.audio if samples is not None else {name: value[:0] for name, value in self.audio.items()},
            audio_index=self.audio_index[heard],
            audio_sample=self.audio_sample[heard],
            audio_positions=self.audio_positions[heard],
            constant="",
        )

    def with_audio(self, audio: Audio, index: Tensor, positions: Tensor, constant: str = "") -> "Batch":
        """The batch with other audio in the place of each of its own: `index`, `positions` int64 [A].

        Where an audio has another number of positions than before, what follows moves.
        """
        same = torch.equal(positions, self.audio_positions)
        moved = self if same else self._resized(positions)
        return replace(moved, audio=audio, audio_index=index, audio_positions=positions, constant=constant)

    def select(self, rows: Tensor) -> "Batch":
        """The samples of these numbers, int64 [R], in this order; each at most once."""
        order = torch.full((len(self.keys),), -1, dtype=torch.long, device=rows.device)
        order[rows] = torch.arange(len(rows), device=rows.device)
        sample = order[self.audio_sample]
        by_sample = sample.argsort(stable=True)
        kept = by_sample[sample[by_sample] >= 0]
        return replace(
            self,
            keys=[self.keys[row] for row in rows.tolist()],
            **{name: getattr(self, name)[rows] for name in ("input_ids", "attention_mask", "audio_mask", "labels")},
            audio_index=self.audio_index[kept],
            audio_sample=sample[kept],
            audio_positions=self.audio_positions[kept],
        )

    def prompts(self, rows: Tensor) -> "Batch":
        """The prompts of the samples of these numbers, int64 [R], padded on the left, with their audio alone."""
        chosen = self.select(rows)
        kept = chosen._in_prompt()
        order = kept.to(torch.uint8).argsort(dim=1, stable=True)[:, -int(kept.sum(1).max()) :]
        kept = kept.gather(1, order)
        heard, index = chosen.audio_index.unique(return_inverse=True)
        return replace(
            chosen,
            audio={name: value[heard] for name, value in self.audio.items()},
            audio_index=index,
            constant="",
            input_ids=chosen.input_ids.gather(1, order).where(kept, self._filler()),
            attention_mask=kept.to(self.attention_mask.dtype),
            audio_mask=chosen.audio_mask.gather(1, order) & kept,
            labels=torch.full_like(order, IGNORE),
        )

    def with_answers(self, rows: Tensor, answers: Sequence[Tensor]) -> "Batch":
        """The batch in which the samples of these numbers, int64 [R], have other answers, int64 [T] each.

        Prompts begin in the first column, as they do where answers follow.
        """
        begins = self._in_prompt().sum(1)[rows].tolist()
        ends = [begin + len(answer) for begin, answer in zip(begins, answers, strict=True)]
        width = max([self.input_ids.shape[1], *ends])
        fill = {"input_ids": int(self._filler()), "attention_mask": 0, "audio_mask": 0, "labels": IGNORE}
        columns: dict[str, Any] = {}
        for name, value in fill.items():
            columns[name] = F.pad(getattr(self, name), (0, width - self.input_ids.shape[1]), value=value)
        for row, begin, end, answer in zip(rows.tolist(), begins, ends, answers, strict=True):
            for name, value in fill.items():
                columns[name][row, begin:] = value
            columns["input_ids"][row, begin:end] = answer
            columns["labels"][row, begin:end] = answer
            columns["attention_mask"][row, begin:end] = 1
        used = int(columns["attention_mask"].sum(1).max())
        return replace(self, **{name: value[:, :used] for name, value in columns.items()})

    def ignoring(self, samples: Tensor) -> "Batch":
        """The batch in which the answers of these samples, bool [B], count for nothing."""
        return replace(self, labels=self.labels.masked_fill(samples[:, None], IGNORE))

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = {name: value.to(device, non_blocking=True) for name, value in tensors.items()}
        audio = {name: value.to(device, non_blocking=True) for name, value in self.audio.items()}
        return replace(self, **moved, audio=audio)

    def _in_prompt(self) -> Tensor:
        """Bool [B, S]: the positions that are attended and stand before an answer."""
        return self.attention_mask.bool() & ((self.labels != IGNORE).cumsum(1) == 0)

    def _filler(self) -> Tensor:
        """An id that stands for no audio."""
        return self.input_ids.flatten()[(~self.audio_mask).flatten().to(torch.uint8).argmax()]

    def _resized(self, positions: Tensor) -> "Batch":
        """The batch with so many positions for each audio, int64 [A]."""
        filler = int(self._filler())
        old, new = iter(self.audio_positions.tolist()), iter(positions.tolist())
        columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "audio_mask": []}
        for ids, kept, heard, labels in zip(
            *(getattr(self, name).tolist() for name in ("input_ids", "attention_mask", "audio_mask", "labels")),
            strict=True,
        ):
            row: list[tuple[int, int, bool]] = []
            here = 0  # positions of the present audio that are left
            for token, attended, is_audio, label in zip(ids, kept, heard, labels, strict=True):
                if not attended:
                    continue
                if not is_audio:
                    row.append((token, label, False))
                    continue
                if here == 0:
                    here = next(old)
                    row += [(token, label, True)] * next(new)
                here -= 1
            for name, values in zip(columns, zip(*row, strict=True), strict=True):
                columns[name].append(list(values))
        lengths = [len(row) for row in columns["input_ids"]]
        length = max(lengths)
        on_left = self.is_prompt

        def padded(rows: list[list[int]], value: int) -> Tensor:
            gaps = [[value] * (length - len(row)) for row in rows]
            made = [gap + row if on_left else row + gap for row, gap in zip(rows, gaps, strict=True)]
            return torch.tensor(made, device=self.input_ids.device)

        return replace(
            self,
            input_ids=padded(columns["input_ids"], filler),
            attention_mask=padded([[1] * n for n in lengths], 0),
            audio_mask=padded(columns["audio_mask"], 0).bool(),
            labels=padded(columns["labels"], IGNORE),
        )


@dataclass(frozen=True)
class PairedBatch:
    """The same samples as teacher and student read them.

    `teacher` is the student's own batch where both read alike, None where no teacher runs. `negative` is what
    `negative` of the configuration makes of the teacher's: its second path; without a teacher what audio dropout puts
    in. `stored` has the teacher's states from a cache, where there is one.
    """

    student: Batch
    teacher: Batch | None = None
    negative: Batch | None = None
    stored: StoredStates | None = None

    @property
    def keys(self) -> list[str]:
        """The samples' ids."""
        return self.student.keys

    def ignoring(self, samples: Tensor) -> "PairedBatch":
        """The same samples, of which the answers of these, bool [B], count for nothing."""
        kept = ~samples[self.student.sample_of_row]
        return self._each(lambda batch: batch.ignoring(samples), lambda stored: stored.rows(kept))

    def to(self, device: torch.device | str) -> "PairedBatch":
        """The same on a device."""
        return self._each(lambda batch: batch.to(device), lambda stored: stored.to(device))

    def _each(self, change: Any, change_stored: Any) -> "PairedBatch":
        student = change(self.student)
        teacher = student if self.teacher is self.student else self.teacher and change(self.teacher)
        stored = self.stored and change_stored(self.stored)
        return PairedBatch(student, teacher, self.negative and change(self.negative), stored)


def len_of(audio: Audio) -> int:
    """How many rows audio inputs have."""
    return len(next(iter(audio.values()), ()))


def joined(parts: Sequence[Audio]) -> Audio:
    """The rows of several, padded with zeros to the longest; those without rows may lack the names."""
    there = [part for part in parts if len_of(part)] or parts[:1]
    if any(part.keys() != there[0].keys() for part in there):
        raise ValueError(f"audio inputs of different names: {', '.join(' '.join(part) for part in there)}")
    return {name: _padded([part[name] for part in there]) for name in there[0]}


def _padded(parts: Sequence[Tensor]) -> Tensor:
    sizes = [max(part.shape[dim] for part in parts) for dim in range(1, parts[0].dim())]
    made = []
    for part in parts:
        gaps = [size - have for size, have in zip(sizes, part.shape[1:], strict=True)]
        made.append(F.pad(part, [each for gap in reversed(gaps) for each in (0, gap)]) if any(gaps) else part)
    return torch.cat(made)
