"""`caad-ds compare`: several evaluations side by side, as a table and as a picture."""

import argparse
from pathlib import Path

from caad_ds.errors import UserError
from caad_ds.evaluation.plots import bars
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.evaluation.scores import score_groups
from caad_ds.evaluation.tables import LEGEND, comparison_rows, interval_rows, markdown, show, terminal
from caad_ds.files import write_atomic, write_json
from caad_ds.progress import progress

NOTE = (
    "Percentages; ± is the sample deviation over runs of one name (seeds). "
    "Read neutral, faithful, adversarial and shift together: none of them decides alone."
)
INTERVALS = (
    "95% intervals over items. Items that share a clip, or one of few voices, are not independent: for new voices the "
    "uncertainty is larger than these intervals say."
)


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder of `caad-ds evaluate`")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="writes table.md, table.json and table.png there")
    parser.add_argument("--title", default="Accuracy when audio and text disagree", help="of the table and the picture")


def run(args: argparse.Namespace) -> int:
    """Prints the table, a row per name in order of appearance; saves it and its picture with --out."""
    with progress("comparing", len(args.runs)) as advance:
        systems = {}
        for name, runs in read_runs(args.runs).items():
            systems[name] = score_groups(runs)
            advance(len(runs))
    header, rows = comparison_rows(systems)
    show(terminal(args.title, header, rows), LEGEND, NOTE)
    if args.out:
        intervals = markdown(*interval_rows(systems))
        text = [f"# {args.title}", markdown(header, rows), LEGEND, NOTE, INTERVALS, intervals]
        write_atomic(args.out / "table.md", ("\n\n".join(text) + "\n").encode())
        write_json(args.out / "table.json", {"title": args.title, "systems": systems})
        bars(systems, args.title, args.out / "table.png")
        show(f"saved {args.out}/table.md, table.json, table.png")
    return 0


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
        ours = {key: value for key, value in setup.items() if key != "model_sha256"}
        if decoding.setdefault(name, ours) != ours:
            raise UserError(
                f"{path}: named {name!r} like a run that decodes otherwise; evaluate it with a --name of its own"
            )
        systems.setdefault(name, []).append(predictions)
    return systems
