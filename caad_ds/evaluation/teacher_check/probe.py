"""A teacher asked about the rows of a benchmark: its options' likelihoods and its answers, kept in a journal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caad_ds.evaluation.benchmarks.items import AskedRow, Item
from caad_ds.evaluation.teacher_check.encoded_clips import EncodedClips
from caad_ds.evaluation.teacher_check.journal import CheckJournal
from caad_ds.evaluation.teacher_check.option_likelihoods import log_likelihoods
from caad_ds.evaluation.teacher_check.options import Options
from caad_ds.evaluation.teacher_check.signals import Signal, signals
from caad_ds.evaluation.teacher_check.teacher_answers import answers
from caad_ds.generation.model import Model
from caad_ds.utils.progress import progress


@dataclass
class Probe:
    """Asks about rows under some conditions what the journal does not hold yet, and keeps it there under `part`.

    `conditions`: none for all of the benchmark's. `rejected` has the reason, by id, of rows that cannot be asked;
    `others` are the items that negative shuffled takes audio from.
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
        self._ears = EncodedClips(self.loaded, self.negatives, self.others)

    @property
    def signals(self) -> list[Signal]:
        """Those whose likelihoods are asked for."""
        return signals(self.negatives, self.alphas)

    @property
    def stage(self) -> str:
        """Under which the journal has the likelihoods."""
        return f"{self.part}: options"

    def likelihoods(
        self, rows: Sequence[AskedRow], what: str, after: Callable[[bool], None] = lambda ended: None
    ) -> dict[str, dict[Signal, np.ndarray]]:
        """`known` of the rows, after asking about those that are not; `what` names it to the user.

        `after` is called when something was found, with whether a subset ended.
        """

        def ask(asked: list[AskedRow], items: list[Item]) -> dict[str, Any]:
            told = self._statements(asked[0])
            found = log_likelihoods(self.loaded, items, self._ears, told, self.negatives, self.alphas)
            parts = np.split(np.stack([found[signal] for signal in self.signals]), len(asked), axis=1)
            return {row.id: part.tolist() for row, part in zip(asked, parts, strict=True)}

        def prompts(row: AskedRow) -> int:
            return len(self.conditions) * (1 if self._ears.shares else len(self.options.of(row)))

        self._ask(self.stage, rows, what, ask, prompts, self._statements, after)
        return self.known(rows)

    def known(self, rows: Sequence[AskedRow]) -> dict[str, dict[Signal, np.ndarray]]:
        """For each row that has been asked, by id: the options' log-likelihoods [conditions, options] by signal."""
        found = {row.id: self.journal.get(self.stage, row.id) for row in rows}
        return {
            name: dict(zip(self.signals, np.array(values), strict=True))
            for name, values in found.items()
            if values is not None
        }

    def answers(
        self, rows: Sequence[AskedRow], wanted: Sequence[Signal], what: str
    ) -> dict[str, dict[Signal, list[str]]]:
        """For each row that can be asked, by id: its greedy answers in the order of the conditions, by signal."""
        stage = f"{self.part}: answers, {', '.join(signal.name for signal in wanted)}"

        def ask(asked: list[AskedRow], items: list[Item]) -> dict[str, Any]:
            told = answers(self.loaded, items, self._ears, wanted, self.negatives, self.max_new_tokens)
            each, size = [told[signal] for signal in wanted], len(self.conditions)
            return {row.id: [texts[k * size :][:size] for texts in each] for k, row in enumerate(asked)}

        def prompts(row: AskedRow) -> int:
            return len(self.conditions) * sum(1 if signal.negative is None else 2 for signal in wanted)

        self._ask(stage, rows, what, ask, prompts, lambda row: ())
        found = {row.id: self.journal.get(stage, row.id) for row in rows}
        return {name: dict(zip(wanted, each, strict=True)) for name, each in found.items() if each is not None}

    def doubtful(self, rows: Sequence[AskedRow]) -> list[dict]:
        """The rows that were asked about a clip which a rule finds unusable, `{id, reason}`."""
        reasons = {row.id: self.journal.get(self._doubtful, row.id) for row in rows}
        return [{"id": name, "reason": reason} for name, reason in reasons.items() if reason]

    def _statements(self, row: AskedRow) -> tuple[str, ...]:
        return tuple(self.options.of(row).values())

    @property
    def _doubtful(self) -> str:
        return f"{self.part}: doubtful"

    def _ask(
        self, stage: str, rows: Sequence[AskedRow], what: str,
        ask: Callable[[list[AskedRow], list[Item]], dict[str, Any]], prompts: Callable[[AskedRow], int],
        alike: Callable[[AskedRow], tuple], after: Callable[[bool], None] = lambda ended: None,
    ) -> None:  # fmt: skip
        """Let `ask` find what the journal lacks of the rows, in batches of one subset whose rows are `alike`, with
        `prompts` for each row.

        The batches are the same however much is known, since sums are rounded otherwise in other batches.
        """
        with progress(what, len(rows)) as advance:
            groups: dict[tuple, list[AskedRow]] = {}
            for row in rows:
                groups.setdefault((row.subset, alike(row)), []).append(row)
            last = {subset: ours[-1].id for (subset, _), ours in groups.items()}  # of its last group
            for (subset, _), ours in groups.items():
                size = max(1, self.batch_size // prompts(ours[0]))
                for start in range(0, len(ours), size):
                    batch = ours[start : start + size]
                    asked, items = self._askable(batch) if self._lacking(stage, batch) else ([], [])
                    if self._lacking(stage, asked):
                        doubted = self._ears.doubted(items)
                        self.journal.put(self._doubtful, {row["id"]: row["reason"] for row in doubted})
                        self.journal.put(stage, ask(asked, items))  # last: what is here is not asked about again
                        after(batch[-1].id == last[subset])
                    advance(len(batch))

    def _lacking(self, stage: str, rows: Sequence[AskedRow]) -> bool:
        """Whether the journal lacks any of the rows."""
        return any(self.journal.get(stage, row.id) is None for row in rows)

    def _askable(self, batch: Sequence[AskedRow]) -> tuple[list[AskedRow], list[Item]]:
        """The rows that can be written and heard under all conditions, and their items."""
        items = [item for row in batch for item in row.items() if item.condition in self.conditions]
        self.loaded.askable(items, self.max_new_tokens, self.rejected)
        items = self._ears.encode([item for item in items if item.id not in self.rejected])
        self.rejected |= {row["id"]: row["reason"] for row in self._ears.rejected(i for r in batch for i in r.items())}
        heard = {item.id for item in items}
        return [row for row in batch if row.id in heard], items
