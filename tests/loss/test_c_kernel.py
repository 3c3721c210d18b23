"""The C arithmetic against float64, and when it is taken."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caad_ds.loss import c_kernel
from tests.loss.conftest import agreeing, close
from tests.loss.test_loss_accuracy import assert_close, drawn, scalars, small_chunks, tensors

pytestmark = pytest.mark.numeric

PAPER = {"divergence": "forward_kl", "plausibility": None}

if reason := c_kernel.unavailable():
    pytest.skip(reason, allow_module_level=True)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    shape=tensors.map(lambda shape: shape | {"softcap": None}),
    options=scalars.map(lambda options: options | PAPER),
    chunk=st.sampled_from([1, 3, 64, 1000]),
    sharpen=st.sampled_from([None, 0.0, 1.5]),
    small=st.sampled_from([1, c_kernel.SMALL]),
)
def test_matches_the_reference_in_float64(problem, shape, options, chunk, sharpen, small):
    p, exact = drawn(problem, shape, options, sharpen)
    with small_chunks(p, chunk), patch.object(c_kernel, "SMALL", small), patch("torch.get_num_threads", return_value=3):
        assert_close(p, options, p.with_gradients(implementation="native", **options), exact)


@pytest.mark.parametrize("vocab", [4095, 4097, 40_000])
def test_a_vocabulary_of_several_blocks(problem, vocab):
    options = {"alpha": 2.0, "temperature": 2.0, "kd_weight": 0.7}
    p = problem(rows=5, vocab=vocab, scale=5.0)
    exact = p.to(torch.float64).with_gradients(implementation="reference", **options)
    assert_close(p, options, p.with_gradients(implementation="native", **options), exact)


@pytest.mark.parametrize("options", [{}, {"kd_weight": 0.0}, {"kd_weight": 1.0}, {"alpha": 0.0}])
def test_diagnostics_are_those_of_the_chunked_version(problem, options):
    p = agreeing(problem(rows=12, vocab=101, widths=(7, 7), masked=0.3, scale=3.0))
    found = p.loss(implementation="native", **options).diagnostics
    expected = p.loss(implementation="chunked", **options).diagnostics
    assert set(found) == set(expected)
    for name, value in expected.items():
        close(found[name], value)


@pytest.mark.parametrize("name", ["student", "positive"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_none(problem, name, value):
    p = problem(vocab=37)
    getattr(p, name)[2, 0] = value
    out = p.loss(implementation="native")
    assert out.loss.isnan() and out.kd.isnan()


def test_ignored_rows_may_hold_anything(problem):
    p, clean = problem(masked=0.5), problem(masked=0.5)
    p.student[p.labels == -100] = float("nan")
    found, expected = (x.with_gradients(implementation="native") for x in (p, clean))
    assert found[0].loss == expected[0].loss
    assert all(torch.equal(a, b) for a, b in zip(found[1], expected[1], strict=True))


@pytest.mark.parametrize(
    "options, lacking", [({"divergence": "jsd"}, "divergence jsd"), ({"plausibility": 0.1}, "plausibility")]
)
def test_what_it_lacks_is_named_and_auto_takes_another(problem, options, lacking):
    p = problem()
    with pytest.raises(ValueError, match=f"implementation is native, expected another: native has no {lacking}"):
        p.loss(implementation="native", **options)
    assert p.loss(**options).loss == p.loss(implementation="chunked", **options).loss


def test_a_softcap_and_float64_are_named(problem):
    with pytest.raises(ValueError, match="native has no softcap"):
        problem(softcap=5.0).loss(implementation="native")
    with pytest.raises(ValueError, match=r"student_hidden\.dtype"):
        problem(dtype=torch.float64).loss(implementation="native")


def test_a_compiler_of_several_words(problem, monkeypatch):
    expected = problem().loss(implementation="native").loss
    monkeypatch.setenv("CC", "env LANG=C cc")
    c_kernel.library.cache_clear()
    try:
        assert problem().loss(implementation="native").loss == expected
    finally:
        c_kernel.library.cache_clear()


def test_without_a_compiler_auto_is_the_chunked_version(problem, monkeypatch):
    p = problem(rows=40)
    assert p.loss().loss == p.loss(implementation="native").loss
    monkeypatch.setenv("CC", "no-such-compiler")
    c_kernel.library.cache_clear(), c_kernel.unavailable.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"expected another: .*no-such-compiler"):
            p.loss(implementation="native")
        assert p.loss().loss == p.loss(implementation="chunked").loss
    finally:
        c_kernel.library.cache_clear(), c_kernel.unavailable.cache_clear()
