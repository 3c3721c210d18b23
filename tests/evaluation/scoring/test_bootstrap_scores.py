import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.scoring.bootstrap_scores import resample, score, score_groups
from caad_ds.evaluation.scoring.resampling_units import numbered, units_of


def one_run(neutral, faithful, adversarial, irrelevant):
    return np.array([[neutral, faithful, adversarial, irrelevant]], dtype=bool)


def values(scores):
    return {name: metric["value"] for name, metric in scores.items() if isinstance(metric, dict)}


def test_hand_computed_case():
    right = one_run(
        neutral=[1, 1, 1, 1, 0, 0, 0, 0, 1, 0],
        faithful=[1, 1, 1, 0, 1, 1, 1, 0, 1, 0],
        adversarial=[1, 0, 0, 1, 0, 1, 0, 0, 0, 0],
        irrelevant=[1, 1, 0, 1, 1, 0, 0, 0, 1, 0],
    )
    assert values(score(right)) == pytest.approx(
        {
            "accuracy_neutral": 0.5,
            "accuracy_faithful": 0.7,
            "accuracy_adversarial": 0.3,
            "accuracy_irrelevant": 0.5,
            "norm_accuracy_faithful": 1.4,
            "norm_accuracy_adversarial": 0.6,
            "norm_accuracy_irrelevant": 1.0,
            "tir_all_faithful": 0.3,
            "tir_all_adversarial": 0.3,
            "tir_all_irrelevant": 0.2,
            "shift": 0.6,
            "mrs": 0.68,
        }
    )


def test_nothing_right_when_neutral_leaves_ratios_undefined():
    scores = score(one_run([0, 0], [1, 1], [0, 1], [0, 0]))
    assert [scores[k]["value"] for k in ("shift", "mrs", "norm_accuracy_faithful")] == [None] * 3
    assert scores["tir_all_faithful"]["value"] == 1
    assert scores["shift"]["low"] is None
    json.dumps(scores, allow_nan=False)


def test_several_runs_give_mean_and_sample_deviation():
    runs = np.concatenate([one_run([1, 1, 1, 1], [1] * 4, row, [1] * 4) for row in ([1, 1, 0, 0], [1, 1, 1, 1])])
    shift = score(runs)["shift"]
    assert shift["value"] == 0.25
    assert shift["deviation"] == pytest.approx(np.std([0.5, 0.0], ddof=1))
    assert score(runs[:1])["shift"]["deviation"] is None


def test_intervals_cover_the_value_and_narrow_with_items():
    rng = np.random.default_rng(1)
    widths = []
    for items in (50, 5000):
        accuracy = score(rng.random((1, 4, items)) < 0.7)["accuracy_neutral"]
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
        widths.append(accuracy["high"] - accuracy["low"])
    # The normal interval; two quantiles of 1,000 draws scatter by 3% of it, and of 50 items are multiples of 0.02.
    assert widths[0] == pytest.approx(2 * 1.96 * np.sqrt(0.21 / 50), rel=0.2)
    assert widths[1] == pytest.approx(widths[0] / 10, rel=0.2)


def test_bootstrap_is_paired_over_conditions():
    """A model that never changes its answer has ratio 1 in every draw, so the bootstrap shows no uncertainty."""
    same = np.random.default_rng(0).random(200) < 0.5
    right = one_run(same, same, same, same)
    assert (resample(right, np.arange(200), 50, seed=0)[1]["norm_accuracy_adversarial"] == 1).all()
    norm = score(right)["norm_accuracy_adversarial"]
    assert (norm["low"], norm["value"], norm["high"]) == (None, 1, None)


@pytest.mark.parametrize("items", [1, 2, 3, 4, 5, 8, 200])
def test_answers_that_are_all_right_are_no_certainty(items):
    """Wilson's interval of a share; a ratio has none."""
    scores = score(np.ones((1, 4, items), bool))
    z = 1.959963984540054
    for share in ("accuracy_neutral", "accuracy_adversarial"):
        assert (scores[share]["low"], scores[share]["high"]) == (pytest.approx(items / (items + z * z)), 1)
    assert scores["tir_all_adversarial"]["high"] == pytest.approx(z * z / (items + z * z))
    for ratio in ("shift", "mrs", "norm_accuracy_faithful"):
        assert scores[ratio]["value"] is not None and scores[ratio]["low"] is scores[ratio]["high"] is None


def test_items_that_share_a_clip_are_drawn_together():
    """Four questions about a clip with equal answers count like one."""
    clips = np.random.default_rng(0).random((1, 4, 50)) < 0.6
    one, four = score(clips), score(np.repeat(clips, 4, axis=-1), unit=np.repeat(np.arange(50), 4))
    assert (four["items"], four["clips"]) == (200, 50)
    for metric in ("accuracy_neutral", "shift", "mrs"):
        assert [four[metric][k] for k in ("value", "low", "high")] == pytest.approx(
            [one[metric][k] for k in ("value", "low", "high")]
        )


def test_units_are_what_clips_link():
    clips = {"a": ["1"], "b": ["1", "2"], "c": ["3"], "d": ["2"], "e": [], "f": []}
    units = units_of([{"id": name, "clips": ids} for name, ids in clips.items()])
    assert units["a"] == units["b"] == units["d"]
    assert len(set(units.values())) == 4
    assert numbered(units, ["f", "a", "d"]).tolist() in ([0, 1, 1], [1, 0, 0])


bools = st.lists(st.booleans(), min_size=1, max_size=30)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=20))
def test_every_metric_is_its_definition(answers):
    """The definitions of the paper and of MCR-BENCH, counted item by item."""
    items, right = len(answers), [sum(column) for column in zip(*answers)]
    flips = [
        sum(not neutral and faithful for neutral, faithful, _, _ in answers),
        sum(neutral and not adversarial for neutral, _, adversarial, _ in answers),
        sum(neutral != irrelevant for neutral, _, _, irrelevant in answers),
    ]
    expected = {f"accuracy_{c}": count / items for c, count in zip(CONDITIONS, right)}
    expected |= {f"tir_all_{c}": count / items for c, count in zip(CONDITIONS[1:], flips)}
    norm = {c: count / right[0] if right[0] else None for c, count in zip(CONDITIONS, right)}
    expected |= {f"norm_accuracy_{c}": norm[c] for c in CONDITIONS[1:]}
    expected["shift"] = flips[1] / right[0] if right[0] else None
    expected["mrs"] = 0.8 * norm["adversarial"] + 0.2 * norm["irrelevant"] if right[0] else None
    found = values(score(np.array([answers]).swapaxes(1, 2), draws=5))
    assert found == {name: None if value is None else pytest.approx(value) for name, value in expected.items()}


def test_draws_come_in_blocks_without_changing_them():
    right = np.random.default_rng(2).random((1, 4, 30)) < 0.6
    whole = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=1000) / 30
    low, high = np.quantile(whole @ right[0, 0], [0.025, 0.975])
    accuracy = score(right)["accuracy_neutral"]
    assert (accuracy["low"], accuracy["high"]) == pytest.approx((low, high))


@settings(max_examples=30, deadline=None)
@given(bools)
def test_ignoring_the_text(neutral):
    scores = values(score(one_run(neutral, neutral, neutral, neutral), draws=20))
    assert [scores[f"tir_all_{c}"] for c in CONDITIONS[1:]] == [0, 0, 0]
    assert scores["shift"] == (0 if any(neutral) else None)


@settings(max_examples=30, deadline=None)
@given(bools)
def test_always_following_the_text(neutral):
    n = len(neutral)
    scores = values(score(one_run(neutral, [1] * n, [0] * n, neutral), draws=20))
    assert scores["tir_all_adversarial"] == pytest.approx(scores["accuracy_neutral"])
    assert scores["accuracy_faithful"] == 1 and scores["accuracy_adversarial"] == 0
    assert scores["shift"] == (pytest.approx(1) if any(neutral) else None)


def test_groups_by_subset_and_pools_items():
    predictions = [
        {"id": f"{subset}/{i}", "subset": subset, "condition": c, "right": subset == "rate", "strict": False,
         "lenient": subset == "rate"}
        for subset, count in (("rate", 1), ("noise", 3))
        for i in range(count)
        for c in CONDITIONS
    ]  # fmt: skip
    groups = score_groups([predictions])
    assert list(groups) == ["all", "noise", "rate"]
    assert [groups[g]["items"] for g in groups] == [4, 3, 1]
    assert groups["all"]["accuracy_neutral"]["value"] == 0.25
    assert groups["rate"]["accuracy_adversarial"]["value"] == 1
    assert groups["rate"]["strict"]["accuracy_adversarial"]["value"] == 0
    assert groups["rate"]["lenient"]["accuracy_adversarial"]["value"] == 1
    json.dumps(groups, allow_nan=False)
