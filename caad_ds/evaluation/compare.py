"""`caad-ds compare`: several evaluations side by side, as tables and as pictures."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from caad_ds.command import ROWS_REJECTED
from caad_ds.errors import UserError
from caad_ds.evaluation.compare_dimensions import compare_dimensions, is_dynamic_superb
from caad_ds.evaluation.compared_runs import read_runs
from caad_ds.evaluation.mlflow_log import Record, add_mlflow_arguments, check_mlflow, log_record
from caad_ds.evaluation.plots import bars, flip_matrices
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.evaluation.scores import POOLED, score_groups
from caad_ds.evaluation.significance import differences
from caad_ds.evaluation.speed import LEGEND as SPEED_LEGEND
from caad_ds.evaluation.speed import speed_rows
from caad_ds.evaluation.tables import (
    LEGEND,
    MAIN,
    comparison_rows,
    difference_rows,
    interval_rows,
    markdown,
    show,
    significance_legend,
    terminal,
)
from caad_ds.files import write_atomic, write_json
from caad_ds.progress import progress

FILES = ("table.json", "table.md", "table.png", "flips.png")
BARS = {"shift (lower is better)" if name == "shift" else name: key for name, key in MAIN.items() if name != "tir_adv"}
TITLE = "Accuracy when audio and text disagree"
NOTE = (
    "Percentages; ± is the sample deviation over runs of one name (seeds). "
    "Read neutral, faithful, adversarial and shift together: none of them decides alone."
)
INTERVALS = (
    "95% intervals over items. Items that share a clip, or one of few voices, are not independent: for new voices the "
    "uncertainty is larger than these intervals say, and differences are less certain than their p values."
)


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder of `caad-ds evaluate`")
    parser.add_argument("--baseline", metavar="NAME", help="tests the others against it (default: the first)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"writes {', '.join(FILES)} there")
    parser.add_argument("--title", default=TITLE, help="of the table and the picture")
    add_mlflow_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the table, a row per name in order of appearance; saves it and its pictures with --out.

    3 if a run could not use rows of its benchmark, else 0.
    """
    check_mlflow(args)
    with progress(f"reading {len(args.runs)} runs"):
        found = read_runs(args.runs)
    baseline = _baseline(args.baseline, list(found.systems))
    if is_dynamic_superb(args.runs[0]):
        title = "Dynamic-SUPERB" if args.title == TITLE else args.title
        compare_dimensions(found.systems, baseline, title, args, found.notes)
    else:
        _compare(found.systems, baseline, args, found.notes)
    if found.rejected:
        partial = ", ".join(f"{count} rows left out in {path}" for path, count in found.rejected.items())
        print(f"caad-ds compare: not the whole benchmark: {partial}", file=sys.stderr)
    return ROWS_REJECTED if found.rejected else 0


def _compare(runs: dict[str, list[list[dict]]], baseline: str, args: argparse.Namespace, notes: list[str]) -> None:
    with progress("comparing", len(args.runs)) as advance:
        systems = {}
        for name, predictions in runs.items():
            systems[name] = score_groups(predictions)
            advance(len(predictions))
    with progress(f"differences from {baseline}"):
        found = differences(runs, baseline)
    table = comparison_rows(systems, found)
    legends = [LEGEND, NOTE, *notes, *([significance_legend(baseline, len(found))] if found else [])]
    show(terminal(args.title, *table), *legends)
    speeds = read_speeds(args.runs)
    if speeds:
        show(terminal("Size and speed", *speed_rows(speeds)), SPEED_LEGEND)
    with nullcontext(args.out) if args.out else TemporaryDirectory() as place:
        folder = Path(place)
        if args.out or args.mlflow:
            figures = {"systems": systems, "baseline": baseline, "differences": found, "speed": speeds, "notes": notes}
            _save(folder, args.title, figures, [markdown(*table), *legends])
        if args.out:
            show(f"saved {args.out}/{', '.join(FILES)}")
        if args.mlflow:
            params = {"title": args.title, "baseline": baseline, "systems": ", ".join(systems)}
            log_record(args, folder, Record(args.title, params, {}, table, [folder / name for name in FILES]))


def _baseline(asked: str | None, names: list[str]) -> str:
    if asked is not None and asked not in names:
        raise UserError(f"--baseline {asked}: no run has this name; give one of {', '.join(names)}")
    return asked if asked is not None else names[0]


def _save(folder: Path, title: str, figures: dict, parts: list[str]) -> None:
    """The files of FILES."""
    systems, baseline, found, speeds = (figures[key] for key in ("systems", "baseline", "differences", "speed"))
    text = [f"# {title}", *parts, INTERVALS, markdown(*interval_rows(systems))]
    if found:
        text += [f"Differences from {baseline}, in points:", markdown(*difference_rows(found))]
    text += [markdown(*speed_rows(speeds)), SPEED_LEGEND] if speeds else []
    write_json(folder / "table.json", {"title": title, **figures})
    write_atomic(folder / "table.md", ("\n\n".join(text) + "\n").encode())
    shown = {name: {label: groups[POOLED][key] for label, key in BARS.items()} for name, groups in systems.items()}
    bars(shown, title, folder / "table.png")
    flip_matrices(systems, title, folder / "flips.png")


def read_speeds(folders: list[Path]) -> dict[str, dict]:
    """What the first run of each name measured of its speed, of those that measured any."""
    found: dict[str, dict] = {}
    for path in folders:
        scores = RunFolder(path).read_scores()
        if scores.get("speed"):
            found.setdefault(scores["name"], scores["speed"])
    return found
