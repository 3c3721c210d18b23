"""The answer options of benchmark rows, and the statements by which they are scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caad_ds.data.instructions import Instructions
from caad_ds.evaluation.benchmarks.benchmark import Benchmark
from caad_ds.evaluation.benchmarks.items import BenchmarkRow
from caad_ds.utils.errors import UserError

MOST = 26  # more indicate open questions; each option takes a forward


@dataclass(frozen=True)
class Options:
    """The options of an instruction file with their statements; without a file the question's choices, else the labels
    of its subset, each being its own statement."""

    benchmark: Benchmark
    instructions: Instructions | None = None

    def of(self, row: BenchmarkRow) -> dict[str, str]:
        """Return the statement of each option, in order."""
        if self.instructions is not None:
            return self.instructions.attributes[row.subset].options
        return {option: option for option in row.choices or self.benchmark.options.get(row.subset, ())}

    def usable(self, rows: Sequence[BenchmarkRow], file: Path | None) -> tuple[list[BenchmarkRow], list[dict]]:
        """Return the rows whose right answer is one of their options, and the rejected rows with the reason.

        Raises UserError if the instruction file `file` lacks a subset.
        """
        usable, rejected = [], []
        for row in rows:
            if self.instructions is not None and row.subset not in self.instructions.attributes:
                have = ", ".join(self.instructions.attributes)
                raise UserError(
                    f"{file}: has no attribute {row.subset}, a subset of the benchmark (it has {have}); add it"
                )
            if (reason := self._fault(row, file)) is None:
                usable.append(row)
            else:
                rejected.append({"id": row.id, "reason": reason})
        return usable, rejected

    def right(self, row: BenchmarkRow, answers: Sequence[str]) -> list[bool]:
        """Return whether each of a row's answers, one per condition, is right by the benchmark's rule."""
        return [self.benchmark.verdicts(item, text)["right"] for item, text in zip(row.items(), answers, strict=True)]

    def _fault(self, row: BenchmarkRow, file: Path | None) -> str | None:
        options = self.of(row)
        if self.instructions is not None:
            return None if row.gt in options else f"gt {row.gt!r} is no option of {row.subset} in {file}"
        if not all(option.strip() for option in options):
            return "one of its choices is empty, and an empty text has no likelihood"
        if not 2 <= len(options) <= MOST:
            return f"{row.subset} has {len(options)} options, and a check takes 2 to {MOST}; give --instructions"
        return None
