"""The objective without an [N, V] tensor: a chunk of rows at a time, the gradient found in the forward."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caad_ds.loss.divergence import divergence_and_gradient
from caad_ds.loss.head import LMHead, matmul, wide_dtype
from caad_ds.loss.objective import LossOutput, Objective, Rows, contrast

LOGITS_BYTES = {"cpu": 64 * 2**20, "cuda": 256 * 2**20}


# Rows of a chunk, student's head, teacher's head, objective, whether the gradient is wanted ->
# terms and diagnostics of each row [m], and dL/du [m, V] of the student's logits u before bias and softcap.
ChunkTerms = Callable[[Rows, LMHead, LMHead | None, Objective, bool], tuple[dict[str, Tensor], Tensor | None]]


def chunked_loss(
    rows: Rows,
    student_head: LMHead,
    teacher_head: LMHead | None,
    objective: Objective,
    chunk_terms: ChunkTerms | None = None,
) -> LossOutput:
    """The loss of `reference_loss` for any N, in memory for a few [chunk, V] tensors.

    Logits and softmax are float32, float64 for float64 inputs. The teacher's contrast is formed in hidden space
    (one product, exact for a linear head) unless a softcap or the plausibility mask needs z_pos itself.
    Gradients reach `rows.student`, `student_head.weight` and `.bias`; only those that require one are computed.
    `chunk_terms` does the arithmetic of a chunk: PyTorch's by default, or that of the Triton kernel.
    """
    inputs = (rows.student, student_head.weight, student_head.bias)
    wanted = [x if torch.is_grad_enabled() and x is not None and x.requires_grad else None for x in inputs]
    with torch.no_grad():
        gradients = _Gradients(wanted, wide_dtype(rows.student, student_head.weight))
        terms = _sweep(rows, student_head, teacher_head, objective, gradients, chunk_terms or torch_terms)
        sums = {name: values.sum() for name, values in terms.items()}
        zero = rows.weight.new_zeros(())
        kd, ce = sums.pop("kd", zero), sums.pop("ce", zero)
        loss = objective.kd_weight * kd + (1 - objective.kd_weight) * ce
    if gradients.needed:
        loss = _KnownGradient.apply(loss, *inputs, *gradients.finished())
    return LossOutput(loss, kd, ce, sums)


class _KnownGradient(torch.autograd.Function):
    """A value whose gradients were computed beside it.

    Backward touches the gradients alone: by then ZeRO-3 may have partitioned the head's weight again.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *inputs_and_gradients: Tensor | None) -> Tensor:
        _, _, _, *gradients = inputs_and_gradients
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if g is None else g * grad_output for g in ctx.saved_tensors]
        return None, *scaled, None, None, None


def _sweep(
    rows: Rows,
    student_head: LMHead,
    teacher_head: LMHead | None,
    objective: Objective,
    gradients: "_Gradients",
    chunk_terms: ChunkTerms,
) -> dict[str, Tensor]:
    """Terms and diagnostics per row, [N] each; adds to the gradients on the way."""
    student, teacher = student_head.prepared(rows.student), None
    if teacher_head is not None and rows.positive is not None:
        teacher = teacher_head.prepared(rows.positive)
    step = chunk_rows(student.weight, gradients.wide)
    parts = []
    for start in range(0, max(len(rows.labels), 1), step):
        chunk = _blank_ignored(rows.take(slice(start, start + step)))
        terms, grad = chunk_terms(chunk, student, teacher, objective, gradients.needed)
        parts.append(terms)
        if grad is not None:
            gradients.add(start, grad, chunk.student, student.weight)
        # Freed before the next chunk's logits are made: otherwise two chunks are alive at once.
        del grad
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def chunk_rows(weight: Tensor, dtype: torch.dtype) -> int:
    """How many rows of logits in `dtype`, for a head's weight [V, H], the budget of its device holds."""
    budget = LOGITS_BYTES.get(weight.device.type, LOGITS_BYTES["cuda"])
    return max(1, budget // (weight.shape[0] * dtype.itemsize))


def _blank_ignored(chunk: Rows) -> Rows:
    """Ignored rows with zero hidden states and label 0, so that whatever they held cannot turn 0 * x into NaN."""
    ignored = ~chunk.valid.unsqueeze(-1)
    positive = None if chunk.positive is None else chunk.positive.masked_fill(ignored, 0)
    negative = None if chunk.negative is None else chunk.negative.masked_fill(ignored, 0)
    labels = chunk.labels.masked_fill(~chunk.valid, 0)
    return Rows(chunk.student.masked_fill(ignored, 0), positive, negative, labels, chunk.valid, chunk.weight)


class _Target:
    """The teacher's distribution over m rows: `log_q` [m, V]; `shift` [m] = KL(q || softmax(z_pos / tau)) or None."""

    def __init__(self, positive: Tensor, negative: Tensor | None, head: LMHead, objective: Objective):
        scale = (1 + objective.sharpen) / objective.temperature
        self.shift: Tensor | None = None
        if objective.plausibility is None and (negative is None or head.softcap is None):
            hidden = positive
            if negative is not None:
                hidden = contrast(positive, negative, objective.alpha).to(head.weight.dtype)
            self.log_q = torch.log_softmax(head.logits(hidden).mul_(scale), dim=-1)
            return
        z_pos = z_c = head.logits(positive)
        if negative is not None:
            z_c = contrast(z_pos, head.logits(negative), objective.alpha)
        self.log_q = _log_softmax_of_plausible(z_c * scale, z_pos, objective.plausibility)
        log_p_pos = torch.log_softmax(z_pos / objective.temperature, dim=-1)
        self.shift = (self.log_q - log_p_pos).mul_(self.log_q.exp()).sum(-1)


def _log_softmax_of_plausible(z: Tensor, z_pos: Tensor, plausibility: float | None) -> Tensor:
    """log_softmax(z) over the tokens with p_pos >= plausibility * max p_pos, the most negative number elsewhere."""
    if plausibility is None:
        return torch.log_softmax(z, dim=-1)
    implausible = z_pos < z_pos.amax(-1, keepdim=True) + math.log(plausibility)
    log_q = torch.log_softmax(z.masked_fill_(implausible, -math.inf), dim=-1)
    # Finite, so that 0 * log 0 is 0 in the sums to come.
    return log_q.masked_fill_(implausible, torch.finfo(z.dtype).min)


def torch_terms(
    chunk: Rows, student: LMHead, teacher: LMHead | None, objective: Objective, with_gradient: bool
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Terms and diagnostics of each row, [m] each, and with w the row's share of the loss

    dL/dz_s = w * [lambda * tau * dD/du + (1 - lambda) * (p - onehot(y))],  u = z_s / tau;

    for the forward KL dD/du = p^tau - q.
    """
    z_s, target = student.logits(chunk.student), None
    if teacher is not None and chunk.positive is not None:
        target = _Target(chunk.positive, chunk.negative, teacher, objective)
    tau, kd_weight = objective.temperature, objective.kd_weight
    counts, label = chunk.valid.to(z_s.dtype), chunk.labels.unsqueeze(-1)
    best, normaliser = z_s.argmax(-1), z_s.logsumexp(-1, keepdim=True)
    log_p = torch.log_softmax(z_s / tau, dim=-1)
    terms = {"rows": counts, "token_accuracy": (best == chunk.labels) * counts}
    if objective.uses_labels:
        terms["ce"] = (normaliser - z_s.gather(-1, label)).squeeze(-1) * chunk.weight
    grad = None
    if target is not None:
        log_q = target.log_q
        value, grad = divergence_and_gradient(objective.divergence, objective.mix, log_q, log_p)
        terms["kd"] = tau**2 * value * chunk.weight
        terms["agreement"] = (best == log_q.argmax(-1)) * counts
        terms["teacher_entropy"] = _entropy(log_q) * counts
        if target.shift is not None:
            terms["contrast_shift"] = target.shift * counts
    terms["student_entropy"] = _entropy(log_p) * counts
    if not with_gradient:
        return terms, None
    grad = torch.zeros_like(z_s) if grad is None else grad.mul_(kd_weight * tau)
    if objective.uses_labels:
        grad.add_((z_s - normaliser).exp_(), alpha=1 - kd_weight)
        grad.scatter_add_(-1, label, torch.full_like(label, kd_weight - 1, dtype=grad.dtype))
    return terms, _through_softcap(grad.mul_(chunk.weight.unsqueeze(-1)), z_s, student.softcap)


def _entropy(log_p: Tensor) -> Tensor:
    """Entropy of each row in nats; `log_p` is used up."""
    return -log_p.mul_(log_p.exp()).sum(-1)


def _through_softcap(grad: Tensor, z: Tensor, softcap: float | None) -> Tensor:
    """The gradient before the softcap, from that after it: d(c tanh(u / c)) / du = 1 - (z / c)^2."""
    return grad if softcap is None else grad.mul_(1 - (z / softcap).square_())


class _Gradients:
    """Gradients of the inputs that want one, those of the head summed over the chunks in the `wide` dtype."""

    def __init__(self, wanted: list[Tensor | None], wide: torch.dtype):
        hidden, weight, bias = wanted
        self.wide = wide
        self._dtypes = [None if x is None else x.dtype for x in wanted]
        self.hidden = None if hidden is None else torch.zeros_like(hidden)
        self.weight = None if weight is None else torch.zeros_like(weight, dtype=wide)
        self.bias = None if bias is None else torch.zeros_like(bias, dtype=wide)

    @property
    def needed(self) -> bool:
        """Whether there is a gradient to compute at all."""
        return any(dtype is not None for dtype in self._dtypes)

    def add(self, start: int, grad: Tensor, hidden: Tensor, weight: Tensor) -> None:
        """Adds the share of one chunk: `grad` is dL/dz [m, V] of the rows that begin at `start`."""
        if self.bias is not None:
            self.bias += grad.sum(0)
        grad = grad.to(weight.dtype)
        if self.hidden is not None:
            self.hidden[start : start + len(grad)] = matmul(grad, weight, self.wide)
        if self.weight is not None:
            self.weight += matmul(grad.t(), hidden.to(weight.dtype), self.wide)

    def finished(self) -> list[Tensor | None]:
        """The gradients of hidden states, weight and bias, each in its input's dtype."""
        found = zip((self.hidden, self.weight, self.bias), self._dtypes, strict=True)
        return [None if gradient is None else gradient.to(dtype) for gradient, dtype in found]
