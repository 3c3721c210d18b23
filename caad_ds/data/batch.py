"""Batches of micro-steps: a model's tokens and audio inputs of some samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from caad_ds.data.stored_states import StoredStates
from caad_ds.utils.device import copied

IGNORE = -100

Audio = Mapping[str, Tensor]  # a model's audio inputs by name, with a row for each distinct audio


def _none() -> Tensor:
    return torch.empty(0, dtype=torch.long)


@dataclass(frozen=True)
class Batch:
    """B samples tokenised for one model, with A audios in all, in order of appearance.

    `input_ids`, `attention_mask`, `labels` are int64 [B, S]; `labels[b, t]` is the token at t if it belongs to the
    answer, else -100. `audio_mask`, bool [B, S], marks positions of audio. `audio` has the inputs of U distinct audios,
    a row each. For the A audios in the text, `audio_index` int64 [A] is the row, `audio_sample` int64 [A] the sample,
    and `audio_positions` int64 [A] the number of positions. A row may be unused in the text. `constant` names audio
    that is the same in every batch, whose encoding can be cached.
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
        """Concatenate batches, padded to the longest on the side `pad`; answer rows and audios keep their order.

        If all have the same constant, or share their audio, its rows are not repeated.
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
        """Whether no sample has an answer: such prompts are padded on the left, for decoding."""
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
        """The sample of each answer row, int64 [N]."""
        return self.answer_rows // self.labels.shape[1]

    def placed(self) -> Audio:
        """Return the audio inputs with a row for each of the A audios in the text, in order."""
        return {name: value[self.audio_index] for name, value in self.audio.items()}

    def without_audio(self, samples: Tensor | None = None) -> "Batch":
        """Return the batch without the audio of the samples in `samples` (bool [B]; None: of all).

        Its positions are removed, and the rest moves to the beginning, or to the end if an answer is to be decoded.
        Masking them would not be enough: a sliding window, a convolution or a state would still see them. The length S
        stays, with padding.
        """
        chosen = torch.ones_like(self.audio_mask[:, 0]) if samples is None else samples
        removed = self.audio_mask & chosen[:, None]
        kept = self.attention_mask.bool() & ~removed
        order = (kept if self.is_prompt else ~kept).to(torch.uint8).argsort(dim=1, stable=True)
        kept = kept.gather(1, order)
        remaining = ~chosen[self.audio_sample]
        # Padding must not have a placeholder's id: families count it even if it is masked.
        ids = torch.where(removed, self._filler(), self.input_ids)
        return replace(
            self,
            input_ids=ids.gather(1, order),
            attention_mask=kept.to(self.attention_mask.dtype),
            audio_mask=(self.audio_mask & ~removed).gather(1, order),
            labels=self.labels.gather(1, order),
            audio=self.audio if samples is not None else {name: value[:0] for name, value in self.audio.items()},
            audio_index=self.audio_index[remaining],
            audio_sample=self.audio_sample[remaining],
            audio_positions=self.audio_positions[remaining],
            constant="",
        )

    def with_audio(self, audio: Audio, index: Tensor, positions: Tensor, constant: str = "") -> "Batch":
        """Replace the batch's audio: `index`, `positions` int64 [A].

        If an audio's number of positions changes, what follows moves.
        """
        same = torch.equal(positions, self.audio_positions)
        moved = self if same else self._resized(positions)
        return replace(moved, audio=audio, audio_index=index, audio_positions=positions, constant=constant)

    def select(self, rows: Tensor) -> "Batch":
        """Select the samples `rows`, int64 [R], in this order; each at most once."""
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
        """Return the prompts of the samples `rows`, int64 [R], padded on the left, with only their audio."""
        chosen = self.select(rows)
        kept = chosen._in_prompt()
        order = kept.to(torch.uint8).argsort(dim=1, stable=True)[:, -int(kept.sum(1).max()) :]
        kept = kept.gather(1, order)
        used, index = chosen.audio_index.unique(return_inverse=True)
        return replace(
            chosen,
            audio={name: value[used] for name, value in self.audio.items()},
            audio_index=index,
            constant="",
            input_ids=chosen.input_ids.gather(1, order).where(kept, self._filler()),
            attention_mask=kept.to(self.attention_mask.dtype),
            audio_mask=chosen.audio_mask.gather(1, order) & kept,
            labels=torch.full_like(order, IGNORE),
        )

    def with_answers(self, rows: Tensor, answers: Sequence[Tensor]) -> "Batch":
        """Replace the answers of the samples `rows`, int64 [R], by int64 [T] each.

        Prompts begin in the first column, as in any batch with answers.
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
        """Return the batch with the answers of these samples, bool [B], ignored."""
        return replace(self, labels=self.labels.masked_fill(samples[:, None], IGNORE))

    def to(self, device: torch.device | str) -> "Batch":
        """Copy the batch to a device."""
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: copied(value, device) for name, value in tensors.items()}
        audio = {name: copied(value, device) for name, value in self.audio.items()}
        return replace(self, **moved, audio=audio)

    def _in_prompt(self) -> Tensor:
        """Return the attended positions before an answer, bool [B, S]."""
        return self.attention_mask.bool() & ((self.labels != IGNORE).cumsum(1) == 0)

    def _filler(self) -> Tensor:
        """Return an id that is not an audio placeholder."""
        return self.input_ids.flatten()[(~self.audio_mask).flatten().to(torch.uint8).argmax()]

    def _resized(self, positions: Tensor) -> "Batch":
        """Return the batch with other numbers of positions for its audios, int64 [A]."""
        filler = int(self._filler())
        old, new = iter(self.audio_positions.tolist()), iter(positions.tolist())
        columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "audio_mask": []}
        for ids, mask, is_audio, labels in zip(
            *(getattr(self, name).tolist() for name in ("input_ids", "attention_mask", "audio_mask", "labels")),
            strict=True,
        ):
            row: list[tuple[int, int, bool]] = []
            left = 0  # remaining positions of the current audio
            for token, attended, audio, label in zip(ids, mask, is_audio, labels, strict=True):
                if not attended:
                    continue
                if not audio:
                    row.append((token, label, False))
                    continue
                if left == 0:
                    left = next(old)
                    row += [(token, label, True)] * next(new)
                left -= 1
            for name, values in zip(columns, zip(*row, strict=True), strict=True):
                columns[name].append(list(values))
        lengths = [len(row) for row in columns["input_ids"]]
        length = max(lengths)
        on_left = self.is_prompt

        def padded(rows: list[list[int]], value: int) -> Tensor:
            gaps = [[value] * (length - len(row)) for row in rows]
            rows = [gap + row if on_left else row + gap for row, gap in zip(rows, gaps, strict=True)]
            return torch.tensor(rows, device=self.input_ids.device)

        return replace(
            self,
            input_ids=padded(columns["input_ids"], filler),
            attention_mask=padded([[1] * n for n in lengths], 0),
            audio_mask=padded(columns["audio_mask"], 0).bool(),
            labels=padded(columns["labels"], IGNORE),
        )


@dataclass(frozen=True)
class PairedBatch:
    """Batches of the same samples for teacher and student.

    `teacher` is the student's batch if both read alike, None if no teacher runs. `negative` is the teacher's second
    path, made by the configured negative; without a teacher, the replacement of audio dropout. `stored` has the
    teacher's states from a cache, if there is one.
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
        """Return the same samples with the answers of these, bool [B], ignored."""
        kept = ~samples[self.student.sample_of_row]
        return self._each(lambda batch: batch.ignoring(samples), lambda stored: stored.rows(kept))

    def to(self, device: torch.device | str) -> "PairedBatch":
        """Copy to a device."""
        return self._each(lambda batch: batch.to(device), lambda stored: stored.to(device))

    def _each(self, change: Any, change_stored: Any) -> "PairedBatch":
        student = change(self.student)
        teacher = student if self.teacher is self.student else self.teacher and change(self.teacher)
        stored = self.stored and change_stored(self.stored)
        return PairedBatch(student, teacher, self.negative and change(self.negative), stored)


def len_of(audio: Audio) -> int:
    """Return the number of rows of audio inputs."""
    return len(next(iter(audio.values()), ()))


def joined(parts: Sequence[Audio]) -> Audio:
    """Concatenate the rows of several, padded with zeros to the longest; those without rows may lack the names."""
    nonempty = [part for part in parts if len_of(part)] or parts[:1]
    if any(part.keys() != nonempty[0].keys() for part in nonempty):
        raise ValueError(f"audio inputs of different names: {', '.join(' '.join(part) for part in nonempty)}")
    return {name: _padded([part[name] for part in nonempty]) for name in nonempty[0]}


def _padded(parts: Sequence[Tensor]) -> Tensor:
    sizes = [max(part.shape[dim] for part in parts) for dim in range(1, parts[0].dim())]
    padded = []
    for part in parts:
        gaps = [size - have for size, have in zip(sizes, part.shape[1:], strict=True)]
        padded.append(F.pad(part, [width for gap in reversed(gaps) for width in (0, gap)]) if any(gaps) else part)
    return torch.cat(padded)
