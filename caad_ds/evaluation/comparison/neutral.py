"""Check by neutral accuracy whether systems are comparable.

A system that guesses has a low shift, too.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable

from caad_ds.evaluation.scoring.bootstrap_scores import POOLED
from caad_ds.evaluation.tables_and_plots.tables import percent

WITHIN = 0.02  # distance from the baseline's neutral accuracy beyond which shifts are not comparable
COMMONEST = "commonest label"


def commonest_labels(predictions: Iterable[dict]) -> dict[str, float]:
    """Return the neutral accuracy of always naming each subset's commonest label, by subset and pooled."""
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for prediction in predictions:
        if prediction["condition"] == "neutral":
            labels[prediction["subset"]][prediction["gt"]] += 1
    most = {subset: max(counts.values()) for subset, counts in labels.items()}
    shares = {subset: most[subset] / counts.total() for subset, counts in labels.items()}
    return {POOLED: sum(most.values()) / sum(map(Counter.total, labels.values())), **shares}


def neutral_notes(systems: dict[str, dict], baseline: str, commonest: float) -> list[str]:
    """Return a line on the systems that are no better than a guess, and one on those too far from the baseline."""
    neutral = {name: groups[POOLED]["accuracy_neutral"]["value"] for name, groups in systems.items()}
    gaps = {name: value - neutral[baseline] for name, value in neutral.items()}
    guessing = ", ".join(f"{name} {percent(value)}" for name, value in neutral.items() if value <= commonest)
    apart = ", ".join(f"{name} {100 * gap:+.1f}" for name, gap in gaps.items() if abs(gap) > WITHIN + 1e-9)
    notes = []
    if guessing:
        notes.append(
            f"Neutral accuracy is not above naming each attribute's commonest label ({percent(commonest)}): {guessing}."
        )
    if apart:
        notes.append(
            f"Neutral accuracy is more than {100 * WITHIN:g} points from {baseline}'s, too far to compare shifts: "
            f"{apart}."
        )
    return notes


def by_attribute(systems: dict[str, dict], commonest: dict[str, float]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of neutral accuracy, a row per system and one of the commonest labels."""
    subsets = [name for name in next(iter(systems.values())) if name != POOLED]
    rows = [
        [system, *(percent(groups[subset]["accuracy_neutral"]["value"]) for subset in subsets)]
        for system, groups in systems.items()
    ]
    return ["system", *subsets], [*rows, [COMMONEST, *(percent(commonest[subset]) for subset in subsets)]]
