"""The objective without an [N, V] tensor: chunks of rows, with the gradient computed in the forward."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caad_ds.loss.alpha_gate import entropies, gated_alpha, tile_rows
from caad_ds.loss.contrastive_target import contrast, hidden_contrast
from caad_ds.loss.head import LMHead, LogitsMemory, matmul, wide_dtype
from caad_ds.loss.objective import NEVER, LossOutput, Objective, Rows, alpha_terms

LOGITS_BYTES = {"cpu": 64 * 2**20, "cuda": 256 * 2**20}
ROW_TILE = 128  # rows of a matrix product's tile on a GPU


# Rows of a chunk, student's head, teacher's head, objective, whether the gradient is wanted, memory ->
# terms and diagnostics of each row [m], and dL/du [m, V] of the student's logits u before the softcap.
ChunkTerms = Callable[
    [Rows, LMHead, LMHead | None, Objective, bool, LogitsMemory], tuple[dict[str, Tensor], Tensor | None]
]


def chunked_loss(
    rows: Rows,
    student_head: LMHead,
    teacher_head: LMHead | None,
    objective: Objective,
    chunk_terms: ChunkTerms | None = None,
    logits_dtype: torch.dtype | None = None,
) -> LossOutput:
    """Compute the loss of `reference_loss` for any N, in memory for a few [chunk, V] tensors.

    Logits and softmax are float32, float64 for float64 inputs. The teacher's contrast is formed in hidden space
    (one product, exact for a linear head) unless a softcap or the plausibility mask needs z_pos itself; a gate also
    needs z_neg, a second product.
    Gradients reach `rows.student`, `student_head.weight` and `.bias`; only those that require one are computed.
    `chunk_terms` does the arithmetic of a chunk, in PyTorch by default, in Triton or in C; `logits_dtype` is the
    dtype of its logits, and determines the rows of a chunk.
    """
    inputs = (rows.student, student_head.weight, student_head.bias)
    wanted = [x if torch.is_grad_enabled() and x is not None and x.requires_grad else None for x in inputs]
    with torch.no_grad(), torch.autocast(rows.student.device.type, enabled=False):
        wide = wide_dtype(rows.student, student_head.weight)
        gradients = _Gradients(wanted, wide, logits_dtype or wide, student_head.scale)
        step = chunk_rows(student_head.weight, gradients.logits_dtype)
        terms = _sweep(rows, student_head, teacher_head, objective, gradients, chunk_terms or torch_terms, step)
        sums = {name: values.sum() for name, values in terms.items()}
        zero = rows.weight.new_zeros(())
        kd, ce = sums.pop("kd", zero), sums.pop("ce", zero)
        loss = objective.kd_weight * kd + (1 - objective.kd_weight) * ce
    if gradients.needed:
        loss = _KnownGradient.apply(loss, *inputs, *gradients.finished())
    return LossOutput(loss, kd, ce, sums)


class _KnownGradient(torch.autograd.Function):
    """A value whose gradients were computed in the forward.

    Backward uses only these gradients: by then ZeRO-3 may have partitioned the head's weight again.
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
    step: int,
) -> dict[str, Tensor]:
    """Compute terms and diagnostics per row, [N] each, in chunks of `step` rows; accumulate the gradients."""
    student, teacher = student_head.prepared(rows.student), None
    if teacher_head is not None and rows.positive is not None:
        teacher = teacher_head.prepared(rows.positive)
    memory, parts = LogitsMemory(), []
    for start in range(0, max(len(rows.labels), 1), step):
        chunk = rows.take(slice(start, start + step))
        terms, grad = chunk_terms(chunk, student, teacher, objective, gradients.needed, memory)
        parts.append(terms)
        if grad is not None:
            gradients.add(start, grad, chunk, student.weight)
        # Free it on a GPU before the next chunk's logits are made: otherwise two chunks are alive at once.
        del grad
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def chunk_rows(weight: Tensor, dtype: torch.dtype) -> int:
    """Return how many rows of logits in `dtype` fit the device's budget, for a head's weight [V, H]."""
    return rows_within_budget(weight.device.type, weight.shape[0], dtype.itemsize)


def rows_within_budget(device: str, vocab_size: int, itemsize: int) -> int:
    """Return how many rows of `vocab_size` logits, `itemsize` bytes each, fit the budget of a device type.

    From ROW_TILE on, multiples of it: a product's partly empty last tile costs as much as a full one.
    """
    budget = LOGITS_BYTES.get(device, LOGITS_BYTES["cuda"])
    rows = max(1, budget // (vocab_size * itemsize))
    return max(rows // ROW_TILE * ROW_TILE, min(rows, ROW_TILE))


def _blank_ignored(chunk: Rows) -> Rows:
    """Set ignored rows to zero hidden states and label 0: their values must not turn 0 * x into NaN."""
    ignored = ~chunk.valid.unsqueeze(-1)
    positive = None if chunk.positive is None else chunk.positive.masked_fill(ignored, 0)
    negative = None if chunk.negative is None else chunk.negative.masked_fill(ignored, 0)
    labels, student = chunk.labels.masked_fill(~chunk.valid, 0), chunk.student.masked_fill(ignored, 0)
    return replace(chunk, student=student, positive=positive, negative=negative, labels=labels)


def torch_terms(
    chunk: Rows,
    student: LMHead,
    teacher: LMHead | None,
    objective: Objective,
    with_gradient: bool,
    memory: LogitsMemory,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Compute terms and diagnostics per row, [m], and with w the row's share of the loss, w' of the distillation term

    dL/dz_s = w' * lambda * tau * dD/du + w * (1 - lambda) * (p - onehot(y)),  u = z_s / tau;

    for the forward KL dD/du = p^tau - q. Matrix products are made for the whole chunk; the rest passes over the logits
    a dozen times, on a CPU in tiles of rows that stay in the cache.
    """
    chunk = _blank_ignored(chunk)
    z_s, target = memory.logits("student", student, chunk.student), None
    if teacher is not None and chunk.positive is not None:
        target = Target.of(chunk, teacher, objective, memory)
        chunk = replace(chunk, alpha=target.alpha)
    step = tile_rows(z_s)
    parts = []
    for start in range(0, max(1, len(z_s)), step):
        tile = slice(start, start + step)
        logits = None
        if target is not None:
            logits = target.logits[tile], None if target.z_pos is None else target.z_pos[tile]
        parts.append(_tile_terms(z_s[tile], logits, chunk.take(tile), student.softcap, objective, with_gradient))
    terms = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return terms | alpha_terms(chunk), z_s if with_gradient else None


@dataclass(frozen=True)
class Target:
    """The target's logits [m, V], z_pos [m, V] if computed separately, and each row's alpha [m].

    `alpha` is None if all rows have the objective's.
    """

    logits: Tensor
    z_pos: Tensor | None
    alpha: Tensor | None

    @classmethod
    def of(cls, chunk: Rows, head: LMHead, objective: Objective, memory: LogitsMemory) -> "Target":
        """Make one product if the contrast may be formed in hidden space, else two; a gate always takes two."""
        positive, negative, alpha = chunk.positive, chunk.negative, chunk.alpha
        assert positive is not None
        separate = objective.needs_z_pos(negative is not None, head.softcap)
        z_neg = None
        if negative is not None and (separate or objective.gated):
            # Without z_pos the target overwrites z_neg once that has been read.
            z_neg = memory.logits("negative" if separate else "target", head, negative)
        if z_neg is not None and objective.gated:
            alpha = gated_alpha(entropies(z_neg), objective.alpha, objective.gate_m)
        strength = objective.alpha if alpha is None else alpha
        if not separate:
            if negative is not None:
                positive = hidden_contrast(positive, negative, strength, head)
            del z_neg
            return cls(memory.logits("target", head, positive), None, alpha)
        z_pos = memory.logits("positive", head, positive)
        return cls(z_pos.clone() if z_neg is None else contrast(z_pos, z_neg, strength), z_pos, alpha)


def _tile_terms(
    z_s: Tensor,
    target: tuple[Tensor, Tensor | None] | None,
    rows: Rows,
    softcap: float | None,
    objective: Objective,
    with_gradient: bool,
) -> dict[str, Tensor]:
    """Compute terms and diagnostics of some rows; a gradient is written over `z_s` (before the softcap)."""
    tau, kd_weight = objective.temperature, objective.kd_weight
    counts, label = rows.valid.to(z_s.dtype), rows.labels.unsqueeze(-1)
    slope = 1 - (z_s / softcap).square_() if with_gradient and softcap is not None else None
    largest, best = z_s.max(-1, keepdim=True)
    best = best.squeeze(-1)
    at_label = (z_s.gather(-1, label) - largest).squeeze(-1)
    below = z_s.sub_(largest)
    log_p, p = _softmax(below / tau)
    terms = {"rows": counts, "token_accuracy": (best == rows.labels) * counts}
    terms["student_entropy"] = -torch.linalg.vecdot(p, log_p) * counts
    step = None
    if target is not None:
        distilled, step = _distillation(target, log_p, p, objective)
        # An infinite logit makes an entropy NaN; a term alone may hide it.
        nothing = 0 * (terms["student_entropy"] + distilled["teacher_entropy"])
        terms["kd"] = (tau**2 * distilled["kd"] + nothing) * rows.kd_share
        terms["agreement"] = (best == distilled["best"]) * counts
        terms |= {name: distilled[name] * counts for name in ("teacher_entropy", "contrast_shift") if name in distilled}
    if objective.uses_labels:
        anchor = below.exp_()
        total = anchor.sum(-1, keepdim=True)
        terms["ce"] = (total.log().squeeze(-1) - at_label + 0 * terms["student_entropy"]) * rows.weight
    if with_gradient:
        weight = rows.weight.unsqueeze(-1)
        grad = below
        if objective.uses_labels:
            grad.mul_((1 - kd_weight) * weight / total)
            grad.scatter_add_(-1, label, (kd_weight - 1) * weight)
        else:
            grad.zero_()
        if step is not None:
            grad.addcmul_(step, kd_weight * tau * rows.kd_share.unsqueeze(-1))
        if slope is not None:
            grad.mul_(slope)
    return terms


def _distillation(
    target: tuple[Tensor, Tensor | None], log_p: Tensor, p: Tensor, objective: Objective
) -> tuple[dict[str, Tensor], Tensor]:
    """Compute divergence, top token and entropy of the target, the contrast's shift if z_pos is given; dD/du [m, V]."""
    z_t, z_pos = target
    if objective.plausibility is not None and z_pos is not None:
        bound = z_pos.amax(-1, keepdim=True) + math.log(objective.plausibility)
        z_t.masked_fill_((z_pos < bound) & z_pos.isfinite(), NEVER)
    largest, best = z_t.max(-1, keepdim=True)
    log_q, q = _softmax(z_t.sub_(largest).mul_((1 + objective.sharpen) / objective.temperature))
    terms = {"best": best.squeeze(-1), "teacher_entropy": -torch.linalg.vecdot(q, log_q)}
    if z_pos is not None:
        log_p_pos = torch.log_softmax(z_pos / objective.temperature, dim=-1)
        terms["contrast_shift"] = torch.linalg.vecdot(q, log_q - log_p_pos)
    terms["kd"], step = objective.divergence.with_gradient(log_q, q, log_p, p, objective.mix)
    return terms, step


def _softmax(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return log softmax (written over `u`) and softmax of logits whose largest is 0.

    A logit of -inf makes 0 * log 0 a NaN in later sums.
    """
    p = u.exp()
    total = p.sum(-1, keepdim=True)
    return u.sub_(total.log()), p.div_(total)


class _Gradients:
    """Gradients of the inputs that require one; those of the head are summed over chunks in the `wide` dtype.

    Products are made in `wide` and rounded once, unless the `logits` are no wider than the inputs. `scale` is the
    head's, which also scales the gradient of its inputs.
    """

    def __init__(self, wanted: list[Tensor | None], wide: torch.dtype, logits_dtype: torch.dtype, scale: float):
        hidden, weight, bias = wanted
        self.scale = scale
        self.wide, self.logits_dtype = wide, logits_dtype
        self._dtypes = [None if x is None else x.dtype for x in wanted]
        self.hidden = None if hidden is None else torch.zeros_like(hidden)
        self.weight = None if weight is None else torch.zeros_like(weight, dtype=wide)
        self.bias = None if bias is None else torch.zeros_like(bias, dtype=wide)

    @property
    def needed(self) -> bool:
        """Whether any gradient is needed."""
        return any(dtype is not None for dtype in self._dtypes)

    def add(self, start: int, grad: Tensor, chunk: Rows, weight: Tensor) -> None:
        """Add the share of one chunk: `grad` is dL/du [m, V] of the rows from `start` on, 0 in ignored ones."""
        if self.bias is not None:
            self.bias += grad.sum(0)
        grad = grad.to(weight.dtype)
        if self.hidden is not None:
            rows = self.hidden[start : start + len(grad)]
            if rows.dtype == weight.dtype == self.logits_dtype:
                torch.mm(grad, weight, out=rows).mul_(self.scale)
            else:
                rows.copy_(matmul(grad, weight, self.wide).mul_(self.scale))
        if self.weight is not None:
            hidden = chunk.student.masked_fill(~chunk.valid.unsqueeze(-1), 0)
            self.weight += matmul(grad.t(), hidden.to(weight.dtype), self.wide)

    def finished(self) -> list[Tensor | None]:
        """Return the gradients of hidden states, weight and bias, each in its input's dtype."""
        for summed in (self.weight, self.bias):
            if summed is not None:
                summed.mul_(self.scale)
        gradients = zip((self.hidden, self.weight, self.bias), self._dtypes, strict=True)
        return [None if gradient is None else gradient.to(dtype) for gradient, dtype in gradients]
