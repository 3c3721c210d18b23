"""Tables of a teacher check: intermediate ones while it runs, the final ones, and the JSON form."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from caad_ds.evaluation.scoring.bootstrap_scores import POOLED
from caad_ds.evaluation.scoring.metric_definitions import ACCURACY, CONFLICTS
from caad_ds.evaluation.tables_and_plots.tables import LEGEND, MAIN, percent, show
from caad_ds.evaluation.teacher_check.contrast_signals import Signal
from caad_ds.evaluation.teacher_check.verdict import Attribute
from caad_ds.utils.terminal_table import Table

EVERY_SECONDS = 60.0
SIGNALS = "z_pos: logits with the audio; z_neg: with the negative in its place; z_c: their contrast."
CONDITIONS = " n/f/a/i: neutral, faithful, adversarial, irrelevant."


class IntermediateTable:
    """Show intermediate results, a row per attribute: when an attribute is finished, and every minute."""

    def __init__(self, total: int, rows: Callable[[], list[Attribute]]):
        """`rows` returns the attributes evaluated so far."""
        self._total, self._attributes = total, rows
        self._shown = time.monotonic()

    def show(self, ended: bool) -> None:
        """Call after each batch; `ended`: an attribute is finished. Shows nothing after the last row."""
        if not ended and time.monotonic() < self._shown + EVERY_SECONDS:
            return
        attributes = self._attributes()
        done = sum(len(attribute.gt) for attribute in attributes)
        if attributes and done < self._total:
            show(_so_far(attributes, done, self._total))
            self._shown = time.monotonic()


def _so_far(attributes: Sequence[Attribute], done: int, total: int) -> Table:
    negatives = [s for s in attributes[0].likelihoods if s.negative is not None and s.alpha is None]
    hinted = len(attributes[0].right(Signal())) > 1
    n, nfai = (" n", " n/f/a/i") if hinted else ("", "")
    header = ["attribute", "rows", f"z_pos{nfai}", *(f"{signal.name}{n}" for signal in negatives)]
    rows = []
    for attribute in attributes:
        with_audio = "/".join(f"{100 * right.mean():.0f}" for right in attribute.right(Signal()))
        without = [f"{100 * attribute.right(signal)[0].mean():.0f}" for signal in negatives]
        rows.append([attribute.name, str(len(attribute.gt)), with_audio, *without])
    return Table(f"so far, {done} of {total} rows: likeliest option, %", header, rows)


def show_result(name: str, table: dict[Signal, dict], decoded: dict[Signal, dict], verdict: dict) -> None:
    """Print both tables, their legends and the verdict."""
    title = f"{name}: likeliest option, %; entropy over the labels' when neutral"
    tables = _table(title, table), _table("greedy answers, right by the matching rule, %", decoded)
    hinted = _hinted(table)
    show(*tables, *([LEGEND, SIGNALS + CONDITIONS] if hinted else [SIGNALS]), *verdict["lines"])


def _table(title: str, table: dict[Signal, dict]) -> Table:
    subsets = [subset for subset in next(iter(table.values())) if subset != POOLED]
    entropies = ["entropy"] if "entropy_share" in table[Signal()][POOLED] else []
    hinted = _hinted(table)
    shown = MAIN if hinted else {name: name for name in ACCURACY.ratios}
    each_condition = [f"accuracy_{c}" for c in CONFLICTS.conditions] if hinted else list(ACCURACY.ratios)
    header = ["signal", *shown, *entropies, *(f"{subset} n/f/a/i" if hinted else subset for subset in subsets)]
    rows = []
    for signal, groups in table.items():
        shares = [groups[POOLED]["entropy_share"] for _ in entropies]
        by_subset = ["/".join(f"{100 * groups[s][key]['value']:.0f}" for key in each_condition) for s in subsets]
        pooled = [percent(groups[POOLED][key]["value"]) for key in shown.values()]
        rows.append([signal.name, *pooled, *("-" if share is None else f"{share:.2f}" for share in shares), *by_subset])
    return Table(title, header, rows)


def _hinted(table: dict[Signal, dict]) -> bool:
    return not ACCURACY.ratios.keys() <= table[Signal()][POOLED].keys()


def listed(table: dict[Signal, dict]) -> list[dict[str, Any]]:
    """Return the metrics of each signal as in the JSON file."""
    return [{**vars(signal), "name": signal.name, "groups": groups} for signal, groups in table.items()]
