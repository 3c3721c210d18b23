"""The table of an experiment on the demo, computed from the lines of its finished runs."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import mean, stdev

from scipy.stats import t

SCORES = ("accuracy_neutral", "accuracy_faithful", "accuracy_adversarial", "accuracy_irrelevant", "shift")
ADAPTIVE = "adaptive 2"
NEUTRAL_POINTS, SHIFT_POINTS = 1.0, 2.0
Run = tuple[int, int | None]  # teacher and student seed


def table(lines: Sequence[dict], gate_m: float, steps: int | None) -> str:
    """Format the rows with means and 95% intervals, separately for validation and test.

    For `adaptive`, the answer to its question is added.
    """
    mine = [line for line in lines if line["steps"] == steps]
    text = []
    for split in ("validation", "test"):
        rows: dict[str, dict[Run, dict[str, float]]] = defaultdict(dict)
        for line in mine:
            chosen = line["test"] is None  # a run of --choose, which compares constants
            if line[split] is None or ((split == "test" or not chosen) and line["gate_m"] not in (None, gate_m)):
                continue
            rows[line["row"]][line["teacher_seed"], line["student_seed"]] = line[split]["all"]
        if rows:
            gated = f", gate_m {gate_m:g}" if ADAPTIVE in rows else ""
            text += [_rows(f"{split} voices, %, {steps} steps{gated}", rows), _answer(rows)]
    note = (
        "Intervals: 95%, by t over the means of the teacher seeds (of one teacher over the student seeds); differences "
        "are taken between students of the same teacher and seed."
    )
    return "\n\n".join(filter(None, [*text, note])) if text else "no runs are recorded"


def interval(values: dict[Run, float]) -> tuple[float, float]:
    """Return mean and half-width of the 95% interval, over teachers' means, or over student seeds if there is one
    teacher; the half-width of a single value is nan."""
    by_teacher: dict[int, list[float]] = defaultdict(list)
    for (teacher, _), value in values.items():
        by_teacher[teacher].append(value)
    units = [mean(each) for each in by_teacher.values()] if len(by_teacher) > 1 else list(values.values())
    if len(units) < 2:
        return mean(units), math.nan
    return mean(units), float(t.ppf(0.975, len(units) - 1)) * stdev(units) / math.sqrt(len(units))


def _rows(title: str, rows: dict[str, dict[Run, dict[str, float]]]) -> str:
    names = [score.removeprefix("accuracy_") for score in SCORES]
    out = [title, "", f"| row | runs | {' | '.join(names)} |", "| --- | ---: |" + " ---: |" * len(SCORES)]
    for row, runs in rows.items():
        cells = [_shown(*interval({run: scores[name] for run, scores in runs.items()})) for name in SCORES]
        out.append(f"| {row} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(out)


def _shown(value: float, half: float) -> str:
    return f"{value:.1f}" if math.isnan(half) else f"{value:.1f} ± {half:.1f}"


def _answer(rows: dict[str, dict[Run, dict[str, float]]]) -> str:
    """State whether the adaptive contrast keeps standard KD's neutral accuracy at CAAD 2's shift."""
    if not {ADAPTIVE, "std_kd", "caad 2"} <= rows.keys():
        return ""

    def against(other: str, score: str, within: Callable[[float], bool], bound: str) -> str:
        pairs = rows[ADAPTIVE].keys() & rows[other].keys()
        if not pairs:
            return f"{score}: no runs of the same seeds"
        value, half = interval({run: rows[ADAPTIVE][run][score] - rows[other][run][score] for run in pairs})
        ends = [within(value - half), within(value + half)]
        verdict = "undecided" if math.isnan(half) or ends[0] != ends[1] else ("yes" if all(ends) else "no")
        name = score.removeprefix("accuracy_")
        return f"- {name} against {other}: {_signed(value, half)} over {len(pairs)} pairs; {bound}: {verdict}"

    return "\n".join([
        against("std_kd", "accuracy_neutral", lambda v: v >= -NEUTRAL_POINTS, f"lost at most {NEUTRAL_POINTS:g} point"),
        against("caad 2", "shift", lambda v: v <= SHIFT_POINTS, f"at most {SHIFT_POINTS:g} points more"),
    ])  # fmt: skip


def _signed(value: float, half: float) -> str:
    return f"{value:+.1f}" if math.isnan(half) else f"{value:+.1f} ± {half:.1f}"
