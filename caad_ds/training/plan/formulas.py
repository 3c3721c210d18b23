"""Formulas of a plan for what shapes do not measure: bytes of states, loss and files; FLOPs of heads; hours.

Symbols: T trainable weights, S all weights of the student, R ranks, w bytes per weight (4 in fp32, 2 in bf16), N answer
rows, V tokens of the vocabulary, Hs and Ht the widths of student and teacher.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from caad_ds.config.deepspeed_settings import offloaded
from caad_ds.distill.teacher_cache.row_layout import CacheForm, Layout
from caad_ds.loss.chunked import rows_within_budget

FP32 = 4
ACCUMULATION = {"fp32": 4, "bf16": 2, "fp16": 2}
SUB_GROUP = 1_000_000_000  # DeepSpeed's default of sub_group_size: weights per optimizer step of ZeRO-3


@dataclass(frozen=True)
class States:
    """Bytes of the student's engine per rank; `step` is the temporary memory of the optimizer's step."""

    weights: int
    gradients: int
    optimizer: int
    step: int
    host: int


def student_states(
    total: int, trained: int, width: int, settings: Mapping[str, Any], ranks: int, on_cpu: bool = False
) -> States:
    """Compute what DeepSpeed holds for S and T, by the stage in its file.

    Weights: w S, under stage 3 divided by R, where offload_param moves them to the host (cpu; nvme has buffers there);
    with several ranks or offloaded also up to stage3_max_live_parameters gathered at a time.
    Gradients: stage 0 w T; stages 1 to 3 a T / R of the accumulation's dtype (a bytes, data_types.grad_accum_dtype) and
    a bucket of reduce_bucket_size weights, two of them with overlap_comm in stages 1 and 2; stage 1 w T on top.
    Optimizer: the fp32 master and AdamW's two moments, 12 T / R; in fp32 at stage 0 the weights are their own master.
    Step: gradients as one fp32 tensor, which ZeRO flattens (4 T / R), and AdamW's square root and its quotient
    (8 T / R), of at most sub_group_size weights under stage 3.
    An offloaded optimizer has all of that, except the bucket, in host memory. On a CPU, pages of a bucket that are
    never written take no memory, so it counts as T at most.
    """
    zero = settings.get("zero_optimization", {})
    stage, share = zero.get("stage", 0), -(-trained // ranks)
    weights, host = total * width, 0
    if stage == 3:
        weights = weights // ranks
        away = None if on_cpu else offloaded(zero, "param")
        if away is not None:
            host, weights = (weights if away == "cpu" else _buffers(zero["offload_param"]) * width), 0
        if ranks > 1 or away is not None:
            weights += min(total, int(zero.get("stage3_max_live_parameters", SUB_GROUP))) * width
    at_once = min(share, int(zero.get("sub_group_size", SUB_GROUP))) if stage == 3 else share
    if stage == 0:
        master = 0 if width == FP32 else FP32 * trained
        return States(weights, width * trained + master, 2 * FP32 * trained + master, 2 * FP32 * trained, 0)
    bucket = int(zero.get("reduce_bucket_size", 500_000_000))
    bucket *= 2 if zero.get("overlap_comm") and stage < 3 else 1
    bucket = (min(bucket, trained) if on_cpu else bucket) * width
    kept = ACCUMULATION.get(str(settings.get("data_types", {}).get("grad_accum_dtype")), width) * share
    whole = width * trained if stage == 1 else 0
    optimizer, step = 3 * FP32 * share, 3 * FP32 * at_once
    if offloaded(zero, "optimizer") is not None:
        return States(weights, whole + bucket, 0, 0, host + kept + optimizer + step)
    return States(weights, whole + bucket + kept, optimizer, step, host)


def _buffers(offload: Mapping[str, Any]) -> int:
    """Count the weights in the host's buffers for weights on NVMe, by DeepSpeed's defaults."""
    return int(offload.get("buffer_count", 5)) * int(offload.get("buffer_size", 100_000_000))


def gathered(largest: int, width: int, settings: Mapping[str, Any]) -> int:
    """Return the bytes of a partitioned teacher gathered at a time: its largest layer, and what is prefetched."""
    ahead = settings.get("zero_optimization", {}).get("stage3_prefetch_bucket_size", 50_000_000)
    return (largest + int(ahead)) * width


@dataclass(frozen=True)
class Heads:
    """Shapes of the loss: N rows, V shared tokens, widths, products of the teacher's head, what trains.

    `products` is 0 without a teacher, 1 where the contrast is formed in hidden space (method.md, identity 1), else 2.
    `passing` counts those of a gate and of row weights, whose logits are freed before the loss needs memory.
    """

    rows: int
    vocabulary: int
    student_width: int
    teacher_width: int
    products: int
    trains: bool
    passing: int = 0


def head_flops(heads: Heads) -> int:
    """Return 2 N V (Hs (2 + 1 if the head trains) + Ht (products + passing)).

    These are the logits, and the gradients of states and of the head's weight.
    """
    student = heads.student_width * (3 if heads.trains else 2)
    return 2 * heads.rows * heads.vocabulary * student + (heads.products + heads.passing) * teacher_product(heads)


def teacher_product(heads: Heads) -> int:
    """Return 2 N V Ht: one product of the teacher's head."""
    return 2 * heads.rows * heads.vocabulary * heads.teacher_width


def authors_head_flops(heads: Heads, positions: int) -> int:
    """Return the same for all positions, the teacher's on both paths: 2 B S V (Hs (2 or 3) + 2 Ht)."""
    student = heads.student_width * (3 if heads.trains else 2)
    return 2 * positions * heads.vocabulary * (student + 2 * heads.teacher_width)


def loss_bytes(heads: Heads, width: int, logits: int, device: str) -> tuple[int, int]:
    """Return (bytes of the loss while it runs, bytes that it keeps for the backward).

    A chunk of c rows within the budget of the device (chunked.py) has logits of student and target, and z_pos if the
    teacher's head makes two products: c V of `logits` bytes each. The gradient overwrites the student's logits, or on
    CUDA goes to c V of the weights' bytes if that is another dtype. A CPU multiplies bf16 in fp32, so both heads are
    copied: 4 V (Hs + Ht). The gradient of a trainable head is summed in fp32 beside a chunk's product (8 V Hs), and
    returned in its own dtype, scaled once (2 w V Hs). The gradient of the states is w N Hs.
    """
    chunk = min(heads.rows, rows_within_budget(device, heads.vocabulary, logits)) * heads.vocabulary
    kinds = 1 + heads.products
    running = chunk * kinds * logits
    if device != "cpu" and logits != width:
        running += chunk * width
    if device == "cpu" and width != FP32:
        running += FP32 * heads.vocabulary * (heads.student_width + (heads.teacher_width if heads.products else 0))
    table = heads.vocabulary * heads.student_width if heads.trains else 0
    states = width * heads.rows * heads.student_width
    return running + 2 * FP32 * table + states, 2 * width * table + states


def scalar_bytes(heads: Heads, paths: int, width: int, device: str) -> int:
    """Return the bytes of the teacher's scalars (teacher_scalars.py) while a chunk of c rows is computed.

    4 c V for the logits of each path; on a GPU also for log p and p of each path, and for the mean of two. A CPU makes
    those in tiles, and multiplies bf16 in fp32, with a copy of the head (4 V Ht).
    """
    chunk = min(heads.rows, rows_within_budget(device, heads.vocabulary, FP32)) * heads.vocabulary * FP32
    if device == "cpu":
        return paths * chunk + (FP32 * heads.vocabulary * heads.teacher_width if width != FP32 else 0)
    return (3 * paths + (paths > 1)) * chunk


def checkpoint_bytes(trained: int, width: int, settings: Mapping[str, Any]) -> int:
    """Return the bytes of a checkpoint: the gathered trainable weights (w T), DeepSpeed's master and moments (12 T).

    Below stage 3 DeepSpeed writes the trainable weights once more (w T); stage 0 in fp32 has no master.
    """
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    master = 0 if stage == 0 and width == FP32 else FP32
    return trained * (width + 2 * FP32 + master + (width if stage < 3 else 0))


def cache_bytes(rows: int, teacher_width: int, width: int, form: CacheForm) -> int:
    """Return the bytes of a teacher cache: per row Ht values of w bytes, twice for `pair`, and 20 bytes of scalars."""
    return rows * Layout(form, teacher_width, "fp32" if width == FP32 else "bf16").bytes_per_row


def seconds(flops: Mapping[str, float], peaks: Mapping[str, float], shares: Mapping[str, float], ranks: int) -> float:
    """Return the seconds of a step: the sum over parts of FLOPs / (R x peak in TFLOP/s x achieved share of it)."""
    return sum(value / (ranks * peaks[part] * 1e12 * shares[part]) for part, value in flops.items())


@dataclass(frozen=True)
class Phases:
    """Peak bytes in each part of a step, beyond what is held throughout."""

    encoder: int
    teacher: int
    loss: int
    backward: int
    optimizer: int
    validation: int

    @property
    def most(self) -> str:
        """The name of the largest part."""
        return max((field.name for field in fields(self)), key=lambda name: getattr(self, name))

    @property
    def peak(self) -> int:
        """The bytes of the largest part."""
        return int(getattr(self, self.most))
