"""The objective's arithmetic over a chunk of logits in one Triton kernel: softmaxes, terms, diagnostics, gradient.

A program takes one row and streams its logits in blocks of the vocabulary: a first sweep finds the maxima and
normalisers (online, Milakov and Gimelshein 2018), a second the sums, and, for the forward KL, writes the gradient over
the student's logits; the gradients of the other divergences need those sums first, so they take a third sweep. Every
lane of a block keeps its own maxima and sums until a sweep ends: a reduction over the block would make its threads
wait for each other. Logarithms are to base 2, the base of the hardware's exponential.
"""

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from caad_ds.loss.alpha_gate import gated_alpha
from caad_ds.loss.contrastive_target import hidden_contrast
from caad_ds.loss.head import LMHead, LogitsMemory
from caad_ds.loss.objective import Objective, Rows, alpha_terms, computed
from caad_ds.loss.triton_device_functions import LN_2, LOG2_E, NEVER, capped, grow, join, logits

BLOCK = 2048
WARPS = 8
STAGES = {4: 3, 2: 4}  # by bytes of a logit: blocks that are being loaded, and the current one
TERMS = ("kd", "ce", "rows", "token_accuracy", "agreement", "student_entropy", "teacher_entropy", "contrast_shift")


@dataclass(frozen=True)
class TargetLogits:
    """The teacher's logits before bias, scale and softcap, [m, V]: only z_c if it comes from one product, otherwise
    z_pos and, with a contrast, z_neg; and each row's alpha [m], or None if all have the objective's."""

    first: Tensor
    negative: Tensor | None
    separate: bool
    alpha: Tensor | None

    @classmethod
    def of(cls, chunk: Rows, head: LMHead, objective: Objective, dtype: torch.dtype) -> "TargetLogits":
        """Make one product if the contrast may be formed in hidden space (method.md, identity 1), else two; a gate
        always takes two."""
        positive, alpha, z_neg = chunk.positive, chunk.alpha, None
        assert positive is not None
        separate = objective.needs_z_pos(chunk.negative is not None, head.softcap)
        if chunk.negative is not None and (separate or objective.gated):
            z_neg = head.products(chunk.negative, dtype)
            if objective.gated:
                alpha = gated_alpha(entropies(z_neg, head), objective.alpha, objective.gate_m)
        if separate or chunk.negative is None:
            return cls(head.products(positive, dtype), z_neg, separate, alpha)
        del z_neg  # its memory is free for the target's
        hidden = hidden_contrast(positive, chunk.negative, objective.alpha if alpha is None else alpha, head)
        return cls(head.products(hidden, dtype), None, separate, alpha)


def entropies(products: Tensor, head: LMHead) -> Tensor:
    """Compute entropies in nats of softmax(z), [m], from a head's products [m, V] before bias, scale and softcap."""
    rows, vocab = products.shape
    out = torch.zeros(rows, dtype=torch.float32, device=products.device)
    if rows:
        with torch.cuda.device_of(products):
            _entropies[(rows,)](
                products, out if head.bias is None else head.bias.contiguous(), out, vocab,
                float(head.scale), float(head.softcap or 1),
                BIAS=head.bias is not None, CAP=head.softcap is not None,
                BLOCK=min(BLOCK, triton.next_power_of_2(vocab)), STAGES=STAGES[products.element_size()],
                num_warps=WARPS,
            )  # fmt: skip
    return out


def chunk_terms(
    chunk: Rows,
    student: LMHead,
    teacher: LMHead | None,
    objective: Objective,
    with_gradient: bool,
    memory: LogitsMemory,
    logits_dtype: torch.dtype,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Terms and diagnostics of each row, [m] each in float32, and dL/du [m, V] of the logits u before the softcap.

    The gradient has the dtype that its product with the head's weight takes. Nothing here waits for the device, whose
    allocator keeps memory at hand, so that `memory` is not needed.
    """
    z_s = student.products(chunk.student, logits_dtype)
    target = None if teacher is None else TargetLogits.of(chunk, teacher, objective, logits_dtype)
    separate = target is not None and target.separate
    alphas = target.alpha if target is not None and separate else None  # else in the contrast of the hidden states
    gradient = z_s
    if with_gradient and z_s.dtype != student.weight.dtype:
        gradient = torch.empty_like(z_s, dtype=student.weight.dtype)
    rows, vocab = z_s.shape
    out = torch.zeros(len(TERMS), rows, dtype=torch.float32, device=z_s.device)
    nothing = out  # placeholder for a pointer that the kernel does not use

    def pointer(tensor: Tensor | None) -> Tensor:
        return nothing if tensor is None else tensor.contiguous()

    if rows:
        with torch.cuda.device_of(z_s):  # where Triton launches
            _rows[(rows,)](
                z_s,
                pointer(target.first if target else None),
                pointer(target.negative if target else None),
                pointer(student.bias),
                pointer(teacher.bias if teacher else None),
                pointer(chunk.labels),
                pointer(chunk.valid),
                pointer(chunk.weight),
                pointer(chunk.kd_share),
                pointer(alphas),
                out,
                gradient,
                rows,
                vocab,
                float(objective.alpha),
                1 / float(objective.temperature),
                1 + float(objective.sharpen),
                float(objective.kd_weight),
                float(objective.plausibility or 1),
                float(objective.mix),
                float(student.scale),
                float(teacher.scale if teacher else 1),
                float(student.softcap or 1),
                float((teacher and teacher.softcap) or 1),
                TEACHER=target is not None,
                SEPARATE=separate,
                NEGATIVE=target is not None and target.negative is not None,
                ALPHAS=alphas is not None,
                PLAUSIBILITY=objective.plausibility is not None,
                LABELS=objective.uses_labels,
                STUDENT_BIAS=student.bias is not None,
                TEACHER_BIAS=teacher is not None and teacher.bias is not None,
                STUDENT_CAP=student.softcap is not None,
                TEACHER_CAP=teacher is not None and teacher.softcap is not None,
                DIVERGENCE=objective.divergence.name,
                GRADIENT=with_gradient,
                BLOCK=min(BLOCK, triton.next_power_of_2(vocab)),
                STAGES=STAGES[z_s.element_size()],
                num_warps=WARPS,
            )
    terms = dict(zip(TERMS, out, strict=True))
    terms = computed(terms, objective, target is not None, separate)
    if target is not None:
        terms |= alpha_terms(replace(chunk, alpha=target.alpha))
    return terms, gradient if with_gradient else None


@triton.jit
def _target(
    z_t, z_n, bias, scale, cap, row, vocab, cols, alpha, sharpness, floor,
    BIAS: tl.constexpr, CAP: tl.constexpr, NEGATIVE: tl.constexpr, PLAUSIBILITY: tl.constexpr,
):  # fmt: skip
    """Load a block of the target's logits and the block of z_pos."""
    first = logits(z_t, bias, scale, cap, row, vocab, cols, BIAS, CAP)
    value = first
    if NEGATIVE:
        value = first * (1 + alpha) - logits(z_n, bias, scale, cap, row, vocab, cols, BIAS, CAP) * alpha
    value *= sharpness
    if PLAUSIBILITY:
        value = tl.where((first < floor) & (first > -float("inf")), NEVER, value)
    return value, first


@triton.jit
def _first(peak, top, at, vocab):
    """Return the smallest column whose logit is the maximum."""
    return tl.min(tl.where(peak == top, at, vocab), 0)


@triton.jit
def _log_mixture(log_q, log_p, mix):
    a, b = log_q + tl.log2(mix), log_p + tl.log2(1 - mix)
    peak = tl.maximum(a, b)
    return peak + tl.log2(tl.exp2(a - peak) + tl.exp2(b - peak))


@triton.jit
def _entropies(
    z, bias, out, vocab, scale, cap, BIAS: tl.constexpr, CAP: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute the entropy of one row: a sweep for its maximum and normaliser, one for the sum."""
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    totals = tl.zeros([BLOCK], tl.float32)
    sums, peaks = totals, totals - 3e38
    for start in tl.range(0, vocab, BLOCK, num_stages=STAGES):
        value = logits(z, bias, scale, cap, row, vocab, start + lanes, BIAS, CAP)
        totals = grow(peaks, totals, value, LOG2_E)
        peaks = tl.maximum(peaks, value)
    peak, log_z = join(peaks, totals, LOG2_E)
    for start in tl.range(0, vocab, BLOCK, num_stages=STAGES):
        log_p = (logits(z, bias, scale, cap, row, vocab, start + lanes, BIAS, CAP) - peak) * LOG2_E - log_z
        sums -= tl.exp2(log_p) * log_p
    tl.store(out + row, tl.sum(sums, 0) * LN_2)


@triton.jit
def _rows(
    z_s, z_t, z_n, bias_s, bias_t, labels, valid, weights, kd_shares, alphas, out, gradient, rows, vocab,
    alpha, inverse, sharpness, kd_weight, plausibility, mix, scale_s, scale_t, cap_s, cap_t,
    TEACHER: tl.constexpr, SEPARATE: tl.constexpr, NEGATIVE: tl.constexpr, ALPHAS: tl.constexpr,
    PLAUSIBILITY: tl.constexpr, LABELS: tl.constexpr, STUDENT_BIAS: tl.constexpr, TEACHER_BIAS: tl.constexpr,
    STUDENT_CAP: tl.constexpr, TEACHER_CAP: tl.constexpr, DIVERGENCE: tl.constexpr, GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute one row of the objective; `inverse` is 1 / tau; with ALPHAS the row's own alpha replaces `alpha`."""
    row = tl.program_id(0).to(tl.int64)
    weight, kd_weight_of_row = tl.load(weights + row).to(tl.float32), tl.load(kd_shares + row).to(tl.float32)
    label = tl.load(labels + row)
    tau = 1 / inverse
    scale = inverse * LOG2_E
    lanes = tl.arange(0, BLOCK)
    zeros = tl.zeros([BLOCK], tl.float32)
    if not tl.load(valid + row):  # whatever the row holds
        if GRADIENT:
            for start in range(0, vocab, BLOCK):
                cols = start + lanes
                tl.store(gradient + row * vocab + cols, zeros.to(gradient.dtype.element_ty), mask=cols < vocab)
        return
    # Below every logit: a lane's first one becomes its maximum.
    lowest = zeros - 3e38
    if ALPHAS:
        alpha = tl.load(alphas + row).to(tl.float32)

    # z_pos alone: its maximum bounds what is plausible, its normaliser gives the contrast's shift.
    peak_pos, log_pos, floor = 0.0, 0.0, 0.0
    if SEPARATE:
        peaks, totals = lowest, zeros
        for start in tl.range(0, vocab, BLOCK, num_stages=STAGES):
            z = logits(z_t, bias_t, scale_t, cap_t, row, vocab, start + lanes, TEACHER_BIAS, TEACHER_CAP)
            totals = grow(peaks, totals, z, scale)
            peaks = tl.maximum(peaks, z)
        peak_pos, log_pos = join(peaks, totals, scale)
        if PLAUSIBILITY:
            floor = peak_pos + tl.log(plausibility)

    # Read here, a sweep before the gradient may be written over it.
    at_label = 0.0
    if LABELS:
        known = (label >= 0) & (label < vocab)  # labels are not checked on a GPU, since that would wait for it
        at_label = tl.load(z_s + row * vocab + label, mask=known, other=float("nan")).to(tl.float32)
        if STUDENT_BIAS:
            at_label += tl.load(bias_s + label, mask=known, other=0.0).to(tl.float32)
        at_label *= scale_s
        if STUDENT_CAP:
            at_label = capped(at_label, cap_s)

    peaks_s, totals_s, totals_1, best_s = lowest, zeros, zeros, lanes
    peaks_t, totals_t, best_t = lowest, zeros, lanes
    for start in tl.range(0, vocab, BLOCK, num_stages=STAGES):
        cols = start + lanes
        z = logits(z_s, bias_s, scale_s, cap_s, row, vocab, cols, STUDENT_BIAS, STUDENT_CAP)
        totals_s = grow(peaks_s, totals_s, z, scale)
        if LABELS:
            totals_1 = grow(peaks_s, totals_1, z, LOG2_E)
        best_s = tl.where(z > peaks_s, cols, best_s)
        peaks_s = tl.maximum(peaks_s, z)
        if TEACHER:
            t, _ = _target(
                z_t, z_n, bias_t, scale_t, cap_t, row, vocab, cols, alpha, sharpness, floor,
                TEACHER_BIAS, TEACHER_CAP, NEGATIVE, PLAUSIBILITY,
            )  # fmt: skip
            totals_t = grow(peaks_t, totals_t, t, scale)
            best_t = tl.where(t > peaks_t, cols, best_t)
            peaks_t = tl.maximum(peaks_t, t)
    peak_s, log_s = join(peaks_s, totals_s, scale)
    log_1 = join(peaks_s, totals_1, LOG2_E)[1]
    peak_t, log_t = join(peaks_t, totals_t, scale)
    at_s, at_t = _first(peaks_s, peak_s, best_s, vocab), _first(peaks_t, peak_t, best_t, vocab)

    forward, backward, posterior, entropy_s, entropy_t, shift = zeros, zeros, zeros, zeros, zeros, zeros
    kd_share, ce_share = kd_weight * tau * kd_weight_of_row, (1 - kd_weight) * weight
    # Backwards: what the first sweep read last is still in the cache.
    blocks = tl.cdiv(vocab, BLOCK)
    for done in tl.range(0, blocks, num_stages=STAGES):
        cols = (blocks - 1 - done) * BLOCK + lanes
        z = logits(z_s, bias_s, scale_s, cap_s, row, vocab, cols, STUDENT_BIAS, STUDENT_CAP)
        log_p = (z - peak_s) * scale - log_s
        p = tl.exp2(log_p)
        entropy_s -= p * log_p
        step = zeros
        if TEACHER:
            t, pos = _target(
                z_t, z_n, bias_t, scale_t, cap_t, row, vocab, cols, alpha, sharpness, floor,
                TEACHER_BIAS, TEACHER_CAP, NEGATIVE, PLAUSIBILITY,
            )  # fmt: skip
            log_q = (t - peak_t) * scale - log_t
            q = tl.exp2(log_q)
            entropy_t -= q * log_q
            if SEPARATE:
                shift += q * (log_q - ((pos - peak_pos) * scale - log_pos))
            if DIVERGENCE == "forward_kl":
                forward += q * (log_q - log_p)
                step = p - q
            elif DIVERGENCE == "reverse_kl":
                backward += p * (log_p - log_q)
            else:
                log_m = _log_mixture(log_q, log_p, mix)
                forward += q * (log_q - log_m)
                backward += p * (log_p - log_m)
                posterior += q * tl.exp2(log_p - log_m)
        if GRADIENT and (DIVERGENCE == "forward_kl" or not TEACHER):
            _store(
                gradient, z, step, peak_s, log_1, cols, row, vocab, label, kd_share, ce_share, cap_s,
                LABELS, STUDENT_CAP,
            )  # fmt: skip

    if GRADIENT and TEACHER and DIVERGENCE != "forward_kl":
        mean_backward, mean_posterior = tl.sum(backward, 0), tl.sum(posterior, 0)
        for start in tl.range(0, vocab, BLOCK, num_stages=STAGES):
            cols = start + lanes
            z = logits(z_s, bias_s, scale_s, cap_s, row, vocab, cols, STUDENT_BIAS, STUDENT_CAP)
            t, _ = _target(
                z_t, z_n, bias_t, scale_t, cap_t, row, vocab, cols, alpha, sharpness, floor,
                TEACHER_BIAS, TEACHER_CAP, NEGATIVE, PLAUSIBILITY,
            )  # fmt: skip
            log_p = (z - peak_s) * scale - log_s
            log_q = (t - peak_t) * scale - log_t
            p, q = tl.exp2(log_p), tl.exp2(log_q)
            if DIVERGENCE == "reverse_kl":
                step = p * (log_p - log_q - mean_backward) * LN_2
            else:
                log_m = _log_mixture(log_q, log_p, mix)
                if DIVERGENCE == "jsd":
                    step = (1 - mix) * p * (log_p - log_m - mean_backward) * LN_2
                else:
                    step = (1 - mix) * (p * mean_posterior - q * tl.exp2(log_p - log_m))
            _store(
                gradient, z, step, peak_s, log_1, cols, row, vocab, label, kd_share, ce_share, cap_s,
                LABELS, STUDENT_CAP,
            )  # fmt: skip

    if DIVERGENCE == "reverse_kl":
        kd = tl.sum(backward, 0)
    elif DIVERGENCE == "jsd":
        kd = mix * tl.sum(forward, 0) + (1 - mix) * tl.sum(backward, 0)
    else:
        tl.static_assert(DIVERGENCE == "forward_kl" or DIVERGENCE == "skewed_kl", "a divergence that is not written")
        kd = tl.sum(forward, 0)
    cross_entropy = log_1 * LN_2 - (at_label - peak_s)
    # An infinite logit makes an entropy NaN; adding 0 times it keeps that where a term alone might not.
    disorder_s, disorder_t = tl.sum(entropy_s, 0) * LN_2, tl.sum(entropy_t, 0) * LN_2
    tl.store(out + row, (kd * LN_2 * tau * tau + 0 * (disorder_s + disorder_t)) * kd_weight_of_row)
    tl.store(out + rows + row, (cross_entropy + 0 * disorder_s) * weight)
    tl.store(out + 2 * rows + row, 1.0)
    tl.store(out + 3 * rows + row, tl.where(at_s == label, 1.0, 0.0))
    tl.store(out + 4 * rows + row, tl.where(at_s == at_t, 1.0, 0.0))
    tl.store(out + 5 * rows + row, disorder_s)
    tl.store(out + 6 * rows + row, disorder_t)
    tl.store(out + 7 * rows + row, tl.sum(shift, 0) * LN_2)


@triton.jit
def _store(
    gradient, z, step, peak, log_1, cols, row, vocab, label, kd_share, ce_share, cap,
    LABELS: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """dL/du = [w' * lambda * tau * dD/d(z / tau) + w * (1 - lambda) * (p - onehot(y))] * dz/du, written in place."""
    value = step * kd_share
    if LABELS:
        value += tl.exp2((z - peak) * LOG2_E - log_1) * ce_share
        value = tl.where(cols == label, value - ce_share, value)
    if CAP:
        value *= 1 - (z / cap) * (z / cap)
    tl.store(gradient + row * vocab + cols, value.to(gradient.dtype.element_ty), mask=cols < vocab)
