"""`caad-ds compare` of Dynamic-SUPERB runs: a row per system, a column per dimension and ALL."""

import argparse
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from caad_ds.evaluation.dynamic_superb import DynamicSuperb
from caad_ds.evaluation.dynamic_superb_scores import difference, score_instances
from caad_ds.evaluation.mlflow_log import Record, log_record
from caad_ds.evaluation.predictions import RunFolder
from caad_ds.evaluation.tables import SIGNIFICANT, markdown, show, terminal, with_deviation, with_interval
from caad_ds.files import write_atomic, write_json
from caad_ds.progress import progress

NOTE = (
    "Percentages; ± is the sample deviation over runs of one name (seeds). *: the 95% interval of the difference from "
    "{} on the same items excludes 0 (paired bootstrap over items; not corrected for the number of comparisons)."
)


def is_dynamic_superb(run: Path) -> bool:
    """Whether a finished run is of this benchmark."""
    return RunFolder(run).read_scores()["setup"].get("benchmark") == DynamicSuperb.kind


def compare_dimensions(
    runs: dict[str, list[list[dict]]], baseline: str, title: str, args: argparse.Namespace,
    about: list[str],
) -> None:  # fmt: skip
    """Prints the table of the runs of each name; saves it with `args.out` and logs it with `args.mlflow`."""
    systems, differences = {}, {}
    with progress("comparing", len(runs)) as advance:
        for name, predictions in runs.items():
            systems[name] = score_instances(predictions)
            if name != baseline:
                differences[name] = difference(predictions, runs[baseline])
            advance(1)
    header = ["system", "runs", *_figures(systems[baseline])]
    table = header, [_row(name, scores, differences.get(name, {})) for name, scores in systems.items()]
    notes = [*([NOTE.format(baseline)] if differences else []), *about]
    show(terminal(title, *table), *notes)
    with nullcontext(args.out) if args.out else TemporaryDirectory() as place:
        files = [Path(place) / "table.json", Path(place) / "table.md"]
        if args.out or args.mlflow:
            intervals = [[name, *map(with_interval, _figures(scores).values())] for name, scores in systems.items()]
            parts = [f"# {title}", markdown(*table), *notes, markdown([header[0], *header[2:]], intervals)]
            saved = {
                "title": title,
                "baseline": baseline,
                "systems": systems,
                "differences": differences,
                "notes": about,
            }
            write_json(files[0], saved)
            write_atomic(files[1], ("\n\n".join(parts) + "\n").encode())
        if args.out:
            show(f"saved {args.out}/table.json, table.md")
        if args.mlflow:
            params = {"title": title, "baseline": baseline, "systems": ", ".join(systems)}
            log_record(args, Path(place), Record(title, params, {}, table, files))


def _figures(scores: dict) -> dict[str, dict]:
    overall = scores["overall"]
    return scores["dimensions"] | ({overall["name"]: overall} if "value" in overall else {})


def _row(name: str, scores: dict, differences: dict[str, dict]) -> list[str]:
    marks = [SIGNIFICANT if differences.get(figure, {}).get("significant") else "" for figure in _figures(scores)]
    figures = [with_deviation(figure) for figure in _figures(scores).values()]
    return [name, str(scores["runs"]), *(figure + mark for figure, mark in zip(figures, marks, strict=True))]
