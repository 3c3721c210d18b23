"""`caad-ds compare`: compare several evaluations in tables and pictures."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from caad_ds.evaluation.comparison.conditions import compare_conditions
from caad_ds.evaluation.comparison.dynamic_superb import compare_dimensions
from caad_ds.evaluation.comparison.group_metrics import compare_groups
from caad_ds.evaluation.comparison.result import Comparison, save
from caad_ds.evaluation.comparison.run_folders import Runs, read_runs, read_speeds
from caad_ds.evaluation.result_kinds.conflicts import Conflicts
from caad_ds.evaluation.result_kinds.dynamic_superb import Instances
from caad_ds.evaluation.result_kinds.group_metrics import GroupMetrics
from caad_ds.utils.errors import UserError
from caad_ds.utils.formatting import counted
from caad_ds.utils.paths import existing
from caad_ds.utils.progress import waiting

COMPARED_BY: dict[type, Callable[[Runs, str, str], Comparison]] = {
    Conflicts: compare_conditions,
    Instances: compare_dimensions,
    GroupMetrics: compare_groups,
}


def compare(
    runs: Sequence[str | Path], *, baseline: str | None = None, out: str | Path | None = None, title: str | None = None
) -> Comparison:
    """Compare finished evaluations of one benchmark, as `caad-ds compare` does.

    Args:
        runs: run folders of `evaluate`; runs with the same name are seeds of one system.
        baseline: name of the system that the others are tested against; None: the first.
        out: folder for table.json, table.md and the pictures; None: nothing is written.
        title: of the table and the picture; None: the benchmark's.

    Returns:
        Scores by system and differences from the baseline, with the contents of tables and pictures.

    Raises:
        UserError: no run, an unfinished run, runs that are not comparable, or a baseline that no run has.
    """
    if not runs:
        raise UserError("no run to compare; give run folders of `caad-ds evaluate`")
    folders = [existing(run) for run in runs]
    with waiting(f"reading {counted(len(folders), 'run')}"):
        read = read_runs(folders)
        speeds = read_speeds(folders)
    first = _baseline(baseline, list(read.systems))
    found = COMPARED_BY[type(read.result_kind)](read, first, title or read.result_kind.title(read.benchmark))
    runs_of = {name: len(predictions) for name, predictions in read.systems.items()}
    found = replace(found, runs=runs_of, speeds=speeds, notes=read.notes, rejected=read.rejected)
    if out is not None:
        save(found, Path(out))
    return found


def _baseline(name: str | None, names: list[str]) -> str:
    if name is not None and name not in names:
        raise UserError(f"--baseline {name}: no run has this name; give one of {', '.join(names)}")
    return name if name is not None else names[0]
