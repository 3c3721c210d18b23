"""The result of `speed`, and its output to the terminal, files and MLflow."""

from dataclasses import dataclass
from pathlib import Path

from caad_ds.evaluation.speed.speed_tables import speed_legend, speed_metrics, speed_rows
from caad_ds.evaluation.tables_and_plots.mlflow_log import Record, Store, flat_metrics, log_record
from caad_ds.evaluation.tables_and_plots.tables import markdown, show
from caad_ds.utils.files import write_atomic, write_json
from caad_ds.utils.terminal_table import Table

TITLE = "Size and speed"
FILES = ("speed.md", "speed.json")


@dataclass(frozen=True)
class Speeds:
    """The `speed` of each system (docs/evaluation.md) and the settings; `benchmark` is the folder's name."""

    systems: dict[str, dict]
    tokens: int
    rounds: int
    benchmark: str

    @property
    def setting(self) -> str:
        """The settings in words."""
        return f"{self.rounds} rounds, {self.tokens} tokens an answer, {self.benchmark}"


def save(found: Speeds, folder: Path) -> None:
    """Write speed.md and speed.json."""
    text = [f"# {TITLE}", f"{found.setting}.", markdown(*speed_rows(found.systems)), speed_legend(found.systems)]
    write_atomic(folder / "speed.md", ("\n\n".join(text) + "\n").encode())
    write_json(folder / "speed.json", {"tokens": found.tokens, "rounds": found.rounds, "systems": found.systems})


def show_speeds(found: Speeds) -> None:
    """Print the table and its legend."""
    show(Table(f"{TITLE}: {found.setting}", *speed_rows(found.systems)), speed_legend(found.systems))


def log_speeds(store: Store | None, folder: Path, found: Speeds) -> None:
    """Log speeds whose files are in `folder`, if there is a store."""
    params = {"systems": ", ".join(found.systems), "setting": found.setting}
    metrics = dict(flat_metrics({name: speed_metrics(speed) for name, speed in found.systems.items()}))
    tables = {"table_shown.json": speed_rows(found.systems)}
    log_record(store, folder, Record(TITLE, params, metrics, tables, [folder / name for name in FILES], "speed"))
