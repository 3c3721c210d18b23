"""What `explain` found, and its way into MLflow."""

from dataclasses import dataclass
from pathlib import Path

from caad_ds.evaluation.report.mlflow_log import Record, Store, log_record
from caad_ds.models.folder_hash import model_hash
from caad_ds.utils.paths import run_name


@dataclass(frozen=True)
class Explanations:
    """What each item's JSON file holds, with the item's files; the rows that could not be used or are doubtful.

    `rejected` and `doubtful` are `{id, reason}` each.
    """

    items: list[tuple[dict, list[Path]]]
    rejected: list[dict]
    doubtful: list[dict]


def log_explanations(store: Store | None, folder: Path, found: Explanations) -> None:
    """Sends all items as one run, what each was asked and what was said, with their files, if there is a store."""
    if store is None or not found.items:
        return
    header = ["item", "condition", "right answer", "answer", "files"]
    rows = [
        [told["id"], told["condition"] or "", told["gt"], told["answer"], ", ".join(file.name for file in files)]
        for told, files in found.items
    ]
    first, _ = found.items[0]
    model = Path(first["model"])
    params = {key: first[key] for key in ("model", "teacher") if first[key]} | first["setting"]
    files = [file for _, files in found.items for file in files]
    name, tables = f"{run_name(model)}, token by token", {"table_shown.json": (header, rows)}
    log_record(store, folder, Record(name, params, {}, tables, files, "explanation", model_hash(model)))
