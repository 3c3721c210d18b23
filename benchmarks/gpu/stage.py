"""A stage of benchmarks/gpu.sh: a command with a time limit and requirements."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.gpu.machine import Machine

Need = Callable[[Machine], str | None]  # describes what is missing, None for nothing


@dataclass(frozen=True)
class Stage:
    """Runs `argv` under this interpreter in the repository's root, for `seconds` plus the time left by earlier stages.

    If one of `needs` is missing, the stage is skipped; if one of `parts` is, the benchmark leaves out those rows.
    """

    name: str
    title: str
    argv: tuple[str, ...]
    seconds: float
    needs: tuple[Need, ...] = ()
    parts: tuple[Need, ...] = ()


@dataclass(frozen=True)
class Result:
    """The result of a stage.

    Args:
        status: passed, failed, stopped (at its limit), skipped, interrupted or not run.
        reason: why it is not passed.
        limit: seconds that the stage was given.
        output: everything that it printed.
        without: the missing parts.
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
        """Return whether the stage should have given figures and did not."""
        return self.status in ("failed", "stopped", "interrupted")
