"""The public loss: checks arguments, weights rows and runs one of the implementations."""

import os
from functools import partial

import torch
from torch import Tensor

from caad_ds.loss import argument_checks, c_kernel
from caad_ds.loss.choose_implementation import IMPLEMENTATIONS, fastest, kernel_lacks
from caad_ds.loss.chunked import chunked_loss
from caad_ds.loss.divergence import Divergence, find_divergence
from caad_ds.loss.head import LMHead, wide_dtype
from caad_ds.loss.objective import LARGEST, LossOutput, Objective, Rows
from caad_ds.loss.reference import reference_loss
from caad_ds.loss.row_shares import factor, row_shares

LOGITS = ("float32", "bfloat16")


def contrastive_distillation_loss(
    student_hidden: Tensor,
    student_head: LMHead,
    teacher_pos: Tensor | None,
    teacher_neg: Tensor | None,
    teacher_head: LMHead | None,
    labels: Tensor,
    *,
    alpha: float | Tensor,
    temperature: float,
    kd_weight: float,
    plausibility: float | None = None,
    divergence: str | Divergence = "forward_kl",
    mix: float = 0.5,
    sharpen: float = 0.0,
    alpha_gate: str = "none",
    gate_m: float = 2.0,
    normalizer: float | Tensor | None = None,
    reduction: str = "token",
    sample_of_row: Tensor | None = None,
    token_weights: Tensor | None = None,
    kd_token_weights: Tensor | None = None,
    vocab_size: int | None = None,
    ignore_index: int = -100,
    implementation: str = "auto",
    logits: str = "float32",
    check_finite: bool = False,
) -> LossOutput:
    """Contrastive distillation plus cross-entropy over N answer rows, from hidden states and LM heads.

        L = sum_n w_n [ lambda a_n tau^2 D(softmax(z_c / tau), softmax(z_s / tau)) + (1 - lambda) CE(z_s, y_n) ]
        z_c = (1 + alpha_n) z_pos - alpha_n z_neg

    z are the heads' logits, w_n = token_weights / normalizer, a_n = kd_token_weights. The state of row n predicts
    `labels[n]`: shift and flatten before.

    Args:
        student_hidden: [N, Hs], float32, bfloat16 or float64; receives the gradient, as does `student_head` if it
            requires one. Logits are at least float32; only `reference` makes an [N, V] tensor.
        teacher_pos: [N, Ht], the teacher's hidden states with the audio. If `kd_weight` is 0, the teacher's arguments
            are ignored and may be None.
        teacher_neg: [N, Ht], those without the audio; None: standard KD, alpha 0.
        labels: int64 [N]; rows equal to `ignore_index` are ignored.
        alpha: the paper's alpha, the strength of the contrast; a tensor [N] gives each row's.
        temperature: the paper's tau.
        kd_weight: the paper's lambda, the share of the distillation term.
        plausibility: beta; tokens with p_pos < beta * max p_pos, p_pos = softmax(z_pos), get zero target probability.
        divergence: D, a name in divergence.py (the paper's is forward_kl), `package.module:name` of a custom
            `Divergence`, or a `Divergence`.
        mix: the target's share in m = mix * q + (1 - mix) * p, for divergences that have such a mixture.
        sharpen: without `teacher_neg`, the target is softmax((1 + sharpen) * z_pos / tau).
        alpha_gate: "text_certainty" (experimental): alpha_n = alpha * max(0, 1 - H / log m), H the entropy in nats of
            softmax(z_neg) over the vocabulary of the loss. It takes one more product of the teacher's head.
        gate_m: the gate's m; alpha_n is 0 if the entropy is that of m equally likely tokens, or more.
        normalizer: divisor of the summed rows: the number of tokens, or of samples under `reduction="sample"`;
            None: those of this call.
        reduction: "token", or "sample": the mean over a sample's rows (`sample_of_row` int64 [N]), then over samples.
        token_weights: [N], a factor for each row's loss; it does not affect diagnostics or the normalizer of None.
        kd_token_weights: [N], a factor for each row's distillation term; 1 by default.
        vocab_size: both terms use the first `vocab_size` tokens; needed if the heads differ in V.
        implementation: "chunked" (PyTorch), "triton" (CUDA; on a CPU only under TRITON_INTERPRET=1), "native" (C on a
            CPU, without softcap and plausibility), "reference" (dense, for tests), or "auto": triton or native if they
            can run and support the divergence, else chunked. Only chunked and reference support float64.
        logits: "bfloat16" keeps the logits of bfloat16 inputs in bfloat16: faster, but rounded (only triton on CUDA).
        check_finite: refuse NaN and infinity in the inputs, and on a GPU labels outside the vocabulary and a normalizer
            that is not above 0 (all wait for the device).

    Returns:
        LossOutput: `loss`, its terms `kd` and `ce`, and `diagnostics`, as sums: `rows`, `token_accuracy`,
        `student_entropy` (nats, at tau); with a teacher `agreement` (top-1, student against target) and
        `teacher_entropy`; with a softcap or plausibility, which need z_pos itself, `contrast_shift`,
        KL(q || softmax(z_pos / tau)); with a gate or a tensor `alpha`, the rows' `alpha`.

    Raises:
        ValueError: naming the argument, its value and what was expected.

    Source: CAAD (arXiv 2606.23052), Stage 2; plausibility: Li et al. 2023, contrastive decoding.
    """
    alpha_of_row = alpha if isinstance(alpha, Tensor) else None
    scalars = 1.0 if isinstance(alpha, Tensor) else alpha, temperature, kd_weight, plausibility, sharpen
    objective = Objective(*scalars, find_divergence(divergence), mix, alpha_gate, gate_m)
    argument_checks.choice("reduction", reduction, ("token", "sample"))
    argument_checks.choice("implementation", implementation, IMPLEMENTATIONS)
    argument_checks.choice("logits", logits, LOGITS)
    argument_checks.check_normalizer(normalizer, wait=check_finite)
    argument_checks.check_ignore_index(ignore_index)
    argument_checks.check_head("student_head", student_head, "student_hidden", student_hidden, None, vocab_size)
    argument_checks.check_rows("labels", labels, student_hidden)
    of_tokens = {"token_weights": token_weights, "kd_token_weights": kd_token_weights}
    for name, weights in of_tokens.items():
        argument_checks.check_row_weights(name, weights, student_hidden)
    argument_checks.check_alpha_of_row(alpha_of_row, objective, student_hidden)
    if reduction == "sample":
        argument_checks.check_rows("sample_of_row", sample_of_row, student_hidden)
    if objective.uses_teacher:
        teacher = (teacher_pos, teacher_neg, teacher_head)
        argument_checks.check_teacher(objective, *teacher, student_hidden, student_head, vocab_size)
    else:
        teacher_pos = teacher_neg = teacher_head = alpha_of_row = None
    of_rows = {"student_hidden": student_hidden, "teacher_pos": teacher_pos, "teacher_neg": teacher_neg}
    of_heads = {"student_head.weight": student_head.weight, "student_head.bias": student_head.bias}
    if teacher_head is not None:
        of_heads |= {"teacher_head.weight": teacher_head.weight, "teacher_head.bias": teacher_head.bias}
    argument_checks.check_precision(of_rows | of_heads)
    vocab = vocab_size or len(student_head.weight)
    valid = labels != ignore_index
    if check_finite:
        argument_checks.check_finite_values(of_rows | of_tokens, of_heads, valid)
    if check_finite or labels.device.type == "cpu":
        argument_checks.check_labels(labels, valid, vocab)
        argument_checks.check_alphas(alpha_of_row, valid)
    dtype = wide_dtype(student_hidden, student_head.weight)
    weight = row_shares(valid, sample_of_row if reduction == "sample" else None, normalizer, dtype)
    if token_weights is not None:
        weight = weight * factor(token_weights, valid, dtype)
    kd_share = weight if kd_token_weights is None else weight * factor(kd_token_weights, valid, dtype)
    negative = teacher_neg if objective.alpha > 0 else None
    if alpha_of_row is not None:
        alpha_of_row = _nan_where_refused(alpha_of_row.detach().to(dtype).masked_fill(~valid, 0))
    rows = Rows(student_hidden, teacher_pos, negative, labels, valid, weight, kd_share, alpha_of_row)
    teacher_head = None if teacher_head is None else teacher_head.first(vocab)
    arguments = (rows, student_head.first(vocab), teacher_head, objective)
    if implementation == "auto":
        implementation, _ = fastest(objective, student_hidden.device.type, dtype, *arguments[1:3])
    half = student_hidden.is_cuda and student_hidden.dtype == student_head.weight.dtype == torch.bfloat16
    expected = "float32 unless triton runs on CUDA with hidden states and head in bfloat16"
    argument_checks.require(logits == "float32" or (implementation == "triton" and half), "logits", logits, expected)
    if implementation == "reference":
        return reference_loss(*arguments)
    if implementation == "triton":
        return _triton_loss(*arguments, getattr(torch, logits))
    if implementation == "native":
        return _native_loss(*arguments)
    return chunked_loss(*arguments)


def _native_loss(rows: Rows, student_head: LMHead, teacher_head: LMHead | None, objective: Objective) -> LossOutput:
    device, wide = rows.student.device.type, wide_dtype(rows.student, student_head.weight)
    argument_checks.require(device == "cpu", "student_hidden.device", device, "cpu for native")
    argument_checks.require(wide == torch.float32, "student_hidden.dtype", wide, "float32 or bfloat16 for native")
    reason = kernel_lacks("native", objective, student_head, teacher_head) or c_kernel.unavailable()
    argument_checks.require(reason is None, "implementation", "native", f"another: {reason}")
    return chunked_loss(rows, student_head, teacher_head, objective, c_kernel.chunk_terms)


def _triton_loss(
    rows: Rows, student_head: LMHead, teacher_head: LMHead | None, objective: Objective, logits: torch.dtype
) -> LossOutput:
    reason = kernel_lacks("triton", objective)
    argument_checks.require(reason is None, "implementation", "triton", f"another: {reason}")
    try:
        # Not installed everywhere, and slow to import.
        from caad_ds.loss.triton_kernel import chunk_terms
    except ImportError as error:
        raise ValueError(f"implementation is 'triton', expected another: Triton is not installed ({error})") from None
    device, wide = rows.student.device.type, wide_dtype(rows.student, student_head.weight)
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    argument_checks.require(wide == torch.float32, "student_hidden.dtype", wide, "float32 or bfloat16 for triton")
    argument_checks.require(
        device == "cuda" or interpreted, "student_hidden.device", device, "cuda, or TRITON_INTERPRET=1"
    )
    return chunked_loss(rows, student_head, teacher_head, objective, partial(chunk_terms, logits_dtype=logits), logits)


def _nan_where_refused(alpha: Tensor) -> Tensor:
    """Replace alphas out of range by NaN: on a GPU they are not checked, since that would wait for it."""
    return alpha.where((alpha >= 0) & (alpha <= LARGEST), torch.nan)
