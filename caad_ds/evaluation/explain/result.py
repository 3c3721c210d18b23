"""The result of `explain`, and its logging to MLflow."""

from dataclasses import dataclass
from pathlib import Path

from caad_ds.evaluation.tables_and_plots.mlflow_log import Record, Store, log_record
from caad_ds.models.model_hashes import model_hash
from caad_ds.utils.model_names import run_name


@dataclass(frozen=True)
class Explanations:
    """The contents of each item's JSON file with the item's files; rejected and doubtful rows, `{id, reason}` each."""

    items: list[tuple[dict, list[Path]]]
    rejected: list[dict]
    doubtful: list[dict]


def log_explanations(store: Store | None, folder: Path, found: Explanations) -> None:
    """Log all items as one run, with their questions, answers and files, if there is a store."""
    if store is None or not found.items:
        return
    header = ["item", "condition", "right answer", "answer", "files"]
    rows = [
        [item["id"], item["condition"] or "", item["gt"], item["answer"], ", ".join(file.name for file in files)]
        for item, files in found.items
    ]
    first, _ = found.items[0]
    model = Path(first["model"])
    params = {key: first[key] for key in ("model", "teacher") if first[key]} | first["setting"]
    files = [file for _, files in found.items for file in files]
    name, tables = f"{run_name(model)}, token by token", {"table_shown.json": (header, rows)}
    log_record(store, folder, Record(name, params, {}, tables, files, "explanation", model_hash(model)))
