"""The kinds of benchmarks that are known by how they lie on the disk."""

from pathlib import Path

from caad_ds.evaluation.benchmarks.benchmark import Benchmark
from caad_ds.evaluation.benchmarks.dynamic_superb.dynamic_superb import DynamicSuperb
from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark as McrBench
from caad_ds.utils.errors import UserError

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
