"""The objective as in the paper: dense, differentiated by autograd, the reference of the tests."""

from dataclasses import replace

import torch
from torch import Tensor

from caad_ds.loss.alpha_gate import gated_alpha
from caad_ds.loss.contrastive_target import contrast
from caad_ds.loss.divergence import forward_kl
from caad_ds.loss.head import LMHead
from caad_ds.loss.objective import NEVER, LossOutput, Objective, Rows, alpha_terms


def reference_loss(rows: Rows, student_head: LMHead, teacher_head: LMHead | None, objective: Objective) -> LossOutput:
    """L = lambda * tau^2 * D(softmax(z_c / tau), softmax(z_s / tau)) + (1 - lambda) * CE(z_s, y).

    Holds several [N, V] tensors; float64 inputs are computed in float64. Source: CAAD, Stage 2.
    """
    rows = rows.take(rows.valid)
    tau = objective.temperature
    z_s = student_head.logits(rows.student)
    log_p = torch.log_softmax(z_s / tau, dim=-1)
    kd = ce = z_s.new_zeros(len(z_s))
    diagnostics = {"token_accuracy": z_s.argmax(-1) == rows.labels, "student_entropy": _entropy(log_p)}
    if teacher_head is not None and rows.positive is not None:
        z_pos, log_q, rows = _target(rows, teacher_head, objective)
        diagnostics |= alpha_terms(rows)
        diagnostics["agreement"] = z_s.argmax(-1) == log_q.argmax(-1)
        diagnostics["teacher_entropy"] = _entropy(log_q)
        kd = tau**2 * objective.divergence(log_q, log_p, objective.mix)
        kd = kd + 0 * (diagnostics["student_entropy"] + diagnostics["teacher_entropy"]).detach()
        log_p_pos = torch.log_softmax(z_pos / tau, dim=-1)
        diagnostics["contrast_shift"] = forward_kl(log_q, log_p_pos)
    if objective.uses_labels:
        ce = torch.nn.functional.cross_entropy(z_s, rows.labels, reduction="none")
        ce = ce + 0 * diagnostics["student_entropy"].detach()
    kd, ce = (rows.kd_share * kd).sum(), (rows.weight * ce).sum()
    loss = objective.kd_weight * kd + (1 - objective.kd_weight) * ce
    sums = {name: values.detach().sum(dtype=loss.dtype) for name, values in diagnostics.items()}
    sums["rows"] = rows.valid.sum(dtype=loss.dtype)
    return LossOutput(loss, kd.detach(), ce.detach(), sums)


@torch.no_grad()
def _target(rows: Rows, head: LMHead, objective: Objective) -> tuple[Tensor, Tensor, Rows]:
    """Return z_pos [N, V], the target's log-probabilities log q [N, V], and the rows with the gate's alpha."""
    assert rows.positive is not None
    z_pos = z_c = head.logits(rows.positive)
    if rows.negative is not None:
        z_neg = head.logits(rows.negative)
        if objective.gated:
            entropy = _entropy(torch.log_softmax(z_neg, dim=-1))
            rows = replace(rows, alpha=gated_alpha(entropy, objective.alpha, objective.gate_m))
        z_c = contrast(z_pos, z_neg, objective.alpha if rows.alpha is None else rows.alpha)
    z_c = (1 + objective.sharpen) * z_c
    if objective.plausibility is not None:
        p_pos = torch.softmax(z_pos, dim=-1)
        plausible = p_pos >= objective.plausibility * p_pos.amax(-1, keepdim=True)
        z_c = z_c.masked_fill(~plausible & z_pos.isfinite(), NEVER)
    return z_pos, torch.log_softmax(z_c / objective.temperature, dim=-1), rows


def _entropy(log_p: Tensor) -> Tensor:
    """Return the entropy, NaN if a logit is infinite; adding 0 times it keeps that where a term alone might not."""
    return -(log_p.exp() * log_p).sum(-1)
