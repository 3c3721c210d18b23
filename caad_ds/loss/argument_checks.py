"""Validate arguments of the loss before anything is computed; errors name the argument."""

from numbers import Integral, Real

import torch
from torch import Tensor

from caad_ds.loss.head import LMHead
from caad_ds.loss.objective import LARGEST, Objective

# No float16: gradients divided by a token count underflow in it.
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def require(holds: bool, name: str, value: object, expected: str) -> None:
    """Raise ValueError "NAME is VALUE, expected EXPECTED" unless it holds."""
    if not holds:
        raise ValueError(f"{name} is {value}, expected {expected}")


def choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not allowed."""
    require(value in allowed, name, repr(value), "one of " + ", ".join(allowed))


def check_normalizer(normalizer: float | Tensor | None, wait: bool) -> None:
    """Require a positive number or scalar tensor; a value on a device is read only with `wait`."""
    if isinstance(normalizer, Tensor):
        require(normalizer.numel() == 1, "normalizer.shape", tuple(normalizer.shape), "one value")
        if normalizer.device.type != "cpu" and not wait:
            return
    elif normalizer is not None:
        require(isinstance(normalizer, Real), "normalizer", repr(normalizer), "a number, a tensor of one value or None")
    if normalizer is not None:
        require(0 < float(normalizer) < float("inf"), "normalizer", float(normalizer), "a finite number > 0")


def check_ignore_index(ignore_index: int) -> None:
    """Require an integer."""
    require(isinstance(ignore_index, Integral), "ignore_index", repr(ignore_index), "a whole number")


def check_head(name: str, head: LMHead, hidden_name: str, hidden: Tensor, rows: int | None, vocab: int | None) -> None:
    """Check a head and its hidden states [N, H]: types, shapes, dtypes, large enough vocabulary."""
    require(isinstance(hidden, Tensor), hidden_name, type(hidden).__name__, "a tensor [N, H]")
    require(isinstance(head, LMHead), name, type(head).__name__, "an LMHead: LMHead(layer.weight, layer.bias)")
    expected = "[N, H]" if rows is None else f"[N, H] with N = {rows}"
    fits = hidden.dim() == 2 and rows in (None, len(hidden))
    require(fits, f"{hidden_name}.shape", tuple(hidden.shape), expected)
    require(isinstance(head.weight, Tensor), f"{name}.weight", type(head.weight).__name__, "a tensor [V, H]")
    shape, width = tuple(head.weight.shape), hidden.shape[1]
    expected = f"[V, {width}], V > 0, for {hidden_name} (under ZeRO-3 the weight must be gathered)"
    require(len(shape) == 2 and shape[0] > 0 and shape[1] == width, f"{name}.weight.shape", shape, expected)
    if head.bias is not None:
        require(isinstance(head.bias, Tensor), f"{name}.bias", type(head.bias).__name__, f"a tensor [{shape[0]}]")
        require(tuple(head.bias.shape) == shape[:1], f"{name}.bias.shape", tuple(head.bias.shape), f"[{shape[0]}]")
    positive = isinstance(head.softcap, Real) and 0 < head.softcap < float("inf")
    require(head.softcap is None or positive, f"{name}.softcap", repr(head.softcap), "None or a finite number > 0")
    scaled = isinstance(head.scale, Real) and 0 < head.scale < float("inf")
    require(scaled, f"{name}.scale", repr(head.scale), "a finite number > 0")
    if vocab is not None:
        whole = isinstance(vocab, int) and 0 < vocab <= shape[0]
        require(whole, "vocab_size", vocab, f"a whole number between 1 and the {shape[0]} rows of {name}.weight")
    for tensor_name, tensor in {hidden_name: hidden, f"{name}.weight": head.weight, f"{name}.bias": head.bias}.items():
        if tensor is not None:
            check_kind(tensor_name, tensor, hidden.device)


def check_kind(name: str, tensor: Tensor, device: torch.device) -> None:
    """Require a floating-point tensor of a supported dtype, on the device of the others."""
    expected = "float32, bfloat16 or float64 (gradients over a token count underflow in float16)"
    require(tensor.dtype in DTYPES, f"{name}.dtype", tensor.dtype, expected)
    require(tensor.device == device, f"{name}.device", tensor.device, f"{device} as the other arguments")


def check_precision(named: dict[str, Tensor | None]) -> None:
    """Require float64 in all tensors or in none, as in the first."""
    (first, leader), *others = named.items()
    assert leader is not None
    for name, tensor in others:
        if tensor is not None:
            alike = (tensor.dtype == torch.float64) == (leader.dtype == torch.float64)
            require(alike, f"{name}.dtype", tensor.dtype, f"float64 where {first} is, and nowhere else")


def check_teacher(
    objective: Objective,
    positive: Tensor | None,
    negative: Tensor | None,
    head: LMHead | None,
    student_hidden: Tensor,
    student_head: LMHead,
    vocab: int | None,
) -> None:
    """Check that the teacher's arguments fit the objective and the student's vocabulary."""
    wanted = f"since kd_weight is {objective.kd_weight}"
    if positive is None:
        raise ValueError(f"teacher_pos is None, expected hidden states [N, Ht] {wanted}")
    if head is None:
        raise ValueError(f"teacher_head is None, expected an LMHead {wanted}")
    check_head("teacher_head", head, "teacher_pos", positive, len(student_hidden), vocab)
    check_kind("teacher_pos", positive, student_hidden.device)
    if negative is None:
        expected = (
            f"hidden states as teacher_pos, since alpha is {objective.alpha} (0 is standard KD, without contrast)"
        )
        require(objective.alpha == 0, "teacher_neg", None, expected)
    else:
        require(isinstance(negative, Tensor), "teacher_neg", type(negative).__name__, "a tensor [N, Ht] as teacher_pos")
        shape = tuple(positive.shape)
        require(negative.shape == positive.shape, "teacher_neg.shape", tuple(negative.shape), f"{shape} as teacher_pos")
        require(objective.sharpen == 0, "sharpen", objective.sharpen, "0 with teacher_neg (it stands for KD without)")
        check_kind("teacher_neg", negative, student_hidden.device)
    sizes = len(student_head.weight), len(head.weight)
    expected = f"the size of the shared vocabulary, the heads having {sizes[0]} (student) and {sizes[1]} (teacher)"
    require(vocab is not None or sizes[0] == sizes[1], "vocab_size", None, expected)


def check_rows(name: str, index: Tensor | None, hidden: Tensor, hidden_name: str = "student_hidden") -> None:
    """Require an int64 index with one entry per row of hidden states."""
    require(isinstance(index, Tensor), name, type(index).__name__, "int64 [N]")
    assert index is not None
    require(index.dtype == torch.int64, f"{name}.dtype", index.dtype, "int64 (.long())")
    expected = f"[N] as {hidden_name} of shape {tuple(hidden.shape)}"
    require(index.shape == hidden.shape[:1], f"{name}.shape", tuple(index.shape), expected)
    require(index.device == hidden.device, f"{name}.device", index.device, f"{hidden.device} as {hidden_name}")


def check_row_weights(name: str, weights: Tensor | None, hidden: Tensor) -> None:
    """Require a factor per row, or None."""
    if weights is not None:
        require(isinstance(weights, Tensor), name, type(weights).__name__, "a tensor [N]")
        expected = f"[N] as student_hidden of shape {tuple(hidden.shape)}"
        require(weights.shape == hidden.shape[:1], f"{name}.shape", tuple(weights.shape), expected)
        check_kind(name, weights, hidden.device)


def check_alpha_of_row(alpha: Tensor | None, objective: Objective, hidden: Tensor) -> None:
    """Require an alpha per row, or None; a gate would compute another."""
    if alpha is not None:
        expected = f"one number, or [N] as student_hidden of shape {tuple(hidden.shape)}"
        require(alpha.shape == hidden.shape[:1], "alpha.shape", tuple(alpha.shape), expected)
        check_kind("alpha", alpha, hidden.device)
        require(not objective.gated, "alpha_gate", objective.alpha_gate, "none with a tensor alpha")


def check_alphas(alpha: Tensor | None, valid: Tensor) -> None:
    """Check the range of valid rows' alphas; waits for the device. NaN passes, and makes the loss NaN."""
    if alpha is not None:
        bad = (valid & ((alpha < 0) | (alpha > LARGEST))).nonzero()
        if len(bad):
            row = int(bad[0, 0])
            require(False, "alpha", f"{alpha[row].item()} in row {row}", f"numbers in [0, {LARGEST:g}]")


def check_labels(labels: Tensor, valid: Tensor, vocab: int) -> None:
    """Check that valid rows' labels are inside the vocabulary; waits for the device."""
    outside = labels[valid & ((labels < 0) | (labels >= vocab))]
    if len(outside):
        raise ValueError(f"labels holds {int(outside[0])}, expected 0 to {vocab - 1} or ignore_index")


def check_finite_values(of_rows: dict[str, Tensor | None], of_heads: dict[str, Tensor | None], valid: Tensor) -> None:
    """Refuse NaN and infinity in valid rows, by the tensor's name; waits for the device."""
    for name, tensor in (of_rows | of_heads).items():
        if tensor is not None:
            infinite = ~torch.isfinite(tensor)
            if name in of_rows:
                infinite[~valid] = False
            bad = infinite.nonzero()
            if len(bad):
                count = f"not finite in {len(bad)} of {tensor.numel()} values, first in row {int(bad[0, 0])}"
                require(False, name, count, "finite values")
