"""`--mlflow`: log scores, tables, speeds and pictures to MLflow; an unreachable store does no harm.

Everything is on disk before, is sent once, and is sent from a thread with a timeout. If a tracked run trained the
model, its evaluation becomes a child of that run.
"""

import argparse
import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from caad_ds.evaluation.speed.speed_tables import speed_metrics
from caad_ds.tracking import Target
from caad_ds.tracking.mlflow_store import (
    BATCH_METRICS,
    connect,
    existing_run,
    experiment_id,
    log_inputs,
    log_params,
    training_run,
)
from caad_ds.tracking.origin import Data, origin_tags
from caad_ds.tracking.secrets import hide_secrets, legal_key, printable, reason
from caad_ds.tracking.target import DEFAULT_EXPERIMENT, DEFAULT_URI, EXPERIMENT_VARIABLE, URI_VARIABLE
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json, write_json
from caad_ds.utils.progress import progress

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PATIENCE = 120.0  # seconds
NOTE = "mlflow.json"
UNNAMED = ""  # `--mlflow` without a URI
MOST = 40  # metrics of an evaluation; hundreds of charts are of no use
# Patterns of metric paths, the most important first.
CHOSEN = (
    r"all/(accuracy(_\w+)?|shift|mrs|yes_share|(precision|recall|f1)_no)(_low|_high)?",
    r"overall(_low|_high)?",
    r"all/items|rejected",
    r"speed/(parameters/total|memory_mib/weights|batch_\d+/(tokens_per_second|first_token_ms))",
    r"[^/]+/accuracy_adversarial",
    r"dimensions/[^/]+(?<!_low)(?<!_high)(?<!_deviation)(?<!/instances)",
    r"all/(tir_all|norm_accuracy)_[a-z]+",
)
FIELDS = {"": "value", "_low": "low", "_high": "high", "_deviation": "deviation"}


@dataclass(frozen=True)
class Record:
    """The contents of one MLflow run; the hash of its files decides whether there is anything new to send.

    `tables` holds header and rows by file name. `model_sha256` identifies the model whose training run is the parent.
    """

    name: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    tables: Mapping[str, tuple[list[str], list[list]]]
    files: list[Path]
    kind: str
    model_sha256: str | None = None
    data: list[Data] = field(default_factory=list)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Store:
    """The MLflow target of a command; `experiment` is the user's, if given."""

    target: Target
    experiment: str | None


def add_mlflow_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--mlflow` and `--experiment`."""
    parser.add_argument(
        "--mlflow", nargs="?", const=UNNAMED, metavar="URI",
        help=f"also into this MLflow store or server (without URI: {URI_VARIABLE}, else {DEFAULT_URI})",
    )  # fmt: skip
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        help=f"there (default: its model's training run's, else {EXPERIMENT_VARIABLE}, else {DEFAULT_EXPERIMENT})",
    )


def store_of(uri: str | None, experiment: str | None) -> Store | None:
    """Return the store of `--mlflow` and `--experiment`, None if nothing is to be logged; call it before the work.

    Raises UserError for a URI that MLflow cannot use, or an experiment without a store.
    """
    if uri is not None:
        return Store(Target.of(uri or None, experiment, ("--mlflow", "--experiment")), experiment)
    if experiment is not None:
        raise UserError(f"--experiment {experiment}: belongs to an MLflow store; give --mlflow as well")
    return None


def log_evaluation(
    store: Store | None, folder: Path, benchmark: Path, table: tuple[list[str], list[list[str]]]
) -> None:
    """Log metrics and setup of a run folder's `scores.json`, and its files, if there is a store.

    `table`: header and rows as shown. The most important numbers (CHOSEN) become metrics, those of `groups` without
    that prefix; all are in the table `metrics.json`. A folder already sent to this experiment is not sent again.
    """
    if store is not None:
        scores = read_json(folder / "scores.json", "run the evaluation again")
        known = {key: scores.pop(key) for key in ("name", "setup", "rejected")}
        measured = scores.pop("speed", None) or {}
        rest = {**scores.pop("groups", {}), **scores, "speed": speed_metrics(measured)}
        found = dict(flat_metrics({"rejected": len(known["rejected"]), **rest}))
        tables: dict[str, tuple[list[str], list[Any]]] = {
            "table_shown.json": table,
            "metrics.json": (["metric", "value"], [list(metric) for metric in found.items()]),
        }
        files = [folder / "scores.json", folder / "predictions.jsonl"]
        setup, benchmark = known["setup"], benchmark.resolve()
        record = Record(
            f"{known['name']}: evaluation",
            setup,
            chosen(found),
            tables,
            files,
            "evaluation",
            model_sha256=setup["model_sha256"],
            data=[Data(benchmark.name, str(benchmark), setup["benchmark_sha256"], "evaluation")],
            tags={"device": measured["device"]} if "device" in measured else {},
        )
        log_record(store, folder, record)


def chosen(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the main metrics of an evaluation, at most MOST."""
    names = [name for pattern in CHOSEN for name in metrics if re.fullmatch(pattern, name)]
    return {name: metrics[name] for name in list(dict.fromkeys(names))[:MOST]}


@contextmanager
def output_folder(out: Path | None) -> Iterator[Path]:
    """Yield the folder of `--out`, or a temporary one if the files only go to a store."""
    with nullcontext(out) if out else TemporaryDirectory() as folder:
        yield Path(folder)


def log_record(store: Store | None, folder: Path, record: Record) -> None:
    """Log a record whose files are in `folder`, if there is a store.

    Failures and timeouts are reported in one line on stderr. A folder that was already sent to this experiment is not
    sent again.
    """
    if store is None:
        return
    where = hide_secrets(store.target.uri)
    messages: list[str] = []

    def send() -> None:
        try:
            messages.append(_send_once(store, folder, record))
        except Exception as error:  # any failure of the store; the scores are on disk
            failure = f"MLflow at {where} did not take {record.name} ({reason(error)})"
            messages.append(f"{failure}; the files on disk are complete")

    thread = threading.Thread(target=send, name="mlflow", daemon=True)
    with progress(f"logging {record.name} to MLflow"):
        thread.start()
        thread.join(PATIENCE)
    late = f"MLflow at {where} did not take {record.name} within {PATIENCE:g} s; the files on disk are complete"
    print(messages[0] if messages else late, file=sys.stderr)


def flat_metrics(scores: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested scores by path `a/b/c`; a `{value, low, ...}` gives `c`, `c_low`, ...

    Undefined values and other types are omitted.
    """
    for key, value in scores.items():
        if isinstance(value, Mapping):
            if "value" in value:
                yield from flat_metrics({f"{key}{end}": value.get(field) for end, field in FIELDS.items()}, prefix)
            rest = {name: part for name, part in value.items() if name not in FIELDS.values()}
            yield from flat_metrics(rest, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


def _send_once(store: Store, folder: Path, record: Record) -> str:
    """Send the record unless it was already sent; return the message about its run."""
    target = store.target
    sent = {"uri": hide_secrets(target.uri), "experiment": target.experiment, "sha256": _sha256(record.files)}
    note = read_json(folder / NOTE, "delete it") if (folder / NOTE).is_file() else {}
    client = connect(target.uri)
    known = {key: note.get(key) for key in sent} == sent and existing_run(client, note["run_id"]) is not None
    run_id, where = (note["run_id"], "") if known else _new(client, store, record)
    client.set_terminated(run_id, "FINISHED")
    write_json(folder / NOTE, {**sent, "run_id": run_id})
    result = f"{'already there as' if known else 'logged as'} run {run_id}{where}"
    return f"MLflow at {sent['uri']} ({target.uri_from}): {result}"


def _sha256(files: list[Path]) -> str:
    """Return the hash over names and bytes of the files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}:{file.stat().st_size};".encode() + file.read_bytes())
    return digest.hexdigest()


def _new(client: "MlflowClient", store: Store, record: Record) -> tuple[str, str]:
    """Create a run with the record; return its id and a description of its location."""
    run, where = _begin(client, store, record)
    run_id = run.info.run_id
    try:
        log_params(client, run, printable(record.params))
        log_inputs(client, run, record.data)
        _log_metrics(client, run_id, record.metrics)
        for name, (header, rows) in record.tables.items():
            columns = zip(*rows, strict=True)
            client.log_table(run_id, {h: list(c) for h, c in zip(header, columns, strict=True)}, name)
        for file in record.files:
            client.log_artifact(run_id, str(file))
    except Exception:
        with suppress(Exception):
            client.set_terminated(run_id, "FAILED")
        raise
    return run_id, where


def _begin(client: "MlflowClient", store: Store, record: Record) -> "tuple[Run, str]":
    """Create a run below the one that trained the model, else in the experiment of the target.

    With a user's `--experiment`, the parent is searched only there.
    """
    tags = {**origin_tags(os.environ.get("WORLD_SIZE", "1")), "kind": record.kind, **record.tags}
    trained = training_run(client, record.model_sha256, store.experiment) if record.model_sha256 else None
    if trained is None:
        experiment = experiment_id(client, store.target)
        where = f", experiment {store.target.experiment} ({store.target.experiment_from})"
    else:
        experiment = trained.info.experiment_id
        tags["mlflow.parentRunId"] = trained.info.run_id
        where = f", a child of {trained.info.run_name}, run {trained.info.run_id}"
    return client.create_run(experiment, run_name=record.name, tags=printable(tags)), where


def _log_metrics(client: "MlflowClient", run_id: str, metrics: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    points = [Metric(legal_key(key), value, now, 0) for key, value in metrics.items()]
    for first in range(0, len(points), BATCH_METRICS):
        client.log_batch(run_id, metrics=points[first : first + BATCH_METRICS])
