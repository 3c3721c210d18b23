"""Differences between systems: exact tests against enumeration, intervals and p values against what they promise."""

import json
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from caad_ds.evaluation.mcr_bench import CONDITIONS
from caad_ds.evaluation.scores import score_groups
from caad_ds.evaluation.significance import differences, holm, sign_flip


def run_of(right, subset="s"):
    """Predictions from right answers [4, items]."""
    return [
        {"id": f"{subset}/{i:03}", "subset": subset, "condition": c, "right": bool(right[k][i]), "strict": False, "lenient": False}
        for k, c in enumerate(CONDITIONS)
        for i in range(len(right[0]))
    ]


def systems_of(*arrays):
    """One system for each array [runs, 4, items], called a, b, ..."""
    return {name: [run_of(run) for run in runs] for name, runs in zip("abcdef", arrays)}


bits = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(bits)
def test_one_run_each_is_mcnemars_exact_test(pairs):
    ours, theirs = np.array(pairs).T[:, None]
    found = sign_flip(ours, theirs)
    b, c = sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)
    assert (found["higher"], found["lower"]) == (b, c)
    assert found["p"] == pytest.approx(binomtest(b, b + c).pvalue if b + c else 1.0)


@pytest.mark.parametrize("runs", [(2, 2), (3, 1), (2, 3)])
def test_several_runs_are_tested_as_enumeration_says(runs):
    rng = np.random.default_rng(sum(runs))
    for _ in range(5):
        ours, theirs = (rng.random((count, 9)) < chance for count, chance in zip(runs, (0.8, 0.3)))
        means = [[Fraction(int(n), len(a)) for n in a.sum(0)] for a in (ours, theirs)]
        by_item = [mine - other for mine, other in zip(*means)]
        flipped = [abs(sum(s * d for s, d in zip(signs, by_item))) for signs in product((-1, 1), repeat=9)]
        expected = sum(total >= abs(sum(by_item)) for total in flipped) / len(flipped)
        assert sign_flip(ours, theirs)["p"] == pytest.approx(expected)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_difference_by_hand():
    """b is right under the false hint on 6 items more, and on none fewer."""
    neutral = [1] * 8 + [0] * 2
    a = [neutral, neutral, [1] * 2 + [0] * 8, neutral]
    b = [neutral, neutral, [1] * 8 + [0] * 2, neutral]
    found = differences(systems_of([a], [b]), "a")["b"]
    adversarial = found["all"]["accuracy_adversarial"]
    assert adversarial["value"] == pytest.approx(0.6)
    assert (adversarial["higher"], adversarial["lower"], adversarial["test"]) == (6, 0, "exact")
    assert adversarial["p"] == adversarial["p_holm"] == pytest.approx(2 / 2**6)
    assert adversarial["significant"] and 0 < adversarial["low"] < 0.6 < adversarial["high"] < 1
    assert found["all"]["shift"]["value"] == pytest.approx(-6 / 8)
    assert found["all"]["shift"]["test"] == "bootstrap" and found["all"]["shift"]["significant"]
    assert found["all"]["mrs"]["value"] == pytest.approx(0.8 * 6 / 8)
    assert found["all"]["tir_all_adversarial"]["value"] == pytest.approx(-0.6)
    assert found["all"]["accuracy_neutral"]["p"] == 1 and not found["all"]["accuracy_neutral"]["significant"]
    assert found["s"] == found["all"] and found["all"]["strict"]["shift"]["value"] is None
    json.dumps(found, allow_nan=False)


def test_differences_are_those_of_the_scores_and_change_sign_with_the_baseline():
    rng = np.random.default_rng(3)
    systems = systems_of(rng.random((3, 4, 60)) < 0.6, rng.random((1, 4, 60)) < 0.7)
    scores = {name: score_groups(runs)["all"] for name, runs in systems.items()}
    forth, back = differences(systems, "a", draws=200)["b"]["all"], differences(systems, "b", draws=200)["a"]["all"]
    for metric in ("accuracy_faithful", "norm_accuracy_irrelevant", "tir_all_irrelevant", "shift", "mrs"):
        there, again = forth[metric], back[metric]
        assert there["value"] == pytest.approx(scores["b"][metric]["value"] - scores["a"][metric]["value"])
        assert [there["value"], there["low"], there["high"]] == pytest.approx(
            [-again["value"], -again["high"], -again["low"]]
        )
        assert there["p"] == pytest.approx(again["p"])


def test_a_system_does_not_differ_from_its_own_answers_repeated():
    right = np.random.default_rng(0).random((1, 4, 50)) < 0.6
    found = differences(systems_of(right, np.repeat(right, 3, axis=0)), "a")["b"]["all"]
    tested = {name: metric["p"] for name, metric in found.items() if name != "strict"}
    assert tested == dict.fromkeys(tested, 1.0) and len(tested) == 12


def test_the_bootstrap_is_paired():
    """Where b beats a on one and the same item in ten, an unpaired interval would be far wider."""
    base = np.random.default_rng(0).random(400) < 0.5
    better = base | (np.arange(400) % 10 == 0)
    gain = differences(systems_of([[base] * 4], [[better] * 4]), "a")["b"]["all"]["accuracy_neutral"]
    gained = (better & ~base).mean()
    assert gain["high"] - gain["low"] == pytest.approx(2 * 1.96 * np.sqrt(gained * (1 - gained) / 400), rel=0.2)


def test_a_ratios_p_value_is_two_sided_and_as_small_as_the_draws_allow():
    right = [[[1] * 9, [1] * 9, [wrong] * 9, [1] * 9] for wrong in (0, 1)]
    shift = differences(systems_of(right[:1], right[1:]), "a", draws=99)["b"]["all"]["shift"]
    assert (shift["value"], shift["low"], shift["high"], shift["p"]) == (-1, -1, -1, 2 / 100)


def test_holm_corrects_over_the_systems_of_a_metric():
    rng = np.random.default_rng(5)
    systems = systems_of(*(rng.random((5, 1, 4, 80)) < np.array([0.5, 0.6, 0.65, 0.7, 0.75])[:, None, None, None]))
    found = differences(systems, "a", draws=200)
    for metric in ("accuracy_neutral", "shift"):
        family = [found[name]["all"][metric] for name in "bcde"]
        assert [d["p_holm"] for d in family] == holm([d["p"] for d in family])
        assert [d["significant"] for d in family] == [d["p_holm"] < 0.05 for d in family]
        assert all(d["p_holm"] >= d["p"] for d in family)


def test_equal_systems_are_told_apart_no_oftener_than_promised():
    rng = np.random.default_rng(11)
    found = []
    for _ in range(100):
        chance = rng.random((4, 50))  # items differ in difficulty, as they do
        a, b = ((rng.random((2, 4, 50)) < chance) for _ in range(2))
        found.append(differences(systems_of(a, b), "a", draws=100)["b"]["all"])
    for metric in ("accuracy_adversarial", "tir_all_adversarial", "shift", "mrs"):
        assert np.mean([d[metric]["p"] < 0.05 for d in found]) < 0.1, metric
    for metric in ("accuracy_adversarial", "shift", "mrs"):
        assert np.mean([d[metric]["low"] <= 0 <= d[metric]["high"] for d in found]) > 0.88, metric
