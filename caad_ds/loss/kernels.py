"""The objective's arithmetic over a chunk of logits in one Triton kernel: softmaxes, terms, diagnostics, gradient.

A program takes one row and streams its logits in blocks of the vocabulary: a first sweep finds the maxima and
normalisers (online, Milakov and Gimelshein 2018), a second the sums, and, for the forward KL, writes the gradient over
the student's logits; the gradients of the other divergences need those sums first, so they take a third sweep.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from caad_ds.loss.divergence import DIVERGENCES
from caad_ds.loss.head import LMHead
from caad_ds.loss.objective import Objective, Rows, contrast

BLOCK = 4096
WARPS = 8
TERMS = ("kd", "ce", "token_accuracy", "agreement", "student_entropy", "teacher_entropy", "contrast_shift")

FORWARD_KL, REVERSE_KL, JSD, SKEWED_KL = (tl.constexpr(number) for number in range(len(DIVERGENCES)))


@dataclass(frozen=True)
class TargetLogits:
    """The teacher's logits before bias and softcap, [m, V]: z_c alone where it comes from one product, otherwise
    z_pos and, with a contrast, z_neg."""

    first: Tensor
    negative: Tensor | None
    separate: bool

    @classmethod
    def of(cls, chunk: Rows, head: LMHead, objective: Objective, dtype: torch.dtype) -> "TargetLogits":
        """One product wherever the contrast may be formed in hidden space (method.md, identity 1), else two."""
        assert chunk.positive is not None
        separate = objective.needs_z_pos(chunk.negative is not None, head.softcap)
        if separate or chunk.negative is None:
            negative = None if chunk.negative is None else head.products(chunk.negative, dtype)
            return cls(head.products(chunk.positive, dtype), negative, separate)
        hidden = contrast(chunk.positive, chunk.negative, objective.alpha).to(head.weight.dtype)
        return cls(head.products(hidden, dtype), None, separate)


def chunk_terms(
    chunk: Rows,
    student: LMHead,
    teacher: LMHead | None,
    objective: Objective,
    with_gradient: bool,
    logits_dtype: torch.dtype,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Terms and diagnostics of each row, [m] each in float32, and dL/du [m, V] before bias and softcap.

    The gradient has the dtype that its product with the head's weight takes. Nothing here waits for the device.
    """
    z_s = student.products(chunk.student, logits_dtype)
    target = None if teacher is None else TargetLogits.of(chunk, teacher, objective, logits_dtype)
    gradient = z_s
    if with_gradient and z_s.dtype != student.weight.dtype:
        gradient = torch.empty_like(z_s, dtype=student.weight.dtype)
    rows, vocab = z_s.shape
    found = torch.empty(len(TERMS), rows, dtype=torch.float32, device=z_s.device)
    nothing = found  # stands for a pointer that the kernel does not follow

    def pointer(tensor: Tensor | None) -> Tensor:
        return nothing if tensor is None else tensor

    if rows:
        # A NaN passes through all of it: 0 * log 0 is told from it by `== 0`.
        _rows[(rows,)](
            z_s,
            pointer(target.first if target else None),
            pointer(target.negative if target else None),
            pointer(student.bias),
            pointer(teacher.bias if teacher else None),
            chunk.labels,
            chunk.valid,
            chunk.weight,
            found,
            gradient,
            rows,
            vocab,
            objective.alpha,
            1 / objective.temperature,
            1 + objective.sharpen,
            objective.kd_weight,
            objective.plausibility or 1.0,
            objective.mix,
            student.softcap or 1.0,
            (teacher and teacher.softcap) or 1.0,
            TEACHER=target is not None,
            SEPARATE=target is not None and target.separate,
            NEGATIVE=target is not None and target.negative is not None,
            PLAUSIBILITY=objective.plausibility is not None,
            LABELS=objective.uses_labels,
            STUDENT_BIAS=student.bias is not None,
            TEACHER_BIAS=teacher is not None and teacher.bias is not None,
            STUDENT_CAP=student.softcap is not None,
            TEACHER_CAP=teacher is not None and teacher.softcap is not None,
            DIVERGENCE=DIVERGENCES.index(objective.divergence),
            GRADIENT=with_gradient,
            BLOCK=min(BLOCK, triton.next_power_of_2(vocab)),
            num_warps=WARPS,
        )
    terms = dict(zip(TERMS, found, strict=True))
    unused = [] if objective.uses_labels else ["ce"]
    unused += [] if target is not None else ["kd", "agreement", "teacher_entropy"]
    unused += [] if target is not None and target.separate else ["contrast_shift"]
    terms = {name: values for name, values in terms.items() if name not in unused}
    return terms | {"rows": chunk.valid.to(torch.float32)}, gradient if with_gradient else None


@triton.jit
def _capped(z, cap):
    """cap * tanh(z / cap): by exp(-2|x|), which cannot overflow, and near 0, where that cancels, by its series."""
    x = z / cap
    square = x * x
    series = x * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
    small = tl.exp(-2 * tl.abs(x))
    size = (1 - small) / (1 + small)
    return cap * tl.where(tl.abs(x) < 0.15, series, tl.where(x < 0, -size, size))


@triton.jit
def _logits(z, bias, cap, row, vocab, cols, BIAS: tl.constexpr, CAP: tl.constexpr):
    """A block of a row's logits in float32, with bias and softcap; -inf beyond the vocabulary."""
    inside = cols < vocab
    value = tl.load(z + row * vocab + cols, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + cols, mask=inside, other=0.0).to(tl.float32)
    if CAP:
        value = _capped(value, cap)
    return tl.where(inside, value, -float("inf"))


@triton.jit
def _target(
    z_t, z_n, bias, cap, row, vocab, cols, alpha, sharpness, floor,
    BIAS: tl.constexpr, CAP: tl.constexpr, SEPARATE: tl.constexpr, NEGATIVE: tl.constexpr, PLAUSIBILITY: tl.constexpr,
):  # fmt: skip
    """A block of the target's logits, -inf where implausible or beyond the vocabulary, and the block of z_pos."""
    first = _logits(z_t, bias, cap, row, vocab, cols, BIAS, CAP)
    value = first
    if NEGATIVE:
        negative = _logits(z_n, bias, cap, row, vocab, cols, BIAS, CAP)
        value = tl.where(cols < vocab, first * (1 + alpha) - negative * alpha, -float("inf"))
    value *= sharpness
    if PLAUSIBILITY:
        value = tl.where(first < floor, -float("inf"), value)
    return value, first


@triton.jit
def _grow(largest, total, z, inverse):
    """The running maximum of z and the sum of exp((z - maximum) * inverse), with another block."""
    peak = tl.maximum(largest, tl.max(z, 0))
    # Before anything finite was seen both are -inf, and their difference is no number.
    kept = tl.where(peak == -float("inf"), 0.0, peak)
    return peak, total * tl.exp((largest - kept) * inverse) + tl.sum(tl.exp((z - kept) * inverse), 0)


@triton.jit
def _log_mixture(log_q, log_p, mix):
    a, b = log_q + tl.log(mix), log_p + tl.log(1 - mix)
    peak = tl.maximum(a, b)
    return peak + tl.log(tl.exp(a - peak) + tl.exp(b - peak))


@triton.jit
def _rows(
    z_s, z_t, z_n, bias_s, bias_t, labels, valid, weights, found, gradient, rows, vocab,
    alpha, inverse, sharpness, kd_weight, plausibility, mix, cap_s, cap_t,
    TEACHER: tl.constexpr, SEPARATE: tl.constexpr, NEGATIVE: tl.constexpr, PLAUSIBILITY: tl.constexpr,
    LABELS: tl.constexpr, STUDENT_BIAS: tl.constexpr, TEACHER_BIAS: tl.constexpr, STUDENT_CAP: tl.constexpr,
    TEACHER_CAP: tl.constexpr, DIVERGENCE: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of the objective; `inverse` is 1 / tau."""
    row = tl.program_id(0).to(tl.int64)
    counts = tl.load(valid + row).to(tl.float32)
    weight = tl.load(weights + row).to(tl.float32)
    label = tl.load(labels + row)
    tau = 1 / inverse
    offsets = tl.arange(0, BLOCK)
    lowest = -float("inf")

    # z_pos by itself: its maximum bounds what is plausible, its normaliser gives the contrast's shift.
    peak_pos, total_pos, floor = lowest, 0.0, lowest
    if SEPARATE:
        for start in range(0, vocab, BLOCK):
            z = _logits(z_t, bias_t, cap_t, row, vocab, start + offsets, TEACHER_BIAS, TEACHER_CAP)
            peak_pos, total_pos = _grow(peak_pos, total_pos, z, inverse)
        if PLAUSIBILITY:
            floor = peak_pos + tl.log(plausibility)

    peak_s, total_s, peak_1, total_1, best_s, at_s = lowest, 0.0, lowest, 0.0, lowest, 0
    peak_t, total_t, best_t, at_t = lowest, 0.0, lowest, 0
    for start in range(0, vocab, BLOCK):
        cols = start + offsets
        z = _logits(z_s, bias_s, cap_s, row, vocab, cols, STUDENT_BIAS, STUDENT_CAP)
        top = tl.max(z, 0)
        at_s = tl.where(top > best_s, tl.min(tl.where(z == top, cols, vocab), 0), at_s)
        best_s = tl.maximum(best_s, top)
        peak_s, total_s = _grow(peak_s, total_s, z, inverse)
        if LABELS:
            peak_1, total_1 = _grow(peak_1, total_1, z, 1.0)
        if TEACHER:
            t, _ = _target(
                z_t, z_n, bias_t, cap_t, row, vocab, cols, alpha, sharpness, floor,
                TEACHER_BIAS, TEACHER_CAP, SEPARATE, NEGATIVE, PLAUSIBILITY,
            )  # fmt: skip
            top = tl.max(t, 0)
            at_t = tl.where(top > best_t, tl.min(tl.where(t == top, cols, vocab), 0), at_t)
            best_t = tl.maximum(best_t, top)
            peak_t, total_t = _grow(peak_t, total_t, t, inverse)
    log_s, log_t, log_pos = tl.log(total_s), tl.log(total_t), tl.log(total_pos)
    log_1 = peak_1 + tl.log(total_1)

    cross_entropy = 0.0
    if LABELS:
        at_label = tl.load(z_s + row * vocab + label).to(tl.float32)
        if STUDENT_BIAS:
            at_label += tl.load(bias_s + label).to(tl.float32)
        if STUDENT_CAP:
            at_label = _capped(at_label, cap_s)
        cross_entropy = log_1 - at_label

    forward, backward, posterior, entropy_s, entropy_t, shift = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for start in range(0, vocab, BLOCK):
        cols = start + offsets
        inside = cols < vocab
        z = _logits(z_s, bias_s, cap_s, row, vocab, cols, STUDENT_BIAS, STUDENT_CAP)
        log_p = (z - peak_s) * inverse - log_s
        p = tl.exp(log_p)
        entropy_s -= tl.sum(tl.where(p == 0, 0.0, p * log_p), 0)
        step = tl.zeros_like(p)
        if TEACHER:
            t, pos = _target(
                z_t, z_n, bias_t, cap_t, row, vocab, cols, alpha, sharpness, floor,
                TEACHER_BIAS, TEACHER_CAP, SEPARATE, NEGATIVE, PLAUSIBILITY,
            )  # fmt: skip
            log_q = (t - peak_t) * inverse - log_t
            q = tl.exp(log_q)
            entropy_t -= tl.sum(tl.where(q == 0, 0.0, q * log_q), 0)
            if SEPARATE:
                log_pos_q = (pos - peak_pos) * inverse - log_pos
                shift += tl.sum(tl.where(q == 0, 0.0, q * (log_q - log_pos_q)), 0)
            if DIVERGENCE == FORWARD_KL:
                forward += tl.sum(tl.where(q == 0, 0.0, q * (log_q - log_p)), 0)
                step = p - q
            elif DIVERGENCE == REVERSE_KL:
                backward += tl.sum(tl.where(p == 0, 0.0, p * (log_p - log_q)), 0)
            else:
                log_m = _log_mixture(log_q, log_p, mix)
                forward += tl.sum(tl.where(q == 0, 0.0, q * (log_q - log_m)), 0)
                backward += tl.sum(tl.where(p == 0, 0.0, p * (log_p - log_m)), 0)
                posterior += tl.sum(tl.where(q == 0, 0.0, q * tl.exp(log_p - log_m)), 0)
        if GRADIENT and (DIVERGENCE == FORWARD_KL or not TEACHER):
            _store(
                gradient, z, step, log_1, cols, inside, row, vocab, label, weight, kd_weight * tau, kd_weight, cap_s,
                LABELS, STUDENT_CAP,
            )  # fmt: skip

    if GRADIENT and TEACHER and DIVERGENCE != FORWARD_KL:
        for start in range(0, vocab, BLOCK):
            cols = start + offsets
            z = _logits(z_s, bias_s, cap_s, row, vocab, cols, STUDENT_BIAS, STUDENT_CAP)
            t, _ = _target(
                z_t, z_n, bias_t, cap_t, row, vocab, cols, alpha, sharpness, floor,
                TEACHER_BIAS, TEACHER_CAP, SEPARATE, NEGATIVE, PLAUSIBILITY,
            )  # fmt: skip
            log_p = (z - peak_s) * inverse - log_s
            log_q = (t - peak_t) * inverse - log_t
            p, q = tl.exp(log_p), tl.exp(log_q)
            if DIVERGENCE == REVERSE_KL:
                step = p * (log_p - log_q - backward)
            else:
                log_m = _log_mixture(log_q, log_p, mix)
                if DIVERGENCE == JSD:
                    step = (1 - mix) * p * (log_p - log_m - backward)
                else:
                    step = (1 - mix) * (p * posterior - tl.where(q == 0, 0.0, q * tl.exp(log_p - log_m)))
            step = tl.where((p == 0) & (q == 0), 0.0, step)
            _store(
                gradient, z, step, log_1, cols, cols < vocab, row, vocab, label, weight, kd_weight * tau, kd_weight,
                cap_s, LABELS, STUDENT_CAP,
            )  # fmt: skip

    if DIVERGENCE == REVERSE_KL:
        kd = backward
    elif DIVERGENCE == JSD:
        kd = mix * forward + (1 - mix) * backward
    else:
        kd = forward
    tl.store(found + row, kd * tau * tau * weight)
    tl.store(found + rows + row, cross_entropy * weight)
    tl.store(found + 2 * rows + row, tl.where(at_s == label, counts, 0.0))
    tl.store(found + 3 * rows + row, tl.where(at_s == at_t, counts, 0.0))
    tl.store(found + 4 * rows + row, entropy_s * counts)
    tl.store(found + 5 * rows + row, entropy_t * counts)
    tl.store(found + 6 * rows + row, shift * counts)


@triton.jit
def _store(
    gradient, z, step, log_1, cols, inside, row, vocab, label, weight, kd_share, kd_weight, cap,
    LABELS: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """dL/du = w * [lambda * tau * dD/d(z / tau) + (1 - lambda) * (p - onehot(y))] * dz/du, written in place."""
    value = step * kd_share
    if LABELS:
        value += (1 - kd_weight) * (tl.exp(z - log_1) - tl.where(cols == label, 1.0, 0.0))
    if CAP:
        value *= 1 - (z / cap) * (z / cap)
    tl.store(gradient + row * vocab + cols, (value * weight).to(gradient.dtype.element_ty), mask=inside)
