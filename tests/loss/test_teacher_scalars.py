"""What is kept of a teacher's two distributions, against plain loops over single rows in float64."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caad_ds.loss import LMHead, alpha_gate
from caad_ds.loss import teacher_scalars as module
from caad_ds.loss.teacher_scalars import SCALARS, gated_alpha, teacher_scalars
from tests.loss.conftest import close
from tests.loss.test_loss_accuracy import EPS, small_chunks
from tests.loss.test_loss_contract import LargestResult

pytestmark = pytest.mark.numeric


def by_hand(z_pos, z_neg, label):
    """Of one row, from logits as lists."""

    def softmax(z):
        top = max(z)
        weights = [math.exp(v - top) for v in z]
        return [w / math.fsum(weights) for w in weights]

    def plogp(p, q):
        return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)

    p, q = softmax(z_pos), softmax(z_neg)
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    entropies = [-plogp(each, [1.0] * len(each)) for each in (p, q)]
    return [p[label], q[label], *entropies, (plogp(p, m) + plogp(q, m)) / 2]


def scalars(p, **options):
    return teacher_scalars(p.positive, p.negative, p.teacher_head, p.labels, **options)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.fixed_dictionaries(
        {
            "rows": st.sampled_from([0, 1, 7, 40]),
            "vocab": st.sampled_from([1, 3, 37, 101]),
            "scale": st.sampled_from([1e-3, 1.0, 30.0, 1e3]),
            "seed": st.integers(0, 999),
            "bias": st.booleans(),
            "softcap": st.sampled_from([None, 30.0]),
            "factors": st.sampled_from([(1.0, 1.0), (1.0, 0.3)]),
            "padding": st.sampled_from([(0, 0), (0, 4)]),
        }
    ),
    chunk=st.sampled_from([1, 3, 1000]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_against_plain_loops(problem, shape, chunk, dtype):
    p = problem(**shape, dtype=dtype)
    with small_chunks(p, chunk):
        found = scalars(p, vocab_size=shape["vocab"])
    assert found.shape == (shape["rows"], len(SCALARS)) and found.dtype == torch.float32
    exact = p.to(torch.float64)
    head = exact.teacher_head.first(shape["vocab"])
    z = [head.logits(hidden) for hidden in (exact.positive, exact.negative)]
    expected = [by_hand(a.tolist(), b.tolist(), int(y)) for a, b, y in zip(*z, p.labels, strict=True)]
    # Relative errors of probabilities are those of the logits, which are sums of up to seven products.
    bound = 4 * EPS * (1 + 10 * max([0.0, *(each.abs().max().item() for each in z if each.numel())]))
    for row, wanted in zip(found.tolist(), expected, strict=True):
        assert row == pytest.approx(wanted, abs=bound * (1 + math.log(shape["vocab"])))


def test_two_paths_apart_and_two_alike():
    """By hand: one token against another, and the same twice."""
    head = LMHead(torch.eye(3))
    sure = torch.tensor([[300.0, 0, 0], [0, 300, 0], [0, 0, 0]])
    found = teacher_scalars(sure, sure[[1, 1, 2]], head, torch.tensor([0, 1, 2]))
    third, log_3 = 1 / 3, math.log(3)
    expected = [[1, 0, 0, 0, math.log(2)], [1, 1, 0, 0, 0], [third, third, log_3, log_3, 0]]
    close(found, expected)


def test_without_the_second_path_its_scalars_are_nan(problem):
    p = problem(rows=5)
    both = scalars(p)
    alone = scalars(replace(p, negative=None))
    assert torch.equal(alone[:, [0, 2]], both[:, [0, 2]]) and alone[:, [1, 3, 4]].isnan().all()


def test_no_tensor_exceeds_a_chunk_or_the_head(problem):
    p = problem(rows=120, vocab=1001)
    with small_chunks(p, 10), LargestResult() as largest:
        scalars(p)
    assert largest.numel == 10 * 1001


def test_tiles_change_no_bit(problem, monkeypatch):
    """One row, some, or all at a time."""
    p = problem(rows=120, vocab=1001, scale=5.0)
    found = []
    for rows in (1, 7, 1000):
        monkeypatch.setattr(alpha_gate, "TILE", rows * 1001)
        found.append(scalars(p))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_only_a_cpu_goes_through_a_chunk_in_tiles(problem, monkeypatch, device):
    """Elsewhere (a tensor on meta stands in for a GPU's) a chunk of the budget is computed as a whole."""
    p, taken = problem(rows=25, vocab=37), []
    known = module._scalars
    monkeypatch.setattr(alpha_gate, "TILE", 37)
    monkeypatch.setattr(module, "tile_rows", lambda z: alpha_gate.tile_rows(z.to(device)))
    monkeypatch.setattr(module, "_scalars", lambda z, *given: taken.append(len(z)) or known(z, *given))
    with small_chunks(p, 10):
        scalars(p)
    assert taken == ([1] * 25 if device == "cpu" else [10, 10, 5])


@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_the_alphas_of_the_gate_come_from_the_entropies(problem, softcap, implementation):
    p = problem(rows=30, vocab=37, scale=5.0, softcap=softcap, bias=True)
    own = gated_alpha(scalars(p)[:, SCALARS.index("entropy_neg")], 2.0, 9.0)
    assert 0 < (own > 0).sum() and len(own.unique()) > 10
    stored = p.with_gradients(implementation=implementation, alpha=own)
    online = p.with_gradients(implementation=implementation, alpha=2.0, alpha_gate="text_certainty", gate_m=9.0)
    close(stored[0].kd, online[0].kd)
    close(stored[0].diagnostics["alpha"] / 30, online[0].diagnostics["alpha"] / 30)
    for a, b in zip(stored[1], online[1], strict=True):
        close(a, b)


def test_what_is_no_number_stays_none(problem):
    p = problem(rows=4)
    p.positive[1, 0], p.negative[2, 0] = torch.inf, torch.nan
    found = scalars(p).isnan()
    assert found.tolist() == [
        [False] * 5, [True, False, True, False, True], [False, True, False, True, True], [False] * 5,
    ]  # fmt: skip


BAD = {
    "teacher_neg.shape": lambda p: replace(p, negative=p.negative[:-1]),
    "teacher_neg.dtype": lambda p: replace(p, negative=p.negative.double()),
    "teacher_neg is list": lambda p: replace(p, negative=p.negative.tolist()),
    "head.weight.shape": lambda p: replace(p, teacher_head=p.student_head),
    "labels.shape.*teacher_pos": lambda p: replace(p, labels=p.labels[:-1]),
    "labels.dtype": lambda p: replace(p, labels=p.labels.int()),
    "labels holds 11, expected 0 to 10": lambda p: replace(p, labels=torch.full_like(p.labels, 11)),
    "labels holds -100, expected 0 to 10": lambda p: replace(p, labels=torch.full_like(p.labels, -100)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(problem, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        scalars(BAD[message](problem()))


def test_a_label_outside_shows_where_it_was_not_looked_at(problem, monkeypatch):
    """As on a GPU: a stand-in for labels that do not report a CPU as their device."""
    p = problem(rows=3)

    class Elsewhere(torch.Tensor):
        device = torch.device("cuda")

    labels = torch.tensor([1, 11, -100]).as_subclass(Elsewhere)
    monkeypatch.setattr("caad_ds.loss.teacher_scalars.check_rows", lambda *_: None)
    found = teacher_scalars(p.positive, p.negative, p.teacher_head, labels)
    assert found[:, :2].isnan().tolist() == [[False, False], [True, True], [True, True]]
    assert found[:, 2:].isfinite().all()
