"""How often `caad-ds compare` marks a figure of two systems that are alike in truth, and of two that are not.

    python benchmarks/calibration.py [--comparisons 1000] [--fast]

Systems answer items of random difficulty: each clip has a difficulty of its own, each question another, each condition
a third; a system, with all of its seeds, finds some clips easier than they are, which is drawn anew for every system.
Alike in truth are systems whose difficulties are drawn from one law. A cell is the share of simulated comparisons in
which the figure is marked for any system, in percent; at most 5 is promised where systems are alike.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import cpu_name
from caad_ds.evaluation import dynamic_superb_scores
from caad_ds.evaluation.mcr_bench import CONDITIONS
from caad_ds.evaluation.scores import POOLED, RATIOS, RULES
from caad_ds.evaluation.significance import differences
from caad_ds.progress import progress

SIZES = (1, 2, 3, 4, 8, 20, 50, 200)
LOGITS = np.array([1.2, 2.5, -0.3, 1.0])  # of a right answer, by condition
NEUTRAL = (0.85, 0.3)  # share of right answers of systems that are alike in ratios alone
KEPT = 0.7  # of those right answers under a false hint
SHARED = {"SpeakerCounting_LibriTTS-TestClean": 1, "MultiSpeakerDetection_LibriSpeech-TestClean": 2}
ALONE = {"SarcasmDetection_Mustard": 1}  # of another dimension
INSTANCES = SHARED | ALONE  # one item in so many


@dataclass(frozen=True)
class Design:
    """What is compared: the number of runs of each system, the first the baseline, and how they differ in truth."""

    name: str
    runs: tuple[int, ...] = (1, 1)
    questions: int = 1  # about each clip
    instances: bool = False  # Dynamic-SUPERB's means, not MCR-BENCH's conditions
    ratios_alone: bool = False  # alike in ratios, and far apart in accuracy
    gain: float = 0.0  # logits by which the others are better than the baseline; under the false hint

    @property
    def systems_differ(self) -> bool:
        """Whether a mark is right."""
        return self.gain != 0

    @property
    def shown(self) -> tuple[str, ...]:
        """The figures of which the design says something."""
        if self.instances:
            return "SEM", "SPK", "mean"
        if self.ratios_alone:
            return "norm_accuracy_adversarial", "shift", "mrs"
        lower = "accuracy_adversarial", "norm_accuracy_adversarial", "tir_all_adversarial", "shift", "mrs"
        return lower if self.systems_differ else tuple(RATIOS)


ALIKE = (
    Design("one run each"),
    Design("four questions about a clip", questions=4),
    Design("three seeds each", runs=(3, 3)),
    Design("one run against three seeds", runs=(1, 3)),
    Design("three systems against a baseline (Holm)", runs=(1, 1, 1, 1)),
    Design("alike in ratios alone", ratios_alone=True),
    Design("means of Dynamic-SUPERB's instances", instances=True),
)
DESIGNS = ALIKE + tuple(replace(design, gain=1.5) for design in ALIKE if not design.ratios_alone)


def marks(design: Design, items: int, comparisons: int, seed: int = 0) -> Counter[str]:
    """In how many of so many comparisons of systems on `items` items each figure of the design is marked.

    Answers are drawn anew for every rule of matching, so that a comparison of run folders makes one of each rule.
    """
    random = np.random.default_rng([seed, items, *design.name.encode()])
    marked, done = Counter(dict.fromkeys(design.shown, 0)), 0
    while done < comparisons:
        draw = _ratios_alone if design.ratios_alone else _answers
        right = {rule: draw(design, items, random) for rule in (RULES[:1] if design.instances else RULES)}
        for found in _marked(design, right)[: comparisons - done]:
            marked.update(found)
            done += 1
    return marked


def _answers(design: Design, items: int, random: np.random.Generator) -> list[np.ndarray]:
    """bool [runs, 4, items] of each system."""
    unit = np.arange(items) // design.questions
    clips = unit[-1] + 1
    difficulty = random.normal(size=clips)[unit] + random.normal(size=items) + 0.5 * random.normal(size=(4, items))
    found = []
    for k, runs in enumerate(design.runs):
        logits = LOGITS[:, None] - difficulty + random.normal(size=clips)[unit]
        logits[2] += design.gain if k else 0.0
        found.append(random.random((runs, 4, items)) < 1 / (1 + np.exp(-logits)))
    return found


def _ratios_alone(design: Design, items: int, random: np.random.Generator) -> list[np.ndarray]:
    found = []
    for share, runs in zip(NEUTRAL, design.runs, strict=True):
        neutral = random.random((runs, items)) < share
        found.append(np.stack([neutral, neutral, neutral & (random.random((runs, items)) < KEPT), neutral], axis=1))
    return found


def _marked(design: Design, right: dict[str, list[np.ndarray]]) -> list[set[str]]:
    """By rule the figures that are marked for any system, from answers by rule and system, bool [runs, 4, items].

    Draws of the bootstrap change nothing about that.
    """
    systems = {
        str(k): [
            _predictions(design, {rule: answers[k][run] for rule, answers in right.items()}) for run in range(runs)
        ]
        for k, runs in enumerate(design.runs)
    }
    if design.instances:
        found = dynamic_superb_scores.differences(systems, "0", draws=2).values()
        by_rule = [[{name.split()[0]: each for name, each in system.items()} for system in found]]
    else:
        pooled = [groups[POOLED] for groups in differences(systems, "0", draws=2).values()]
        by_rule = [pooled, *([system[rule] for system in pooled] for rule in RULES[1:])]
    return [
        {name for name in design.shown if any(system[name]["significant"] for system in systems)} for systems in by_rule
    ]


def _predictions(design: Design, right: dict[str, np.ndarray]) -> list[dict]:
    """What a run folder holds of answers [4, items]; of instances, each item under the false hint's condition alone."""
    items = right[RULES[0]].shape[1]
    if design.instances:
        asked = [(name, None, 2, k) for name, part in INSTANCES.items() for k in range(0, items, part)]
    else:
        asked = [("s", c, row, k) for row, c in enumerate(CONDITIONS) for k in range(items)]
    return [
        {"id": f"{subset}/{k}", "subset": subset, "condition": condition, "clips": [str(k // design.questions)],
         **dict.fromkeys(RULES, False), **{rule: bool(answers[row, k]) for rule, answers in right.items()}}
        for subset, condition, row, k in asked
    ]  # fmt: skip


def table(designs: tuple[Design, ...], sizes: tuple[int, ...], comparisons: int) -> str:
    """A Markdown table of each design."""
    parts = []
    with progress("comparing", len(designs) * sum(sizes)) as advance:
        for design in designs:
            header = ["items", *(name.replace("accuracy", "acc").replace("_", " ") for name in design.shown)]
            lines = [header, ["---:"] * len(header)]
            for items in sizes:
                marked = marks(design, items, comparisons)
                lines.append([str(items), *(f"{100 * marked[figure] / comparisons:.1f}" for figure in design.shown)])
                advance(items)
            parts.append(f"**{design.name}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=1000, metavar="N", help="for each cell (default 1000)")
    parser.add_argument("--fast", action="store_true", help="fewer items and 50 comparisons, to try the script")
    args = parser.parse_args(argv)
    comparisons, sizes = (50, SIZES[:-2]) if args.fast else (args.comparisons, SIZES)
    error = 100 * sqrt(0.05 * 0.95 / comparisons)
    print(f"{comparisons} comparisons a cell; its standard error at 5% is {error:.1f} points. {cpu_name()}.\n")
    print("## Marked although alike in truth, %\n\n" + table(ALIKE, sizes, comparisons) + "\n")
    power = tuple(design for design in DESIGNS if design.systems_differ)
    print(f"## Marked where the baseline is {power[0].gain:g} logits worse under the false hint, %\n")
    print(table(power, sizes, max(1, comparisons // 5)))


if __name__ == "__main__":
    main()
