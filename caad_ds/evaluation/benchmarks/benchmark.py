"""Benchmarks by their kind, and what identifies one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from caad_ds.evaluation.benchmarks.dynamic_superb.dynamic_superb import DynamicSuperb
from caad_ds.evaluation.benchmarks.items import Item
from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark as McrBench
from caad_ds.utils.errors import UserError


class Benchmark(Protocol):
    """What evaluation needs of a benchmark: its items, every row under every one of `conditions`."""

    kind: ClassVar[str]

    @property
    def conditions(self) -> Sequence[str | None]:
        """Under which each row is asked."""

    @property
    def options(self) -> Mapping[str, list[str]]:
        """The answers that each subset knows."""

    @property
    def rejected(self) -> list[dict]:
        """An `{id, reason}` for what cannot be asked."""

    @property
    def limited(self) -> bool:
        """Whether rows were left out."""

    @property
    def items(self) -> list[Item]:
        """The conditions of a row one after the other, rows of a subset together."""


KINDS = {kind.kind: kind for kind in (McrBench, DynamicSuperb)}


def load(path: Path, kind: str | None = None, limit: int | None = None) -> Benchmark:
    """The benchmark in a folder, or a file; `kind` (one of KINDS) is found out where it is not given.

    `limit` keeps the first usable rows of each subset. UserError when there is none, or it could be either.
    """
    if not path.exists():
        raise UserError(f"{path}: no such folder; give the one that holds the benchmark")
    found = [name for name, benchmark in KINDS.items() if benchmark.is_in(path)] if kind is None else [kind]
    if not found:
        raise UserError(
            f"{path}: no benchmark in it; MCR-BENCH has <NAME>/<NAME>.json, Dynamic-SUPERB <instance>/ with Parquet or "
            "Arrow files or metadata.json, and both may be in *.jsonl"
        )
    if len(found) > 1:
        raise UserError(f"{path}: could be {' or '.join(found)}; say which by --kind")
    return KINDS[found[0]].load(path, limit)
