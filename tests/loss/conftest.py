"""Random problems for the loss, and the error that rounding may cause in them."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from caad_ds.loss import LMHead, LossOutput, contrastive_distillation_loss
from tests.tolerance import assert_close

CAAD = {"alpha": 1.0, "temperature": 2.0, "kd_weight": 0.7}


@dataclass
class Problem:
    """The tensors of one call."""

    student: Tensor
    student_head: LMHead
    positive: Tensor | None
    negative: Tensor | None
    teacher_head: LMHead | None
    labels: Tensor

    @staticmethod
    def random(
        rows=6,
        vocab=11,
        widths=(5, 7),
        scale=1.0,
        seed=0,
        bias=False,
        softcap=None,
        factors=(1.0, 1.0),
        masked=0.0,
        padding=(0, 0),
        dtype=torch.float32,
    ) -> "Problem":
        """Logits of about `scale`; a share `masked` of the labels ignored; `padding` more tokens in either head.

        `factors` are the constant factors of the student's and the teacher's head.
        """
        g = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

        def head(width, extra, factor):
            size = vocab + extra
            return LMHead(normal(size, width) * width**-0.5, normal(size) if bias else None, softcap, factor)

        labels = torch.randint(0, vocab, (rows,), generator=g)
        labels[torch.rand(rows, generator=g) < masked] = -100
        student, positive, negative = (normal(rows, w) * scale for w in (widths[0], widths[1], widths[1]))
        student_head = head(widths[0], padding[0], factors[0])
        return Problem(student, student_head, positive, negative, head(widths[1], padding[1], factors[1]), labels)

    def to(self, target: torch.dtype | str) -> "Problem":
        """The same values in another dtype, or on a device."""

        def move(x):
            if isinstance(x, LMHead):
                return replace(x, weight=move(x.weight), bias=move(x.bias))
            return x if x is None or (isinstance(target, torch.dtype) and not x.is_floating_point()) else x.to(target)

        return Problem(**{name: move(value) for name, value in vars(self).items()})

    def loss(self, **options: Any) -> LossOutput:
        """Call the public function on these tensors, by default with the paper's scalars."""
        arguments = (self.student, self.student_head, self.positive, self.negative, self.teacher_head, self.labels)
        return contrastive_distillation_loss(*arguments, **{**CAAD, **options})

    def parameters(self) -> list[Tensor]:
        """Student's hidden states, weight and bias."""
        found = (self.student, self.student_head.weight, self.student_head.bias)
        return [x for x in found if x is not None]

    def with_gradients(self, **options: Any) -> tuple[LossOutput, list[Tensor]]:
        """The loss and its gradients for `parameters()`."""
        for x in self.parameters():
            x.requires_grad_(True)
        output = self.loss(**options)
        return output, list(torch.autograd.grad(output.loss, self.parameters()))


def close(found: Any, expected: Any, dtype: torch.dtype | None = None) -> None:
    """Fail unless terms, diagnostics or gradients of a random problem are equal up to rounding.

    Its sums, over widths and vocabulary, have up to a hundred terms, whose magnitude is about tau^2 or the result's.
    """
    expected = torch.as_tensor(expected)
    assert_close(found, expected, 100, max(CAAD["temperature"] ** 2, expected.abs().max().item()), dtype)


def agreeing(p: Problem) -> Problem:
    """The problem with the student as teacher in every second row, and its first choice as every third label."""
    p.teacher_head, rows = p.student_head, torch.arange(len(p.labels))
    p.positive[::2] = p.negative[::2] = p.student[::2]
    best = p.student_head.logits(p.student).argmax(-1)
    p.labels = p.labels.where((p.labels < 0) | (rows % 3 > 0), best)
    return p


@pytest.fixture(scope="session")
def problem():
    """The maker of random problems."""
    return Problem.random
