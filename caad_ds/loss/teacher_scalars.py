"""Numbers of the teacher's two paths at each answer row."""

import torch
from torch import Tensor

from caad_ds.loss.head import LMHead

SCALARS = ("p_pos", "p_neg", "entropy_pos", "entropy_neg", "jsd")


@torch.no_grad()
def teacher_scalars(
    teacher_pos: Tensor, teacher_neg: Tensor | None, head: LMHead, labels: Tensor, vocab_size: int | None = None
) -> Tensor:
    """float32 [N, 5]."""
    head = head.first(vocab_size or len(head.weight))
    lp = torch.log_softmax(head.logits(teacher_pos), -1)
    out = torch.full((len(labels), 5), float("nan"), device=lp.device)
    out[:, 0] = lp.gather(-1, labels[:, None])[:, 0].exp()
    out[:, 2] = -(lp.exp() * lp).sum(-1)
    if teacher_neg is not None:
        ln = torch.log_softmax(head.logits(teacher_neg), -1)
        out[:, 1] = ln.gather(-1, labels[:, None])[:, 0].exp()
        out[:, 3] = -(ln.exp() * ln).sum(-1)
        m = torch.logaddexp(lp, ln) - 0.6931471805599453
        out[:, 4] = 0.5 * ((lp.exp() * (lp - m)).sum(-1) + (ln.exp() * (ln - m)).sum(-1))
    return out
