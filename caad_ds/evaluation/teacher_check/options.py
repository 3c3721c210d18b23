"""What can be answered to a row of a benchmark, and the statement by which each answer is scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caad_ds.data.instructions import Instructions
from caad_ds.evaluation.benchmarks.benchmark import Benchmark
from caad_ds.evaluation.benchmarks.items import AskedRow
from caad_ds.utils.errors import UserError

MOST = 26  # more are the answers to open questions; each takes a forward of its own


@dataclass(frozen=True)
class Options:
    """Of an instruction file, by its statements; without one the choices of a question, or else the answers that its
    subset knows, each its own statement."""

    benchmark: Benchmark
    instructions: Instructions | None = None

    def of(self, row: AskedRow) -> dict[str, str]:
        """The statement of each option, in order."""
        if self.instructions is not None:
            return self.instructions.attributes[row.subset].options
        return {option: option for option in row.choices or self.benchmark.options.get(row.subset, ())}

    def usable(self, rows: Sequence[AskedRow], file: Path | None) -> tuple[list[AskedRow], list[dict]]:
        """The rows whose right answer is one of their options, and the others with the reason.

        UserError where the instruction file `file` lacks a subset.
        """
        known, rejected = [], []
        for row in rows:
            if self.instructions is not None and row.subset not in self.instructions.attributes:
                have = ", ".join(self.instructions.attributes)
                raise UserError(
                    f"{file}: has no attribute {row.subset}, a subset of the benchmark (it has {have}); add it"
                )
            if (reason := self._fault(row, file)) is None:
                known.append(row)
            else:
                rejected.append({"id": row.id, "reason": reason})
        return known, rejected

    def right(self, row: AskedRow, answers: Sequence[str]) -> list[bool]:
        """Whether each of a row's answers, one under each condition, is right by the benchmark's rule."""
        return [self.benchmark.verdicts(item, text)["right"] for item, text in zip(row.items(), answers, strict=True)]

    def _fault(self, row: AskedRow, file: Path | None) -> str | None:
        options = self.of(row)
        if self.instructions is not None:
            return None if row.gt in options else f"gt {row.gt!r} is no option of {row.subset} in {file}"
        if not all(option.strip() for option in options):
            return "one of its choices is empty, and an empty text has no likelihood"
        if not 2 <= len(options) <= MOST:
            return f"{row.subset} has {len(options)} options, and a check takes 2 to {MOST}; give --instructions"
        return None
