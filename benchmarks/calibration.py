"""How often `caad-ds compare` marks a figure as different, for simulated systems that are equal and that are not.

    python benchmarks/calibration.py [--comparisons 1000] [--workers N] [--fast]

Systems answer items of random difficulty, the sum of terms for clip, question and condition. Each system, with all of
its seeds, also has its own random term for every clip. "Alike in everything": all systems have the same distribution.
"Alike in that figure alone": the figure has the same true value, while others differ, such as neutral accuracies of 85
and 30. A cell is the percentage of simulated comparisons in which the figure is marked for any system; it should be at
most 5 if the true values are equal.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import cpu_name
from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.comparison import dynamic_superb
from caad_ds.evaluation.scoring.bootstrap_scores import POOLED, RATIOS, RULES
from caad_ds.evaluation.scoring.significance import differences
from caad_ds.utils.progress import progress

SIZES = (1, 4, 8, 12, 20, 50, 200)
LOGITS = np.array([1.2, 2.5, -0.3, 1.0])  # of a right answer, by condition
SHARED = {"SpeakerCounting_LibriTTS-TestClean": (1, 1), "MultiSpeakerDetection_LibriSpeech-TestClean": (2, 2)}
ALONE = {"SarcasmDetection_Mustard": (3, 1)}  # of another dimension
INSTANCES = SHARED | ALONE  # the condition that stands for it, and one item in so many
NORMALISED = tuple(name for name in RATIOS if name.startswith("norm_"))
OF_NEUTRAL = (*NORMALISED, "shift", "mrs")
ACCURACIES = tuple(name for name in RATIOS if name.startswith("accuracy_"))
FLIPS = tuple(name for name in RATIOS if name.startswith("tir_"))
LOWER = ("accuracy_adversarial", "norm_accuracy_adversarial", "tir_all_adversarial", "shift", "mrs")
MEANS = ("SEM", "SPK", "mean")
Law = Callable[["Design", int, np.random.Generator], list[np.ndarray]]  # of items: bool [runs, 4, items] of each system
Hint = Callable[
    [float, np.ndarray], np.ndarray | float
]  # chance under it, from share and answers [runs, items] without


def by_difficulty(design: "Design", items: int, random: np.random.Generator) -> list[np.ndarray]:
    """Draw answers of systems that are equal except for the design's gain."""
    unit = np.arange(items) // design.questions
    clips = unit[-1] + 1
    difficulty = random.normal(size=clips)[unit] + random.normal(size=items) + 0.5 * random.normal(size=(4, items))
    answers = []
    for k, runs in enumerate(design.runs):
        logits = LOGITS[:, None] - difficulty + random.normal(size=clips)[unit]
        logits[slice(1, 4) if design.shown == MEANS else 2] += design.gain if k else 0.0
        answers.append(random.random((runs, 4, items)) < 1 / (1 + np.exp(-logits)))
    return answers


def alone(
    design: "Design",
    items: int,
    random: np.random.Generator,
    hints: tuple[Hint, ...],
    shares: tuple[float, float] = (0.85, 0.3),
) -> list[np.ndarray]:
    """Draw answers with these accuracies without a hint (the baseline's first), and probabilities under `hints`."""
    answers = []
    for k, runs in enumerate(design.runs):
        share = shares[min(k, 1)]
        neutral = random.random((runs, items)) < share
        hinted = [random.random((runs, items)) < chance(share, neutral) for chance in hints]
        answers.append(np.stack([neutral, *hinted], axis=1))
    return answers


def kept(part: float, share: float, neutral: np.ndarray) -> np.ndarray:
    """Return the probability of a right answer if this part of the right neutral answers is kept and none is gained."""
    return part * neutral


def independent(part: float, share: float, neutral: np.ndarray) -> float:
    """Return the probability of a right answer if it is independent of the neutral answer."""
    return part * share


def flipped(gained: float, lost: float, share: float, neutral: np.ndarray) -> np.ndarray:
    """Return the probability of a right answer if these shares of all items are gained and lost."""
    return np.where(neutral, 1 - lost / share, gained / (1 - share))


def by_clip(design: "Design", items: int, random: np.random.Generator) -> list[np.ndarray]:
    """Draw answers with 60% right: the baseline's per clip (all or none), the others' independently per answer."""
    unit, answers = np.arange(items) // design.questions, []
    for k, runs in enumerate(design.runs):
        once = random.random((runs, 1, unit[-1] + 1))[..., unit].repeat(4, axis=1)
        answers.append((random.random((runs, 4, items)) if k else once) < 0.6)
    return answers


def by_instance(design: "Design", items: int, random: np.random.Generator) -> list[np.ndarray]:
    """Draw answers whose differences in two instances of a dimension cancel."""
    shares = np.array([[0.5, 0.7, 0.3, 0.5], [0.5, 0.3, 0.7, 0.5]])[..., None]
    return [random.random((runs, 4, items)) < shares[min(k, 1)] for k, runs in enumerate(design.runs)]


@dataclass(frozen=True)
class Design:
    """A simulated comparison: number of runs per system (the baseline first), and the distribution of answers."""

    name: str
    runs: tuple[int, ...] = (1, 1)
    questions: int = 1  # about each clip
    law: Law = by_difficulty
    shown: tuple[str, ...] = tuple(RATIOS)  # figures of which the design says something; MEANS are Dynamic-SUPERB's
    gain: float = 0.0  # logits by which the others are better than the baseline; under the false hint


ALIKE = (
    Design("one run each"),
    Design("four questions about a clip", questions=4),
    Design("three seeds each", runs=(3, 3)),
    Design("one run against three seeds", runs=(1, 3)),
    Design("three systems against a baseline (Holm)", runs=(1, 1, 1, 1)),
    Design("means of Dynamic-SUPERB's instances", shown=MEANS),
)
KEPT = partial(alone, hints=(partial(kept, 0.7),) * 3)
UNEVEN = partial(alone, hints=(partial(kept, 0.97), partial(kept, 0.1), partial(kept, 0.9)))
INDEPENDENT = partial(alone, hints=(partial(independent, 0.97), partial(independent, 0.1), partial(independent, 0.7)))
FLIPPED = partial(alone, hints=(partial(flipped, 0.1, 0.0), partial(flipped, 0.0, 0.2), partial(flipped, 0.05, 0.05)))
ALIKE_ALONE = (
    Design("70% of right answers kept under each hint", law=KEPT, shown=OF_NEUTRAL),
    Design("the same, four questions about a clip", questions=4, law=KEPT, shown=OF_NEUTRAL),
    Design("the same, three seeds each", runs=(3, 3), law=KEPT, shown=OF_NEUTRAL),
    Design("the same, one run against three seeds", runs=(1, 3), law=KEPT, shown=OF_NEUTRAL),
    Design("the same, three systems against a baseline (Holm)", runs=(1, 1, 1, 1), law=KEPT, shown=OF_NEUTRAL),
    Design("97%, 10% and 90% kept", law=UNEVEN, shown=OF_NEUTRAL),
    Design("the same, neutral accuracies 80 and 60",
           law=partial(UNEVEN, shares=(0.8, 0.6)), shown=OF_NEUTRAL),
    Design("70% kept, neutral accuracies 95 and 10",
           law=partial(KEPT, shares=(0.95, 0.1)), shown=OF_NEUTRAL),
    Design("right under hints 0.97, 0.1 and 0.7 times as often, whatever is right without",
           law=INDEPENDENT, shown=(*NORMALISED, "mrs")),
    Design("the same, neutral accuracies 95 and 10",
           law=partial(INDEPENDENT, shares=(0.95, 0.1)), shown=(*NORMALISED, "mrs")),
    Design("10% of items gained, 20% lost, 10% either way",
           law=FLIPPED, shown=FLIPS),
    Design("right about all of a clip or anew in every answer, four questions about a clip",
           questions=4, law=by_clip, shown=(*ACCURACIES, *NORMALISED, "mrs")),
    Design("means of instances, of which each differs", law=by_instance, shown=MEANS),
)  # fmt: skip
APART = tuple(replace(design, gain=1.5, shown=MEANS if design.shown == MEANS else LOWER) for design in ALIKE)


def marks(design: Design, items: int, comparisons: int, seed: int = 0) -> Counter[str]:
    """Count the comparisons, of systems on `items` items, in which each figure of the design is marked.

    Answers are drawn independently for each matching rule, so one comparison of run folders simulates one per rule.
    """
    random = np.random.default_rng([seed, items, *design.name.encode()])
    marked, done = Counter(dict.fromkeys(design.shown, 0)), 0
    rules = RULES[:1] if design.shown == MEANS else RULES
    while done < comparisons:
        right = {rule: design.law(design, items, random) for rule in rules}
        for found in _marked(design, right)[: comparisons - done]:
            marked.update(found)
            done += 1
    return marked


def _marked(design: Design, right: dict[str, list[np.ndarray]]) -> list[set[str]]:
    """Return the figures marked for any system, by rule, from answers by rule and system, bool [runs, 4, items].

    Marks do not depend on the bootstrap.
    """
    systems = {
        str(k): [
            _predictions(design, {rule: answers[k][run] for rule, answers in right.items()}) for run in range(runs)
        ]
        for k, runs in enumerate(design.runs)
    }
    if design.shown == MEANS:
        found = dynamic_superb.differences(systems, "0", draws=2).values()
        by_rule = [[{name.split()[0]: each for name, each in system.items()} for system in found]]
    else:
        pooled = [groups[POOLED] for groups in differences(systems, "0", draws=2).values()]
        by_rule = [pooled, *([system[rule] for system in pooled] for rule in RULES[1:])]
    return [
        {name for name in design.shown if any(system[name]["significant"] for system in systems)} for systems in by_rule
    ]


def _predictions(design: Design, right: dict[str, np.ndarray]) -> list[dict]:
    """Return the predictions of a run folder with answers [4, items]; an instance's items have its condition only."""
    items = right[RULES[0]].shape[1]
    if design.shown == MEANS:
        rows = [(name, None, row, k) for name, (row, part) in INSTANCES.items() for k in range(0, items, part)]
    else:
        rows = [("s", c, row, k) for row, c in enumerate(CONDITIONS) for k in range(items)]
    return [
        {"id": f"{subset}/{k}", "subset": subset, "condition": condition, "clips": [str(k // design.questions)],
         **dict.fromkeys(RULES, False), **{rule: bool(answers[row, k]) for rule, answers in right.items()}}
        for subset, condition, row, k in rows
    ]  # fmt: skip


def table(designs: tuple[Design, ...], sizes: tuple[int, ...], comparisons: int, workers: int) -> str:
    """Return a Markdown table of the designs; cells are computed by `workers` processes."""
    cells = [(k, items) for k in range(len(designs)) for items in sorted(sizes, reverse=True)]
    with ProcessPoolExecutor(workers) as pool, progress("comparing", len(cells)) as advance:
        made = {pool.submit(marks, designs[k], items, comparisons): (k, items) for k, items in cells}
        for _ in as_completed(made):
            advance(1)
    marked = {cell: each.result() for each, cell in made.items()}
    parts = []
    for k, design in enumerate(designs):
        header = ["items", *(name.replace("accuracy", "acc").replace("_", " ") for name in design.shown)]
        lines = [header, ["---:"] * len(header)]
        for items in sizes:
            shares = (f"{100 * marked[k, items][figure] / comparisons:.1f}" for figure in design.shown)
            lines.append([str(items), *shares])
        parts.append(f"**{design.name}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1000, metavar="N", help="for each cell (default 1000)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), metavar="N", help="processes (default: the CPUs)"
    )
    parser.add_argument("--fast", action="store_true", help="fewer items and 50 comparisons, to try the script")
    args = parser.parse_args(argv)
    comparisons, sizes = (50, SIZES[:-2]) if args.fast else (args.comparisons, SIZES)
    error = 100 * sqrt(0.05 * 0.95 / comparisons)
    print(f"{comparisons} comparisons a cell; its standard error at 5% is {error:.1f} points. {cpu_name()}.\n")
    print("## Marked although alike in everything, %\n\n" + table(ALIKE, sizes, comparisons, args.workers) + "\n")
    print("## Marked although alike in truth in that figure alone, %\n")
    print("Neutral accuracies are 85 and 30 where nothing else is said.\n")
    print(table(ALIKE_ALONE, sizes, comparisons, args.workers) + "\n")
    print(f"## Marked where the baseline is {APART[0].gain:g} logits worse under the false hint, %\n")
    print(table(APART, sizes, max(1, comparisons // 5), args.workers))


if __name__ == "__main__":
    main()
