"""The tables of `compare`: systems, their differences and intervals."""

from caad_ds.evaluation.scoring.bootstrap_scores import LEVEL, POOLED
from caad_ds.evaluation.tables_and_plots.tables import MAIN, p_value, with_deviation, with_interval

SIGNIFICANT = "*"
NOTE = "Percentages; ± is the sample deviation over runs of one name (seeds)."
TOO_FEW = "too few items to tell"
EXCHANGE = (
    "the systems' answers exchanged clip by clip, exact at every number of items where systems are alike in everything "
    "(McNemar's test where a clip has one question and systems one run). It speaks of these models and of items like "
    "these, not of other seeds."
)


def comparison_rows(systems: dict[str, dict], differences: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows `system | runs | conditions | shift | tir_all | adversarial per subset` from score groups.

    Metrics that differ significantly from the baseline's are marked; `differences` lacks the baseline.
    """
    subsets = [name for name in next(iter(systems.values())) if name != POOLED]
    header = ["system", "runs", *MAIN, *(f"{name} adv" for name in subsets)]
    rows = []
    shown = [(POOLED, key) for key in MAIN.values()] + [(name, "accuracy_adversarial") for name in subsets]
    for system, groups in systems.items():
        marks = [_mark(differences.get(system), group, key) for group, key in shown]
        cells = [with_deviation(groups[group][key]) + mark for (group, key), mark in zip(shown, marks, strict=True)]
        rows.append([system, str(groups[POOLED]["runs"]), *cells])
    return header, rows


def system_row(name: str, runs: int, metrics: dict[str, dict], tested: dict[str, dict]) -> list[str]:
    """Return a system's name, number of runs and metrics by label, marked where they differ significantly."""
    marks = [SIGNIFICANT if tested.get(label, {}).get("significant") else "" for label in metrics]
    cells = [with_deviation(figure) for figure in metrics.values()]
    return [name, str(runs), *(cell + mark for cell, mark in zip(cells, marks, strict=True))]


def difference_rows(differences: dict[str, dict[str, dict]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the systems' differences from the baseline, in points."""
    rows = []
    for system, metrics in differences.items():
        for name, found in metrics.items():
            points = _points(found["value"]) + (SIGNIFICANT if found["significant"] else "")
            bounds = f"[{_points(found['low'])}, {_points(found['high'])}]"
            items = f"{found['higher']} / {found['lower']}" if "higher" in found else "-"
            corrected = TOO_FEW if found["too_few"] else p_value(found["p_holm"])
            rows.append([system, name, points, bounds, items, p_value(found["p"]), corrected])
    return ["system", "figure", "difference", "95% interval", "items above / below", "p", "p (Holm)"], rows


def interval_rows(systems: dict[str, dict[str, dict]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of metrics by label with their intervals over items."""
    rows = [[system, *map(with_interval, metrics.values())] for system, metrics in systems.items()]
    return ["system", *next(iter(systems.values()))], rows


def significance_legend(baseline: str, differences: dict[str, dict[str, dict]]) -> str:
    """Explain the mark of significance, and list the metrics with too few items to be marked."""
    others = len(differences)
    over = f"after Holm's correction over the {others} systems of its column" if others > 1 else ""
    meaning = f"Marked {SIGNIFICANT}: differs from {baseline}, p < {1 - LEVEL:g} {over}".rstrip() + f"; {EXCHANGE}"
    metrics = {name for system in differences.values() for name in system}
    few = [name for name in metrics if any(system[name]["too_few"] for system in differences.values())]
    return meaning + (f" {TOO_FEW[0].upper()}{TOO_FEW[1:]}, so never marked: {', '.join(sorted(few))}." if few else "")


def _mark(groups: dict | None, group: str, key: str) -> str:
    return SIGNIFICANT if groups and groups[group][key]["significant"] else ""


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"
