"""Checks that systems have sufficient, and similar, neutral accuracies to be compared."""

from caad_ds.evaluation.comparison.neutral import by_attribute, commonest_labels, neutral_notes
from caad_ds.evaluation.scoring.bootstrap_scores import score_groups

SUBSETS = {"language": ["en", "en", "en", "fr"], "noise": ["clean", "noisy"]}


def predictions(right: set[tuple[str, int]]) -> list[dict]:
    """Answers to all items, those in `right` right under every condition."""
    return [
        {"id": f"{subset}/{k}", "subset": subset, "condition": condition, "gt": gt, "prediction": "",
         "right": (subset, k) in right, "strict": (subset, k) in right, "lenient": (subset, k) in right}
        for subset, labels in SUBSETS.items()
        for k, gt in enumerate(labels)
        for condition in ("neutral", "faithful", "adversarial", "irrelevant")
    ]  # fmt: skip


def test_guesses_and_systems_that_are_too_far_apart_are_named():
    every = {(subset, k) for subset, labels in SUBSETS.items() for k in range(len(labels))}
    answers = {"a": predictions(every), "b": predictions(every - {("noise", 0)}), "c": predictions({("noise", 0)})}
    systems = {name: score_groups([each]) for name, each in answers.items()}
    commonest = commonest_labels(answers["a"])
    assert commonest == {"all": 4 / 6, "language": 0.75, "noise": 0.5}
    deaf, apart = neutral_notes(systems, "a", commonest["all"])
    assert deaf.endswith("commonest label (66.7): c 16.7.")
    assert "more than 2 points from a's" in apart and apart.endswith("b -16.7, c -83.3.")
    assert neutral_notes({"a": systems["a"]}, "a", commonest["all"]) == []
    header, rows = by_attribute(systems, commonest)
    assert header == ["system", "language", "noise"]
    assert rows == [
        ["a", "100.0", "100.0"], ["b", "100.0", "50.0"], ["c", "0.0", "50.0"], ["commonest label", "75.0", "50.0"],
    ]  # fmt: skip
