"""The output of `evaluate` after an evaluation."""

from caad_ds.evaluation.predictions import RunFolder, prompt_of
from caad_ds.evaluation.result_kinds.result_kind import result_kind_of
from caad_ds.evaluation.scoring.confused_options import unseparated_notes
from caad_ds.evaluation.speed.speed_tables import speed_legend, speed_rows
from caad_ds.evaluation.tables_and_plots.confusions import LEGEND as NAMED
from caad_ds.evaluation.tables_and_plots.confusions import on_terminal
from caad_ds.evaluation.tables_and_plots.tables import NO_INTERVAL, percent, show, show_rejected
from caad_ds.utils.formatting import counted
from caad_ds.utils.terminal_table import Table

PROMPTED = "Prompts: {} (--prompt; docs/benchmarks.md)."


def evaluation_rows(scores: dict) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table of one system's scores."""
    return result_kind_of(scores["setup"]).rows(scores)


def evaluation_notes(scores: dict) -> list[str]:
    """Return the notes on that table."""
    prompt = prompt_of(scores)
    prompted = [] if prompt is None else [PROMPTED.format(prompt)]
    of_kind = result_kind_of(scores["setup"]).notes(scores)
    return [*of_kind, *prompted, NO_INTERVAL, *unseparated_notes(scores["inseparable"])]


def show_evaluation(scores: dict, folder: RunFolder) -> None:
    """Print the tables of an evaluation with their notes, and the rows that were left out."""
    name = scores["setup"]["name"]
    table = Table(f"{name}: percentages; 95% intervals over items", *evaluation_rows(scores))
    show(table, *evaluation_notes(scores), _by_rule(scores, folder.disagreements()))
    if scores["confusions"]:
        show(*on_terminal(scores["confusions"]), NAMED)
    if scores["speed"]:
        measured = {name: scores["speed"]}
        show(Table("Size and speed", *speed_rows(measured)), speed_legend(measured))
    show_rejected(scores["rejected"], folder.path / "scores.json")


def _by_rule(scores: dict, differing: int) -> str:
    answers = _answers(scores)
    shares = ", ".join(f"{rule} {percent(count / answers)}" for rule, count in scores["rules"].items())
    unclear = f" ({scores['judge']['unclear']} replies neither yes nor no)" if "judge" in scores else ""
    differ = f"the rules differ on {differing} (disagreements.jsonl)"
    return f"{counted(answers, 'answer')} by each rule, %: {shares}{unclear}; {differ}"


def _answers(scores: dict) -> int:
    """Return the number of scored answers: one per item and condition."""
    kind = result_kind_of(scores["setup"])
    return kind.items(scores) * len(kind.conditions)
