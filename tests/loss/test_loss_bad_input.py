"""A bad argument is refused by name before anything is computed."""

from dataclasses import replace
from functools import partial

import pytest
import torch

SCALARS = {
    "alpha": (-1, float("nan"), float("inf"), 1e39, None, "1"),
    "temperature": (0, -2.0, float("nan"), 1e-46, None, "2"),
    "kd_weight": (-0.1, 1.1, None, "0.7"),
    "plausibility": (0, 1.5, "0.1"),
    "sharpen": (-1, 0.5, None),
    "divergence": ("total_variation",),
    "mix": (0, 1, float("nan"), None),
    "reduction": ("mean",),
    "implementation": ("cuda",),
    "logits": ("float16",),
    "normalizer": (0, -3, torch.tensor(0.0), torch.ones(2), "7", [3.0]),
    "vocab_size": (0, 12, 11.0),
    "ignore_index": (None, "-100"),
    "token_weights": ([1.0] * 6,),
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in SCALARS.items() for v in values])
def test_scalars(problem, name, value):
    with pytest.raises(ValueError, match=f"^{name}.* is .*, expected"):
        problem().loss(**{name: value})


def test_the_reverse_divergence_of_a_masked_target_is_refused(problem):
    with pytest.raises(ValueError, match=r"plausibility is 0\.1, expected None with reverse_kl"):
        problem().loss(plausibility=0.1, divergence="reverse_kl")


def swap(p, **changes):
    for name, value in changes.items():
        setattr(p, name, value)
    return p


def with_weight(head, weight):
    return replace(head, weight=weight)


TENSORS = {
    "student_hidden.shape": lambda p: swap(p, student=p.student[:, :, None]),
    "labels.shape": lambda p: swap(p, labels=p.labels[:-1]),
    "labels.dtype": lambda p: swap(p, labels=p.labels.int()),
    "labels holds 11": lambda p: swap(p, labels=torch.full_like(p.labels, 11)),
    "labels holds -1": lambda p: swap(p, labels=torch.full_like(p.labels, -1)),
    "student_head.weight.shape": lambda p: swap(p, student_head=with_weight(p.student_head, torch.zeros(11, 6))),
    "student_head.weight.shape.*gathered": lambda p: swap(p, student_head=with_weight(p.student_head, torch.zeros(0))),
    "student_head.bias.shape": lambda p: swap(p, student_head=replace(p.student_head, bias=torch.zeros(3))),
    "student_head.scale": lambda p: swap(p, student_head=replace(p.student_head, scale=0.0)),
    "student_head.scale is nan": lambda p: swap(p, student_head=replace(p.student_head, scale=float("nan"))),
    "student_head.softcap": lambda p: swap(p, student_head=replace(p.student_head, softcap=0.0)),
    "student_hidden.dtype": lambda p: swap(p, student=p.student.half()),
    "student_head.softcap is inf": lambda p: swap(p, student_head=replace(p.student_head, softcap=float("inf"))),
    "student_head.softcap is '30'": lambda p: swap(p, student_head=replace(p.student_head, softcap="30")),
    "student_head.weight is list": lambda p: swap(p, student_head=with_weight(p.student_head, [[1.0]])),
    "student_head.bias is list": lambda p: swap(p, student_head=replace(p.student_head, bias=[0.0] * 11)),
    "teacher_neg is list": lambda p: swap(p, negative=p.negative.tolist()),
    "student_head.weight.device": lambda p: swap(
        p, student_head=with_weight(p.student_head, torch.zeros(11, 5, device="meta"))
    ),
    "labels.device": lambda p: swap(p, labels=p.labels.to("meta")),
    "teacher_pos is None": lambda p: swap(p, positive=None),
    "teacher_head is None": lambda p: swap(p, teacher_head=None),
    "teacher_pos.shape": lambda p: swap(p, positive=p.positive[:-1]),
    "teacher_pos.device": lambda p: swap(
        p,
        positive=p.positive.to("meta"),
        negative=p.negative.to("meta"),
        teacher_head=with_weight(p.teacher_head, p.teacher_head.weight.to("meta")),
    ),
    "teacher_neg.shape": lambda p: swap(p, negative=p.negative[:, :-1]),
    "teacher_neg.dtype": lambda p: swap(p, negative=p.negative.half()),
    "teacher_head.weight.dtype is torch.float64": lambda p: swap(
        p, teacher_head=with_weight(p.teacher_head, p.teacher_head.weight.double())
    ),
    "teacher_neg.dtype is torch.float64": lambda p: swap(p, negative=p.negative.double()),
    "teacher_head.weight.shape": lambda p: swap(p, teacher_head=p.student_head),
    "vocab_size is None.*11.*12": lambda p: swap(p, teacher_head=with_weight(p.teacher_head, torch.zeros(12, 7))),
    "token_weights.shape": lambda p: swap(p, loss=partial(p.loss, token_weights=torch.ones(5))),
    "token_weights.dtype": lambda p: swap(p, loss=partial(p.loss, token_weights=torch.ones(6, dtype=torch.int64))),
    "kd_token_weights.shape": lambda p: swap(p, loss=partial(p.loss, kd_token_weights=torch.ones(5))),
    "teacher_neg is None.*since alpha is 1": lambda p: swap(p, negative=None),
    "student_head is Linear, expected an LMHead": lambda p: swap(p, student_head=torch.nn.Linear(5, 11)),
    "teacher_head is Parameter, expected an LMHead": lambda p: swap(p, teacher_head=torch.nn.Linear(7, 11).weight),
    "student_hidden is list": lambda p: swap(p, student=p.student.tolist()),
    "labels is list": lambda p: swap(p, labels=p.labels.tolist()),
}


@pytest.mark.parametrize("message", TENSORS)
def test_tensors(problem, message):
    with pytest.raises(ValueError, match=message):
        TENSORS[message](problem()).loss()


@pytest.mark.parametrize("rows", [None, torch.zeros(3, dtype=torch.int64), torch.zeros(6)])
def test_sample_reduction_needs_a_sample_for_every_row(problem, rows):
    with pytest.raises(ValueError, match="sample_of_row"):
        problem().loss(reduction="sample", sample_of_row=rows)


NAMED = ("student_hidden", "teacher_pos", "teacher_neg", "teacher_head.weight", "token_weights")


@pytest.mark.parametrize("name", NAMED)
def test_check_finite_names_the_tensor_and_the_row(problem, name):
    p, token_weights = problem(), torch.ones(6)
    tensors = (p.student, p.positive, p.negative, p.teacher_head.weight, token_weights)
    dict(zip(NAMED, tensors, strict=True))[name][2] = float("inf")
    p.loss(token_weights=token_weights)
    with pytest.raises(ValueError, match=rf"^{name} is not finite in \d of \d+ values, first in row 2"):
        p.loss(check_finite=True, token_weights=token_weights)


def test_check_finite_leaves_ignored_rows_alone(problem):
    p = problem()
    p.labels[2], p.student[2] = -100, float("nan")
    assert p.loss(check_finite=True).loss.isfinite()
