"""`caad-ds compare`: several evaluations side by side, as tables and as pictures."""

import argparse
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from caad_ds.errors import UserError
from caad_ds.evaluation.compare_dimensions import compare_dimensions, is_dynamic_superb
from caad_ds.evaluation.mlflow_log import Record, add_mlflow_arguments, check_mlflow, log_record
from caad_ds.evaluation.plots import bars, flip_matrices
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.evaluation.scores import score_groups
from caad_ds.evaluation.significance import differences
from caad_ds.evaluation.speed import LEGEND as SPEED_LEGEND
from caad_ds.evaluation.speed import speed_rows
from caad_ds.evaluation.tables import (
    LEGEND,
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
    """Prints the table, a row per name in order of appearance; saves it and its pictures with --out."""
    check_mlflow(args)
    if is_dynamic_superb(args.runs[0]):
        runs = read_runs(args.runs)
        title = "Dynamic-SUPERB" if args.title == TITLE else args.title
        return compare_dimensions(runs, _baseline(args.baseline, list(runs)), title, args)
    with progress("comparing", len(args.runs)) as advance:
        runs = read_runs(args.runs)
        baseline = _baseline(args.baseline, list(runs))
        systems = {}
        for name, predictions in runs.items():
            systems[name] = score_groups(predictions)
            advance(len(predictions))
    with progress(f"differences from {baseline}"):
        found = differences(runs, baseline)
    table = comparison_rows(systems, found)
    legends = [LEGEND, NOTE, *([significance_legend(baseline, len(found))] if found else [])]
    show(terminal(args.title, *table), *legends)
    speeds = read_speeds(args.runs)
    if speeds:
        show(terminal("Size and speed", *speed_rows(speeds)), SPEED_LEGEND)
    with nullcontext(args.out) if args.out else TemporaryDirectory() as place:
        folder = Path(place)
        if args.out or args.mlflow:
            _save(folder, args.title, baseline, systems, found, speeds, [markdown(*table), *legends])
        if args.out:
            show(f"saved {args.out}/{', '.join(FILES)}")
        if args.mlflow:
            params = {"title": args.title, "baseline": baseline, "systems": ", ".join(systems)}
            log_record(args, folder, Record(args.title, params, {}, table, [folder / name for name in FILES]))
    return 0


def _baseline(asked: str | None, names: list[str]) -> str:
    if asked is not None and asked not in names:
        raise UserError(f"--baseline {asked}: no run has this name; give one of {', '.join(names)}")
    return asked if asked is not None else names[0]


def _save(folder: Path, title: str, baseline: str, systems: dict, found: dict, speeds: dict, parts: list[str]) -> None:
    """The files of FILES."""
    text = [f"# {title}", *parts, INTERVALS, markdown(*interval_rows(systems))]
    if found:
        text += [f"Differences from {baseline}, in points:", markdown(*difference_rows(found))]
    text += [markdown(*speed_rows(speeds)), SPEED_LEGEND] if speeds else []
    figures = {"systems": systems, "baseline": baseline, "differences": found, "speed": speeds}
    write_json(folder / "table.json", {"title": title, **figures})
    write_atomic(folder / "table.md", ("\n\n".join(text) + "\n").encode())
    bars(systems, title, folder / "table.png")
    flip_matrices(systems, title, folder / "flips.png")


def read_runs(folders: list[Path]) -> dict[str, list[list[dict]]]:
    """Predictions of each run by name.

    UserError if a run is unfinished, was made on other items than the first, or decodes otherwise than its namesakes.
    """
    systems: dict[str, list[list[dict]]] = {}
    decoding: dict[str, dict] = {}
    first: set | None = None
    for path in folders:
        folder = RunFolder(path)
        setup, predictions = folder.read_scores()["setup"], folder.complete()
        items = {(p["id"], p["gt"]) for p in predictions}
        first = first or items
        if items != first:
            raise UserError(
                f"{path}: evaluated on {len(items)} items, {len(items & first)} of them among the {len(first)} of "
                f"{folders[0]}; compare runs on one benchmark with one --limit"
            )
        name = setup["name"]
        ours = {key: value for key, value in setup.items() if key not in ("model_sha256", "seed")}
        if decoding.setdefault(name, ours) != ours:
            raise UserError(
                f"{path}: named {name!r} like a run that decodes otherwise; evaluate it with a --name of its own"
            )
        systems.setdefault(name, []).append(predictions)
    return systems


def read_speeds(folders: list[Path]) -> dict[str, dict]:
    """What the first run of each name measured of its speed, of those that measured any."""
    found: dict[str, dict] = {}
    for path in folders:
        scores = RunFolder(path).read_scores()
        if scores.get("speed"):
            found.setdefault(scores["name"], scores["speed"])
    return found
