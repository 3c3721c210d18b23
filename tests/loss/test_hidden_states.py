"""The contrast of hidden states, against its formula."""

import pytest
import torch

from caad_ds.loss.hidden_states import hidden_state_loss, width_map
from tests.tolerance import assert_close

pytestmark = pytest.mark.numeric

ROWS, WIDTH = 9, 5


@pytest.fixture
def states():
    """Of student and both paths of a teacher, and labels of which one is ignored."""
    g = torch.Generator().manual_seed(0)
    student, positive, negative = (torch.randn(ROWS, WIDTH, generator=g, dtype=torch.float64) for _ in range(3))
    labels = torch.arange(ROWS)
    labels[4] = -100
    return student.requires_grad_(), positive, negative, labels


def distances(student, target, kind):
    """One row after the other."""
    found = []
    for ours, theirs in zip(student, target, strict=True):
        if kind == "mse":
            found.append(sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / WIDTH)
        else:
            found.append(1 - (ours @ theirs) / (ours.norm() * theirs.norm()))
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["mse", "cosine"])
@pytest.mark.parametrize("alpha", [0.7, torch.linspace(0, 3, ROWS, dtype=torch.float64)], ids=["one", "of each row"])
def test_it_is_the_formula(states, kind, alpha):
    student, positive, negative, labels = states
    weights = torch.rand(ROWS, dtype=torch.float64)
    strength = alpha if isinstance(alpha, float) else alpha[:, None]
    rows = distances(student, (1 + strength) * positive - strength * negative, kind)
    valid = labels >= 0
    expected = (rows * weights)[valid].sum() / 7
    options = {"alpha": alpha, "distance": kind, "normalizer": 7, "token_weights": weights}
    loss, total = hidden_state_loss(student, positive, negative, labels, **options)
    assert_close(loss, expected, 50, 10.0)
    assert_close(total, rows[valid].sum(), 50, 10.0)
    found, wanted = (torch.autograd.grad(value, student)[0] for value in (loss, expected))
    assert_close(found, wanted, 50, 10.0)
    assert not found[4].any()


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_samples_count_alike_and_ignored_rows_may_hold_anything(states, kind):
    student, positive, negative, labels = states
    sample = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 2])
    rows = distances(student, 2 * positive - negative, kind)
    expected = (rows[:4].mean() + rows[5:7].mean() + rows[7:].mean()) / 3
    options = {"alpha": 1.0, "distance": kind, "reduction": "sample", "sample_of_row": sample}
    assert_close(hidden_state_loss(student, positive, negative, labels, **options)[0], expected, 50, 10.0)
    student, positive, negative = (x.detach().clone() for x in (student, positive, negative))
    for x in (student, positive, negative):
        x[4] = torch.nan
    loss, _ = hidden_state_loss(student.requires_grad_(), positive, negative, labels, **options)
    assert_close(loss, expected, 50, 10.0)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_without_a_second_path_and_without_rows(states):
    student, positive, _, labels = states
    loss, _ = hidden_state_loss(student, positive, None, labels, alpha=0.0)
    valid = labels >= 0
    assert_close(loss, distances(student, positive, "mse")[valid].mean(), 50, 10.0)
    nothing, total = hidden_state_loss(student[:0], positive[:0], None, labels[:0], alpha=0.0)
    assert nothing == total == 0 and nothing.requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_shows(states, value):
    student, positive, negative, labels = states
    positive[2, 1] = value
    assert not hidden_state_loss(student, positive, negative, labels, alpha=1.0)[0].isfinite()


def test_a_map_is_the_same_on_every_rank():
    assert width_map(4, 4, 0) is None
    one, other = width_map(4, 6, 3), width_map(4, 6, 3)
    assert torch.equal(one.weight, other.weight) and one.weight.shape == (6, 4) and one.bias is None
    assert not torch.equal(one.weight, width_map(4, 6, 4).weight)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"distance": "l1"}, "distance is 'l1', expected one of mse, cosine"),
        ({"reduction": "mean"}, "reduction is 'mean', expected one of token, sample"),
    ],
)
def test_bad_arguments(states, change, said):
    with pytest.raises(ValueError, match=said):
        hidden_state_loss(*states, **({"alpha": 1.0} | change))
    with pytest.raises(ValueError, match=r"teacher_pos.shape is \(9, 4\), expected \(9, 5\) as student"):
        hidden_state_loss(states[0], states[1][:, :4], *states[2:], alpha=1.0)
