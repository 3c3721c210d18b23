"""`--mlflow`: finished scores, tables, speeds and pictures into an MLflow store, which may be dead without any harm.

Everything is on disk before, is sent once, and goes out from a thread that is waited for so long and no longer.
"""

import argparse
import hashlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from caad_ds.errors import UserError
from caad_ds.evaluation.speed import speed_metrics
from caad_ds.files import read_json, write_json
from caad_ds.progress import progress
from caad_ds.tracking import (
    BATCH_METRICS,
    check_uri,
    connect,
    existing_run,
    hide_secrets,
    legal_key,
    log_params,
    new_run,
    printable,
    reason,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"  # training's, which `make dashboard` shows
DEFAULT_EXPERIMENT = "caad-ds-evaluation"
PATIENCE = 120.0  # seconds
NOTE = "mlflow.json"
FIELDS = {"": "value", "_low": "low", "_high": "high", "_deviation": "deviation"}


@dataclass(frozen=True)
class Record:
    """What goes into one MLflow run; its files decide whether a folder has anything new to send."""

    name: str
    params: Mapping[str, Any]
    metrics: dict[str, float]
    table: tuple[list[str], list[list[str]]]
    files: list[Path]


def add_mlflow_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--mlflow` and `--experiment`."""
    parser.add_argument(
        "--mlflow", nargs="?", const=DEFAULT_URI, metavar="URI",
        help=f"also into this MLflow store or server (without URI: {DEFAULT_URI})",
    )  # fmt: skip
    parser.add_argument("--experiment", metavar="NAME", help=f"there (default {DEFAULT_EXPERIMENT})")


def check_mlflow(args: argparse.Namespace) -> None:
    """UserError for a URI that MLflow cannot use, or an experiment without one; to be called before the work."""
    if args.mlflow is not None:
        check_uri(args.mlflow, "--mlflow")
    elif args.experiment is not None:
        raise UserError(f"--experiment {args.experiment}: belongs to an MLflow store; give --mlflow as well")


def log_evaluation(args: argparse.Namespace, folder: Path, table: tuple[list[str], list[list[str]]]) -> None:
    """Sends what a run folder's `scores.json` holds as metrics and setup, and its files, if `--mlflow` is given.

    `table`: header and rows as shown; the metrics of `groups` come without that prefix. What the folder has sent to
    this experiment is not sent again.
    """
    if args.mlflow is not None:
        scores = read_json(folder / "scores.json", "run the evaluation again")
        known = {key: scores.pop(key) for key in ("name", "setup", "rejected")}
        speed = {"speed": speed_metrics(scores.pop("speed", None) or {})}
        metrics = dict(
            flat_metrics({"rejected": len(known["rejected"]), **scores.pop("groups", {}), **scores, **speed})
        )
        files = [folder / "scores.json", folder / "predictions.jsonl"]
        log_record(args, folder, Record(known["name"], known["setup"], metrics, table, files))


@contextmanager
def output_folder(out: Path | None) -> Iterator[Path]:
    """The folder of `--out`; without it a temporary one, for what goes into a store alone."""
    with nullcontext(out) if out else TemporaryDirectory() as place:
        yield Path(place)


def log_record(args: argparse.Namespace, folder: Path, record: Record) -> None:
    """Sends a record whose files are in `folder`, if `--mlflow` is given.

    What fails, or takes too long, is said in one line on stderr. What the folder has sent to this experiment is not
    sent again.
    """
    if args.mlflow is None:
        return
    where = hide_secrets(args.mlflow)
    told: list[str] = []

    def send() -> None:
        try:
            told.append(_send_once(args, folder, record))
        except Exception as error:  # whatever fails in a store, the scores are on disk
            told.append(f"MLflow at {where} did not take {record.name} ({reason(error)}); what is on disk is whole")

    thread = threading.Thread(target=send, name="mlflow", daemon=True)
    with progress(f"logging {record.name} to MLflow"):
        thread.start()
        thread.join(PATIENCE)
    late = f"MLflow at {where} did not take {record.name} within {PATIENCE:g} s; what is on disk is whole"
    print(told[0] if told else late, file=sys.stderr)


def flat_metrics(scores: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in nested scores by their path `a/b/c`; a `{value, low, ...}` gives `c`, `c_low`, ...

    What is undefined, or no number, is left out.
    """
    for key, value in scores.items():
        if isinstance(value, Mapping):
            if "value" in value:
                yield from flat_metrics({f"{key}{end}": value.get(field) for end, field in FIELDS.items()}, prefix)
            rest = {name: part for name, part in value.items() if name not in FIELDS.values()}
            yield from flat_metrics(rest, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


def _send_once(args: argparse.Namespace, folder: Path, record: Record) -> str:
    """What to say of it: a run that was made, or one that holds the same already."""
    target = {"uri": hide_secrets(args.mlflow), "experiment": _experiment(args), "sha256": _sha256(record.files)}
    note = read_json(folder / NOTE, "delete it") if (folder / NOTE).is_file() else {}
    client = connect(args.mlflow)
    known = {key: note.get(key) for key in target} == target and existing_run(client, note["run_id"]) is not None
    run_id = note["run_id"] if known else _new(client, args, record)
    client.set_terminated(run_id, "FINISHED")
    write_json(folder / NOTE, {**target, "run_id": run_id})
    return f"MLflow at {target['uri']}: {'already there as' if known else 'logged as'} run {run_id}"


def _sha256(files: list[Path]) -> str:
    """Over names and bytes."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}:{file.stat().st_size};".encode() + file.read_bytes())
    return digest.hexdigest()


def _experiment(args: argparse.Namespace) -> str:
    return args.experiment or DEFAULT_EXPERIMENT


def _new(client: "MlflowClient", args: argparse.Namespace, record: Record) -> str:
    run = new_run(client, args.mlflow, _experiment(args), record.name)
    run_id = run.info.run_id
    try:
        log_params(client, run, printable(record.params))
        _log_metrics(client, run_id, record.metrics)
        header, rows = record.table
        columns = zip(*rows, strict=True)
        client.log_table(run_id, {h: list(c) for h, c in zip(header, columns, strict=True)}, "table_shown.json")
        for file in record.files:
            client.log_artifact(run_id, str(file))
    except Exception:
        with suppress(Exception):
            client.set_terminated(run_id, "FAILED")
        raise
    return run_id


def _log_metrics(client: "MlflowClient", run_id: str, metrics: dict[str, float]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    points = [Metric(legal_key(key), value, now, 0) for key, value in metrics.items()]
    for first in range(0, len(points), BATCH_METRICS):
        client.log_batch(run_id, metrics=points[first : first + BATCH_METRICS])
