"""Differences between systems: exact tests against enumeration, coverage of intervals and p values."""

import json
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from benchmarks.calibration import ALIKE, ALIKE_ALONE, APART, marks
from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.scoring.bootstrap_scores import RATIOS, score_groups
from caad_ds.evaluation.scoring.resampling_units import FEWEST
from caad_ds.evaluation.scoring.significance import (
    EXCHANGES,
    differences,
    exchange_p,
    exchange_test,
    holm,
    ratio_sums,
)
from tests.tolerance import sampling


def run_of(right, subset="s", questions=1):
    """Predictions from right answers [4, items], so many questions about a clip."""
    return [
        {"id": f"{subset}/{i:03}", "subset": subset, "condition": c, "clips": [f"{subset}{i // questions}"],
         **dict.fromkeys(("right", "strict", "lenient"), False), "right": bool(right[k][i])}
        for k, c in enumerate(CONDITIONS)
        for i in range(len(right[0]))
    ]  # fmt: skip


def systems_of(*arrays, questions=1):
    """One system for each array [runs, 4, items], called a, b, ..."""
    return {name: [run_of(run, questions=questions) for run in runs] for name, runs in zip("abcdef", arrays)}


bits = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def share(right):
    """Numerators and denominators of a share of right answers [units, ...], as `exchange_test` takes them."""
    right = np.array(right, np.float64)
    return np.stack([right, np.ones_like(right)]).reshape(2, len(right), -1)


@settings(max_examples=50, deadline=None)
@given(bits)
def test_one_run_each_is_mcnemars_exact_test(pairs):
    b, c = sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)
    p, least = exchange_test(*(share(right) for right in zip(*pairs)))[:, 0]
    assert p == pytest.approx(binomtest(b, b + c).pvalue if b + c else 1.0)
    assert least == max(2.0 ** (1 - len(pairs)), 1 / (1 + EXCHANGES))


def enumerated(statistic, ours, theirs, unit):
    """p over all 2^units exchanges of answers [runs, 4, items], of a statistic of both systems' sums over runs."""
    observed, extreme, units = statistic(ours, theirs, unit), 0, max(unit) + 1
    for exchanged in product((False, True), repeat=units):
        swap = np.array(exchanged)[unit]
        a, b = np.where(swap, theirs, ours), np.where(swap, ours, theirs)
        extreme += statistic(a, b, unit) >= observed
    return extreme / 2**units


def squared_t(part, whole):
    """(R_a - R_b)^2 over the sum over units of its influence's squares at the common ratio, in exact arithmetic.

    Multiplied by both denominators, so that it is defined where one is 0.
    """

    def statistic(ours, theirs, unit):
        (n_a, d_a), (n_b, d_b) = (
            [[int(of(right)[:, unit == u].sum()) for u in range(max(unit) + 1)] for of in (part, whole)]
            for right in (ours, theirs)
        )
        if not sum(d_a) + sum(d_b):
            return Fraction(0)
        ratio = Fraction(sum(n_a) + sum(n_b), sum(d_a) + sum(d_b))
        influence = [
            sum(d_b) * (n - ratio * d) - sum(d_a) * (m - ratio * e)
            for n, d, m, e in zip(n_a, d_a, n_b, d_b, strict=True)
        ]
        variance = sum(each**2 for each in influence)
        return sum(influence) ** 2 / variance if variance else Fraction(0)

    return statistic


def neutral(right):
    return right[:, 0]


STATISTICS = {
    "accuracy_adversarial": squared_t(lambda r: r[:, 2], lambda r: np.ones_like(r[:, 0])),
    "tir_all_irrelevant": squared_t(lambda r: r[:, 0] ^ r[:, 3], lambda r: np.ones_like(r[:, 0])),
    "norm_accuracy_faithful": squared_t(lambda r: r[:, 1], neutral),
    "shift": squared_t(lambda r: r[:, 0] & ~r[:, 2], neutral),
    "mrs": squared_t(lambda r: 4 * r[:, 2] + 1 * r[:, 3], lambda r: 5 * r[:, 0]),
}


@pytest.mark.parametrize(("runs", "questions"), [(1, 1), (3, 1), (2, 3)])
def test_every_figure_is_tested_as_enumeration_of_all_exchanges_says(runs, questions, monkeypatch):
    monkeypatch.setattr("caad_ds.evaluation.scoring.significance.MOST_LEVERAGE", np.inf)
    rng = np.random.default_rng(runs)
    unit = np.arange(7 * questions) // questions
    for _ in range(4):
        ours, theirs = (rng.random((runs, 4, len(unit))) < chance for chance in (0.7, 0.5))
        found = dict(zip(RATIOS, exchange_p(ours, theirs, lambda right: ratio_sums(right, unit))[0]))
        expected = {name: enumerated(of, ours, theirs, unit) for name, of in STATISTICS.items()}
        assert {name: found[name] for name in expected} == pytest.approx(expected)


def kept_by(neutral, kept, of=200):
    """Answers [1, 4, of] right on the first so many items without a hint, and on so many of them under the hints."""
    item = np.arange(of)
    return np.stack([item < neutral, *[item < kept] * 3])[None]


def test_a_ratio_is_not_marked_where_denominators_differ_and_few_items_count():
    """20 of 20 kept is close to 171 of 180, but none of the 20 shows that a right answer can be lost."""
    ours, theirs = (lambda right: ratio_sums(right, np.arange(200)) for _ in range(2))
    p, least = exchange_test(ours(kept_by(180, 171)), theirs(kept_by(20, 20)))[:, list(RATIOS).index("shift")]
    assert (p, least) == (1, 1)
    found = differences(systems_of(kept_by(180, 171), kept_by(20, 20)), "a", draws=20)["b"]["all"]
    assert found["shift"]["too_few"] and not found["shift"]["significant"]
    assert found["accuracy_neutral"]["significant"] and not found["accuracy_neutral"]["too_few"]
    found = differences(systems_of(kept_by(180, 100), kept_by(120, 20)), "a", draws=20)["b"]["all"]
    assert found["shift"]["significant"] and not found["shift"]["too_few"]


def test_a_mean_over_runs_that_differs_the_other_way_is_not_marked():
    """5 / 1 and 2 / 20 have a mean above 18 / 20, and a ratio of sums below it."""

    def run(neutral, adversarial):
        right = np.zeros((4, 24), bool)
        right[0, :neutral] = right[2, :adversarial] = True
        return run_of(right)

    found = differences({"a": [run(1, 5), run(20, 2)], "b": [run(20, 18), run(20, 18)]}, "b")["a"]["all"]
    ratio = found["norm_accuracy_adversarial"]
    assert ratio["value"] > 0 and ratio["p"] == 1 and not ratio["significant"]
    assert found["accuracy_adversarial"]["value"] < 0 and found["accuracy_adversarial"]["significant"]


def test_drawn_exchanges_agree_with_enumerated_ones(monkeypatch):
    rng = np.random.default_rng(0)
    ours, theirs = (ratio_sums(rng.random((1, 4, 12)) < chance, np.arange(12)) for chance in (0.7, 0.6))
    exact = exchange_test(ours, theirs)
    monkeypatch.setattr("caad_ds.evaluation.scoring.significance.ENUMERATED", 1)
    drawn = exchange_test(ours, theirs)
    assert (abs(drawn - exact) <= [sampling(EXCHANGES, p) for p in exact]).all() and (drawn != exact).any()
    best, worst = share(rng.random(1100) + 1), share(rng.random(1100) - 1)  # more exchanges than a float counts
    with np.errstate(over="raise"):
        assert (exchange_test(best, worst) == 1 / (1 + EXCHANGES)).all(), "never 0"


def test_more_runs_than_the_other_are_tested_by_as_many_at_a_time():
    rng = np.random.default_rng(1)
    one, three = rng.random((1, 4, 30)) < 0.4, rng.random((3, 4, 30)) < 0.8
    sums = partial(ratio_sums, unit=np.arange(30))
    each = [exchange_p(one, three[k : k + 1], sums) for k in range(3)]
    assert exchange_p(one, three, sums) == pytest.approx(np.minimum(1, 3 / 2 * np.median(each, axis=0)))
    assert exchange_p(three, one, sums) == pytest.approx(exchange_p(one, three, sums))


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
    assert (adversarial["higher"], adversarial["lower"], adversarial["test"]) == (6, 0, "exchange")
    assert adversarial["p"] == adversarial["p_holm"] == pytest.approx(2 / 2**6)
    assert adversarial["significant"] and 0 < adversarial["low"] < 0.6 < adversarial["high"] < 1
    assert found["all"]["shift"]["value"] == pytest.approx(-6 / 8)
    assert found["all"]["shift"]["significant"] and not found["all"]["shift"]["too_few"]
    assert found["all"]["shift"]["p"] == pytest.approx(2 / 2**6) and found["all"]["shift"]["least_p"] == 2 / 2**10
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
    tested = {name: found[name]["p"] for name in RATIOS}
    assert tested == dict.fromkeys(tested, 1.0) and len(tested) == 12


def test_the_bootstrap_is_paired():
    """Where b beats a on one and the same item in ten, an unpaired interval would be far wider."""
    base = np.random.default_rng(0).random(400) < 0.5
    better = base | (np.arange(400) % 10 == 0)
    gain = differences(systems_of([[base] * 4], [[better] * 4]), "a")["b"]["all"]["accuracy_neutral"]
    gained = (better & ~base).mean()
    # The normal interval; two quantiles of 2,000 draws scatter by 2% of it, and are multiples of 1 / 400.
    assert gain["high"] - gain["low"] == pytest.approx(2 * 1.96 * np.sqrt(gained * (1 - gained) / 400), rel=0.2)


def test_a_difference_that_every_draw_repeats_has_no_interval():
    right = [[[1] * 9, [1] * 9, [wrong] * 9, [1] * 9] for wrong in (0, 1)]
    shift = differences(systems_of(right[:1], right[1:]), "a", draws=99)["b"]["all"]["shift"]
    assert (shift["value"], shift["low"], shift["high"], shift["p"]) == (-1, None, None, 2 / 2**9)


@pytest.mark.parametrize("items", range(1, 8))
@pytest.mark.parametrize("others", [1, 3])
def test_too_few_items_say_so_and_are_never_marked(items, others):
    """Whatever they answer: one system is right, the others wrong, on all items."""
    best, worst = np.ones((1, 4, items), bool), np.zeros((1, 4, items), bool)
    worst[:, 0] = True  # the ratios' denominators are alike
    found = differences(systems_of(best, *[worst] * others), "a", draws=200)
    for metric in ("accuracy_adversarial", "shift", "mrs"):
        for name in found:
            tested = found[name]["all"][metric]
            assert tested["too_few"] == (others * 2 / 2**items >= 0.05)
            assert not (tested["too_few"] and tested["significant"])
            assert tested["significant"] == (others * 2 / 2**items < 0.05)


def test_questions_about_one_clip_are_one_item_to_the_test():
    """Twenty items about four clips, all answers about a clip right or wrong: four clips are too few for a test."""
    hears, deaf = np.ones((1, 4, 20), bool), np.zeros((1, 4, 20), bool)
    for questions, units in ((5, 4), (1, 20)):
        found = differences(systems_of(deaf, hears, questions=questions), "a", draws=20)["b"]["all"]
        accuracy = found["accuracy_neutral"]
        assert accuracy["p"] == pytest.approx(2 / 2**units) and accuracy["higher"] == 20
        assert accuracy["significant"] == (units == 20) and accuracy["too_few"] == (units == 4)


def test_holm_corrects_over_the_systems_of_a_metric():
    rng = np.random.default_rng(5)
    systems = systems_of(*(rng.random((5, 1, 4, 80)) < np.array([0.5, 0.6, 0.65, 0.7, 0.75])[:, None, None, None]))
    found = differences(systems, "a", draws=200)
    for metric in ("accuracy_neutral", "shift"):
        family = [found[name]["all"][metric] for name in "bcde"]
        assert [d["p_holm"] for d in family] == holm([d["p"] for d in family])
        assert [d["significant"] for d in family] == [d["p_holm"] < 0.05 for d in family]
        assert all(d["p_holm"] >= d["p"] for d in family)


def cells(designs, sizes):
    """A case of each design and size; 50 items are slow."""
    return [
        pytest.param(design, items, id=f"{design.name}-{items}", marks=[pytest.mark.slow] * (items == 50))
        for design in designs
        for items in sizes
    ]


@pytest.mark.parametrize(("design", "items"), cells(ALIKE, (1, 4, 8, 20, 50)) + cells(ALIKE_ALONE, (8, 50)))
def test_systems_alike_in_truth_are_marked_no_oftener_than_promised(design, items):
    """At most 5%, within the precision of this number of comparisons: P(more) < 1% at 5%. The benchmark makes more."""
    comparisons = 15 if items == 1 else 40
    marked = marks(design, items, comparisons)
    most = 0 if items < FEWEST else binom.isf(0.01, comparisons, 0.05)
    assert set(marked) == set(design.shown) and max(marked.values()) <= most, marked


@pytest.mark.parametrize("design", APART, ids=lambda design: design.name)
def test_systems_that_differ_are_marked(design):
    marked = marks(replace(design, gain=2.5), 100, 4)
    assert all(marked[figure] >= 2 for figure in design.shown), marked


def test_intervals_hold_the_difference_that_is_there():
    rng, found = np.random.default_rng(11), []
    for _ in range(60):
        chance = rng.random((4, 50))  # items differ in difficulty, as they do
        a, b = ((rng.random((2, 4, 50)) < chance) for _ in range(2))
        found.append(differences(systems_of(a, b), "a", draws=100)["b"]["all"])
    for metric in ("accuracy_adversarial", "shift", "mrs"):
        assert np.mean([d[metric]["low"] <= 0 <= d[metric]["high"] for d in found]) > 0.88, metric
