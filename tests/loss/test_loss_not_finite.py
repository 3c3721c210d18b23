"""NaN and infinity in an input never give a plausible number, in any implementation, layout and dtype."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from caad_ds.loss import argument_checks, c_kernel
from tests.loss.conftest import close

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS = {
    "the paper's": {},
    "kd alone": {"kd_weight": 1.0},
    "ce alone": {"kd_weight": 0.0},
    "soft cap": {},
    "plausibility": {"plausibility": 0.1},
    "jsd": {"divergence": "jsd"},
    "skewed kl": {"divergence": "skewed_kl"},
    "reverse kl": {"divergence": "reverse_kl"},
}
IN_C = ("the paper's", "kd alone", "ce alone")
TENSORS = ("student", "positive", "negative", "student_head.weight", "student_head.bias", "teacher_head.weight",
           "teacher_head.bias")  # fmt: skip
NAMES = ("reference", "chunked", "native", "triton")
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", NAMES)
CASES = [(name, case) for name in NAMES for case in (IN_C if name == "native" else OPTIONS)]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy tells of NaNs


def run(p, implementation, **options):
    """The loss where the implementation can run: Triton on a GPU if there is one."""
    if implementation == "triton":
        pytest.importorskip("triton")
        p = p.to(DEVICE)
        options = {name: x.to(DEVICE) if torch.is_tensor(x) else x for name, x in options.items()}
    if implementation == "native" and c_kernel.unavailable():
        pytest.skip(c_kernel.unavailable())
    return p.loss(implementation=implementation, **options)


@pytest.mark.parametrize("implementation, case", CASES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_no_number_shows(problem, implementation, case, value):
    for place in TENSORS:
        if case == "ce alone" and not place.startswith("student"):
            continue  # the teacher is not looked at
        p = problem(rows=7, vocab=37, bias=True, softcap=30.0 if case == "soft cap" else None)
        holder, _, name = place.rpartition(".")
        tensor = getattr(getattr(p, holder) if holder else p, name)
        tensor.view(-1)[tensor.numel() // 2] = value
        assert run(p, implementation, **OPTIONS[case]).loss.isnan(), place


@IMPLEMENTATIONS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_factor_that_is_no_number_shows(problem, implementation, value):
    """On a GPU a normalizer is not looked at before, since that would wait for the device."""
    assert run(problem(), implementation, token_weights=torch.tensor([1.0, value, 1, 1, 1, 1])).loss.isnan()
    with patch.object(argument_checks, "check_normalizer"):
        assert run(problem(), implementation, normalizer=torch.tensor(value)).loss.isnan()


@IMPLEMENTATIONS
def test_neither_strides_nor_the_default_dtype_matter(problem, implementation):
    p = problem(rows=9, vocab=37, bias=True)
    expected = p.loss(implementation="reference").loss

    def spread(x):
        return torch.stack([x, torch.zeros_like(x)], dim=-1)[..., 0]

    strided = replace(p, **{name: spread(getattr(p, name)) for name in ("student", "positive", "negative", "labels")})
    for name in ("student_head", "teacher_head"):
        head = getattr(p, name)
        setattr(strided, name, replace(head, weight=spread(head.weight), bias=spread(head.bias)))
    close(run(strided, implementation).loss.cpu(), expected)
    torch.set_default_dtype(torch.bfloat16)
    try:
        close(run(p, implementation).loss.cpu(), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@IMPLEMENTATIONS
def test_a_normalizer_of_another_dtype_is_one_number(problem, implementation):
    p = problem(rows=9, vocab=37)
    expected = p.loss(implementation="reference", normalizer=7.0).loss
    found = run(p, implementation, normalizer=torch.tensor([7.0], dtype=torch.float64)).loss
    close(found.cpu(), expected)


@IMPLEMENTATIONS
def test_whole_numbers_are_numbers(problem, implementation):
    p = problem(rows=9, vocab=37)
    options = {} if implementation == "native" else {"plausibility": 1}
    found = run(p, implementation, alpha=1, temperature=2, kd_weight=1, **options)
    expected = p.loss(implementation="reference", alpha=1.0, temperature=2.0, kd_weight=1.0, **options)
    close(found.loss.cpu(), expected.loss)


def test_a_label_outside_the_vocabulary_shows_in_the_kernel(problem):
    """On a GPU labels are not looked at before, since that would wait for the device."""
    p = problem(rows=9, vocab=37)
    p.labels[3] = 37
    with patch.object(argument_checks, "check_labels"):
        assert run(p, "triton").loss.isnan()
