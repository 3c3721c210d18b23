"""A stage of benchmarks/gpu.sh: a command with a limit, and what it cannot do without."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.gpu.machine import Machine

Need = Callable[[Machine], str | None]  # what is missing here, in words


@dataclass(frozen=True)
class Stage:
    """`argv` runs under this interpreter in the repository's root, for `seconds` and what the stages before have left.

    Where one of `needs` is missing the stage is skipped; where one of `parts` is, the benchmark leaves out those rows.
    """

    name: str
    title: str
    argv: tuple[str, ...]
    seconds: float
    needs: tuple[Need, ...] = ()
    parts: tuple[Need, ...] = ()


@dataclass(frozen=True)
class Result:
    """What became of a stage.

    `status` is passed, failed, stopped (at its limit), skipped, interrupted or not run; `reason` says why it is not
    passed; `limit` is what the stage was given in the end; `output` is all that it printed; `without` names the parts
    that were missing.
    """

    stage: Stage
    status: str
    reason: str = ""
    seconds: float = 0.0
    limit: float = 0.0
    output: str = ""
    without: tuple[str, ...] = ()

    @property
    def bad(self) -> bool:
        """Whether the stage was to give figures and did not."""
        return self.status in ("failed", "stopped", "interrupted")
