"""Compute a teacher's option likelihoods and answers for benchmark rows, and keep them in a journal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caad_ds.evaluation.benchmarks.items import BenchmarkRow, Item
from caad_ds.evaluation.teacher_check.answer_options import Options
from caad_ds.evaluation.teacher_check.check_journal import CheckJournal
from caad_ds.evaluation.teacher_check.contrast_signals import Signal, signals
from caad_ds.evaluation.teacher_check.encoded_clips import EncodedClips
from caad_ds.evaluation.teacher_check.option_likelihoods import log_likelihoods
from caad_ds.evaluation.teacher_check.teacher_answers import answers
from caad_ds.generation.model import Model
from caad_ds.utils.progress import progress


@dataclass
class Probe:
    """Compute what the journal lacks about rows under some conditions, and store it there under `part`.

    `conditions`: empty for all of the benchmark's. `rejected` holds the reason, by id, of rows that cannot be used;
    `others` are the items that negative `shuffled` takes audio from.
    """

    loaded: Model
    negatives: Sequence[str]
    alphas: Sequence[float]
    options: Options
    journal: CheckJournal
    batch_size: int
    max_new_tokens: int
    part: str = "benchmark"
    conditions: Sequence[str | None] = ()
    rejected: dict[str, str] = field(default_factory=dict)
    others: Sequence[Item] = ()

    def __post_init__(self) -> None:
        self.conditions = self.conditions or self.options.benchmark.conditions
        self._encoded = EncodedClips(self.loaded, self.negatives, self.others)

    @property
    def signals(self) -> list[Signal]:
        """The signals whose likelihoods are computed."""
        return signals(self.negatives, self.alphas)

    @property
    def stage(self) -> str:
        """The journal's key of the likelihoods."""
        return f"{self.part}: options"

    def likelihoods(
        self, rows: Sequence[BenchmarkRow], label: str, after: Callable[[bool], None] = lambda ended: None
    ) -> dict[str, dict[Signal, np.ndarray]]:
        """Return `known` of the rows, after computing what is missing; `label` is that of the progress bar.

        `after` is called after each computed batch, with whether a subset is finished.
        """

        def compute(batch: list[BenchmarkRow], items: list[Item]) -> dict[str, Any]:
            statements = self._statements(batch[0])
            found = log_likelihoods(self.loaded, items, self._encoded, statements, self.negatives, self.alphas)
            parts = np.split(np.stack([found[signal] for signal in self.signals]), len(batch), axis=1)
            return {row.id: part.tolist() for row, part in zip(batch, parts, strict=True)}

        def prompts(row: BenchmarkRow) -> int:
            return len(self.conditions) * (1 if self._encoded.shares else len(self.options.of(row)))

        self._compute(self.stage, rows, label, compute, prompts, self._statements, after)
        return self.known(rows)

    def known(self, rows: Sequence[BenchmarkRow]) -> dict[str, dict[Signal, np.ndarray]]:
        """Return, for each row in the journal, by id: the options' log-likelihoods [conditions, options] by signal."""
        found = {row.id: self.journal.get(self.stage, row.id) for row in rows}
        return {
            name: dict(zip(self.signals, np.array(values), strict=True))
            for name, values in found.items()
            if values is not None
        }

    def answers(
        self, rows: Sequence[BenchmarkRow], wanted: Sequence[Signal], label: str
    ) -> dict[str, dict[Signal, list[str]]]:
        """Return, for each usable row, by id: its greedy answers in the order of the conditions, by signal."""
        stage = f"{self.part}: answers, {', '.join(signal.name for signal in wanted)}"

        def compute(batch: list[BenchmarkRow], items: list[Item]) -> dict[str, Any]:
            texts_of = answers(self.loaded, items, self._encoded, wanted, self.negatives, self.max_new_tokens)
            size = len(self.conditions)
            return {row.id: [texts_of[signal][k * size :][:size] for signal in wanted] for k, row in enumerate(batch)}

        def prompts(row: BenchmarkRow) -> int:
            return len(self.conditions) * sum(1 if signal.negative is None else 2 for signal in wanted)

        self._compute(stage, rows, label, compute, prompts, lambda row: ())
        found = {row.id: self.journal.get(stage, row.id) for row in rows}
        return {name: dict(zip(wanted, texts, strict=True)) for name, texts in found.items() if texts is not None}

    def doubtful(self, rows: Sequence[BenchmarkRow]) -> list[dict]:
        """Return `{id, reason}` of the rows with a clip that a rule finds unusable."""
        reasons = {row.id: self.journal.get(self._doubtful, row.id) for row in rows}
        return [{"id": name, "reason": reason} for name, reason in reasons.items() if reason]

    def _statements(self, row: BenchmarkRow) -> tuple[str, ...]:
        return tuple(self.options.of(row).values())

    @property
    def _doubtful(self) -> str:
        return f"{self.part}: doubtful"

    def _compute(
        self, stage: str, rows: Sequence[BenchmarkRow], label: str,
        compute: Callable[[list[BenchmarkRow], list[Item]], dict[str, Any]], prompts: Callable[[BenchmarkRow], int],
        alike: Callable[[BenchmarkRow], tuple], after: Callable[[bool], None] = lambda ended: None,
    ) -> None:  # fmt: skip
        """Run `compute` on the rows that the journal lacks, in batches of one subset and equal `alike`; `prompts` gives
        the number of prompts per row.

        The batches do not depend on what the journal holds, because other batches round sums differently.
        """
        with progress(label, len(rows)) as advance:
            groups: dict[tuple, list[BenchmarkRow]] = {}
            for row in rows:
                groups.setdefault((row.subset, alike(row)), []).append(row)
            last = {subset: group[-1].id for (subset, _), group in groups.items()}  # of its last group
            for (subset, _), group in groups.items():
                size = max(1, self.batch_size // prompts(group[0]))
                for start in range(0, len(group), size):
                    batch = group[start : start + size]
                    usable, items = self._askable(batch) if self._lacking(stage, batch) else ([], [])
                    if self._lacking(stage, usable):
                        doubted = self._encoded.doubted(items)
                        self.journal.put(self._doubtful, {row["id"]: row["reason"] for row in doubted})
                        self.journal.put(stage, compute(usable, items))  # last: marks the rows as done
                        after(batch[-1].id == last[subset])
                    advance(len(batch))

    def _lacking(self, stage: str, rows: Sequence[BenchmarkRow]) -> bool:
        """Return whether the journal lacks any of the rows."""
        return any(self.journal.get(stage, row.id) is None for row in rows)

    def _askable(self, batch: Sequence[BenchmarkRow]) -> tuple[list[BenchmarkRow], list[Item]]:
        """Return the rows whose prompts and audio are usable under all conditions, and their items."""
        items = [item for row in batch for item in row.items() if item.condition in self.conditions]
        self.loaded.askable(items, self.max_new_tokens, self.rejected)
        items = self._encoded.encode([item for item in items if item.id not in self.rejected])
        self.rejected |= {
            row["id"]: row["reason"] for row in self._encoded.rejected(i for r in batch for i in r.items())
        }
        usable = {item.id for item in items}
        return [row for row in batch if row.id in usable], items
