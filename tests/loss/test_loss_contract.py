"""Guarantees to callers besides the numbers: memory, which inputs get gradients, ignored rows, edge cases."""

from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from caad_ds.loss import LMHead, chunked
from tests.loss.conftest import close

IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["reference", "chunked"])


class LargestResult(TorchDispatchMode):
    """Notes the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in (result if isinstance(result, (tuple, list)) else [result]) if torch.is_tensor(x)]
        self.numel = max([self.numel, *(x.numel() for x in tensors)])
        return result


@pytest.mark.parametrize("options", [{}, {"plausibility": 0.1}, {"kd_weight": 0.0}])
def test_no_tensor_exceeds_a_chunk_or_the_head(problem, options):
    p = problem(rows=120, vocab=1001, softcap=9.0)
    with patch.dict(chunked.LOGITS_BYTES, cpu=10 * 1001 * 4), LargestResult() as largest:
        p.with_gradients(**options)
    assert largest.numel == 10 * 1001


@IMPLEMENTATIONS
@pytest.mark.parametrize("reduction", ["token", "sample"])
@pytest.mark.parametrize("rows", [0, 4])
def test_nothing_to_learn_from_is_zero_with_zero_gradients(problem, implementation, reduction, rows):
    p = problem(rows=rows, masked=1.0, bias=True)
    samples = torch.zeros(rows, dtype=torch.int64)
    out, gradients = p.with_gradients(implementation=implementation, reduction=reduction, sample_of_row=samples)
    assert out.loss == out.kd == out.ce == out.diagnostics["rows"] == 0
    assert [g.shape for g in gradients] == [x.shape for x in p.parameters()]
    assert not any(g.any() for g in gradients)


@IMPLEMENTATIONS
def test_ignored_rows_may_hold_anything(problem, implementation):
    p, clean = problem(masked=0.5), problem(masked=0.5)
    for x in (p.student, p.positive, p.negative):
        x[p.labels == -100] = float("nan")
    (out, gradients), (expected, expected_gradients) = (
        x.with_gradients(implementation=implementation, plausibility=0.1) for x in (p, clean)
    )
    assert out.loss == expected.loss
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        assert torch.equal(found, wanted)


@IMPLEMENTATIONS
def test_cross_entropy_alone_needs_no_teacher(problem, implementation):
    p = problem()
    p.positive = p.negative = p.teacher_head = None
    out = p.loss(kd_weight=0.0, temperature=1.0, implementation=implementation)
    expected = torch.nn.functional.cross_entropy(p.student_head.logits(p.student), p.labels)
    close(out.loss, expected)
    assert out.kd == 0 and "agreement" not in out.diagnostics


@IMPLEMENTATIONS
def test_a_padded_vocabulary_is_cut(problem, implementation):
    """Heads of 13 and 16 rows over 11 shared tokens give the loss of the cut heads, and no gradient to the padding."""
    p = problem(bias=True, padding=(2, 5))
    out, gradients = p.with_gradients(vocab_size=11, implementation=implementation)
    cut = problem(bias=True, padding=(2, 5))
    heads = cut.student_head, cut.teacher_head
    cut.student_head, cut.teacher_head = (LMHead(head.weight[:11], head.bias[:11]) for head in heads)
    close(out.loss, cut.loss(implementation=implementation).loss)
    assert gradients[1].shape == (13, 5) and not gradients[1][11:].any() and gradients[1][:11].any()


def test_only_what_requires_a_gradient_gets_one(problem):
    p = problem(bias=True)
    p.student.requires_grad_(True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        loss = p.loss().loss
    assert [x.shape for x in saved] == [p.student.shape]
    loss.backward()
    assert p.student.grad.abs().sum() > 0 and p.student_head.weight.grad is None
    with torch.no_grad():
        assert not p.loss().loss.requires_grad


def test_backward_does_not_need_the_weight_any_more(problem):
    """As under ZeRO-3, which partitions a parameter after the forward: only plain buffers are saved."""
    p = problem()
    expected = p.with_gradients()[1]
    parameter = torch.nn.Parameter(p.student_head.weight.detach().clone())
    p.student_head = type(p.student_head)(parameter)
    loss = p.loss().loss
    parameter.data = torch.empty(0)
    close(torch.autograd.grad(loss, p.student)[0], expected[0])


def test_the_loss_may_be_scaled_and_differentiated_twice(problem):
    p = problem()
    _, expected = p.with_gradients()
    loss = 3 * p.loss().loss
    for _ in range(2):
        for found, wanted in zip(torch.autograd.grad(loss, p.parameters(), retain_graph=True), expected, strict=True):
            close(found, 3 * wanted)


def test_head_logits_keep_leading_dimensions_and_widen(problem):
    head = problem(bias=True, softcap=4.0, dtype=torch.bfloat16).student_head
    hidden = torch.randn(2, 3, 5, dtype=torch.bfloat16)
    z = head.logits(hidden)
    plain = hidden.double() @ head.weight.double().t() + head.bias.double()
    assert z.dtype == torch.float32 and z.shape == (2, 3, 11)
    close(z, 4 * torch.tanh(plain / 4))
