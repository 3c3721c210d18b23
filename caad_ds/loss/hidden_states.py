"""Hidden-state loss: the student's states against the teacher's contrasted ones, in addition to logits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from caad_ds.loss import argument_checks
from caad_ds.loss.contrastive_target import contrast
from caad_ds.loss.row_shares import factor, row_shares


def hidden_state_loss(
    student: Tensor,
    teacher_pos: Tensor,
    teacher_neg: Tensor | None,
    labels: Tensor,
    *,
    alpha: float | Tensor,
    distance: str = "mse",
    normalizer: float | Tensor | None = None,
    reduction: str = "token",
    sample_of_row: Tensor | None = None,
    token_weights: Tensor | None = None,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Compute sum_n w_n M(h_s, h_c) over N answer rows, h_c = (1 + alpha_n) h_pos - alpha_n h_neg; and the sum of M.

    Args:
        student: [N, Ht], the student's final states in the teacher's width (`width_map`); receives the gradient.
        teacher_pos: [N, Ht], the teacher's with the audio, or already contrasted ones.
        teacher_neg: [N, Ht], those without; None: h_c is `teacher_pos`.
        labels: int64 [N]; rows equal to `ignore_index` are ignored.
        alpha: the strength of the contrast, or [N] each row's.
        distance: "mse", the mean of the squared differences over the width, or "cosine", 1 - cos(h_s, h_c).
        normalizer, reduction, sample_of_row, token_weights: as in `contrastive_distillation_loss`.

    Returns:
        The loss, differentiable, at least float32, and the detached sum of M over valid rows.

    Raises:
        ValueError: naming the argument, its value and what was expected.

    Source: the CAAD authors' code, which has this term in addition to the paper.
    """
    argument_checks.choice("distance", distance, ("mse", "cosine"))
    argument_checks.choice("reduction", reduction, ("token", "sample"))
    argument_checks.check_rows("labels", labels, student, "student")
    for name, states in (("teacher_pos", teacher_pos), ("teacher_neg", teacher_neg)):
        if states is not None:
            expected = f"{tuple(student.shape)} as student"
            argument_checks.require(states.shape == student.shape, f"{name}.shape", tuple(states.shape), expected)
    valid = labels != ignore_index
    ignored = ~valid.unsqueeze(-1)
    target = teacher_pos if teacher_neg is None else contrast(teacher_pos, teacher_neg, alpha)
    wide = torch.promote_types(student.dtype, torch.float32)
    ours, theirs = (x.to(wide).masked_fill(ignored, 0) for x in (student, target.detach()))
    rows = _mse(ours, theirs) if distance == "mse" else 1 - F.cosine_similarity(ours, theirs, dim=-1)
    weight = row_shares(valid, sample_of_row if reduction == "sample" else None, normalizer, wide)
    if token_weights is not None:
        weight = weight * factor(token_weights, valid, wide)
    return (weight * rows).sum(), (rows.detach() * valid).sum()


def _mse(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).square().mean(-1)


def width_map(student: int, teacher: int, seed: int) -> nn.Linear | None:
    """Build a learned projection of the student's states to the teacher's width, alike on all ranks; None if equal.

    It projects the student and not the target: a learned target could collapse.
    """
    if student == teacher:
        return None
    linear = nn.Linear(student, teacher, bias=False)
    bound = student**-0.5
    with torch.no_grad():
        linear.weight.uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
    return linear
