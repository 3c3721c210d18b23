"""Time and memory of the loss, forward and backward to the student's hidden states (frozen heads, the paper's setting).

    python benchmarks/loss.py [--only NAME ...] [--shapes NAME ...] [--rows N ...]

The floor is the three matrix products that every implementation needs (student logits, teacher logits, gradient), with
our chunks and preallocated buffers. It is timed for every row, in turns with it, since a device under load slows down.
Times are medians; on CUDA, of calls queued back to back, as in a training step, where the host is ahead of the device.
The alpha gate needs a fourth product, which the floor of its rows does not include. Peak extra memory is above the
inputs: allocated bytes on CUDA, resident bytes on Linux CPUs. Needs only PyTorch and `caad_ds.loss`; Triton, Liger and
TRL get rows if installed. Liger always computes the gradient of the student's head too, a fourth product. Both peers
get the contrast as one hidden state, which is our method, not theirs.
"""

import argparse
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import milliseconds, peak_mib
from caad_ds.loss import LMHead, contrast, contrastive_distillation_loss
from caad_ds.loss.chunked import chunk_rows


@dataclass(frozen=True)
class Shape:
    """Numbers of answer rows, hidden sizes of student and teacher, vocabulary."""

    name: str
    rows: int
    student: int
    teacher: int
    vocab: int
    dtype: torch.dtype = torch.float32

    def __str__(self):
        sizes = f"N {self.rows} Hs {self.student} Ht {self.teacher} V {self.vocab}"
        return f"{self.name} {str(self.dtype).removeprefix('torch.')} {sizes}"


CPU = [
    Shape("toy", 512, 96, 128, 512),
    Shape("SmolLM2-135M, scaled down", 256, 576, 576, 49152),
    Shape("Llama-3, scaled down", 4096, 512, 1024, 32000),
]
CUDA = [
    Shape("SmolLM2-135M", 4096, 576, 576, 49152, torch.bfloat16),
    Shape("Llama-3 3B from 8B", 1024, 3072, 4096, 128256, torch.bfloat16),
    Shape("Llama-3 3B from 8B", 8192, 3072, 4096, 128256, torch.bfloat16),
    Shape("Qwen2.5 1.5B from 7B", 4096, 1536, 3584, 151936, torch.bfloat16),
]
SHAPES = {"cpu": CPU, "cuda": CUDA}
ALPHA, TAU, SHARE = 1.0, 2.0, 0.7


class Case:
    """Random tensors of one shape, and the implementations to time on them."""

    def __init__(self, shape: Shape, device: str):
        generator = torch.Generator(device).manual_seed(0)

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(*size, generator=generator, device=device, dtype=shape.dtype)

        self.student = normal(shape.rows, shape.student).requires_grad_(True)
        self.positive, self.negative = normal(shape.rows, shape.teacher), normal(shape.rows, shape.teacher)
        self.student_head = LMHead(normal(shape.vocab, shape.student) / shape.student**0.5)
        self.teacher_head = LMHead(normal(shape.vocab, shape.teacher) / shape.teacher**0.5)
        self.labels = torch.randint(0, shape.vocab, (shape.rows,), generator=generator, device=device)

    def ours(self, **options: str) -> None:
        """Run our loss, forward and backward, with the paper's scalars."""
        teacher = (self.positive, self.negative, self.teacher_head)
        scalars = {"alpha": ALPHA, "temperature": TAU, "kd_weight": SHARE}
        arguments = (self.student, self.student_head, *teacher, self.labels)
        out = contrastive_distillation_loss(*arguments, **scalars, **options)
        torch.autograd.grad(out.loss, self.student)

    def compiled(self) -> None:
        """Run the dense equations under torch.compile."""
        heads = self.student_head.weight, self.teacher_head.weight
        loss = _compiled()(self.student, self.positive, self.negative, *heads, self.labels)
        torch.autograd.grad(loss, self.student)

    def liger(self) -> None:
        """Run Liger's fused linear JSD at beta 0, which is the forward KL."""
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        loss = LigerFusedLinearJSDLoss(
            weight_hard_loss=1 - SHARE, weight_soft_loss=SHARE * TAU**2, beta=0.0, temperature=TAU,
            compiled=self.student.is_cuda,
        )  # fmt: skip
        student = self.student_head.weight, self._contrasted(), self.teacher_head.weight
        torch.autograd.grad(loss(self.student, *student, self.labels), self.student)

    def trl(self) -> None:
        """Run TRL's generalized JSD at beta 0 over dense logits, and the cross-entropy."""
        from trl.experimental.gkd import GKDTrainer

        z_s = self.student @ self.student_head.weight.t()
        with torch.no_grad():
            z_c = self._contrasted() @ self.teacher_head.weight.t()
        kl = GKDTrainer.generalized_jsd_loss(z_s, z_c, beta=0.0, temperature=TAU)
        loss = SHARE * TAU**2 * kl + (1 - SHARE) * torch.nn.functional.cross_entropy(z_s, self.labels)
        torch.autograd.grad(loss, self.student)

    def _contrasted(self) -> torch.Tensor:
        return contrast(self.positive, self.negative, ALPHA).to(self.positive.dtype)

    @torch.no_grad()
    def products(self, logits: torch.dtype) -> Callable[[], None]:
        """Return a step that computes the three products in our chunks for `logits`, with preallocated buffers."""
        student, teacher = self.student_head.weight, self.teacher_head.weight
        rows = min(len(self.student), chunk_rows(student, logits))
        z = torch.empty(rows, len(student), dtype=student.dtype, device=student.device)
        gradient = torch.empty(rows, student.shape[1], dtype=student.dtype, device=student.device)

        def step() -> None:
            with torch.no_grad():
                for start in range(0, len(self.student), rows):
                    chunk = slice(start, start + rows)
                    count = len(self.student[chunk])
                    torch.mm(self.positive[chunk], teacher.t(), out=z[:count])
                    torch.mm(self.student[chunk], student.t(), out=z[:count])
                    torch.mm(z[:count], student, out=gradient[:count])

        return step


@cache
def _compiled() -> Callable[..., torch.Tensor]:
    def dense(
        student: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, student_head: torch.Tensor,
        teacher_head: torch.Tensor, labels: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        z_s = (student @ student_head.t()).float()
        z_c = (1 + ALPHA) * (positive @ teacher_head.t()).float() - ALPHA * (negative @ teacher_head.t()).float()
        log_q, log_p = torch.log_softmax(z_c / TAU, -1), torch.log_softmax(z_s / TAU, -1)
        kl = torch.nn.functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
        return SHARE * TAU**2 * kl + (1 - SHARE) * torch.nn.functional.cross_entropy(z_s, labels)

    return torch.compile(dense)


def implementations(device: str) -> dict[str, Callable[[Case], None]]:
    """Return the implementations that can run here, by their names in the table."""
    found: dict[str, Callable[[Case], None]] = {"chunked": partial(Case.ours, implementation="chunked")}
    if device == "cpu":
        found["native"] = partial(Case.ours, implementation="native")
        found["native, alpha gate"] = partial(Case.ours, implementation="native", alpha_gate="text_certainty")
    if device == "cuda" and find_spec("triton"):
        found["triton, fp32 logits"] = partial(Case.ours, implementation="triton")
        found["triton, bf16 logits"] = partial(Case.ours, implementation="triton", logits="bfloat16")
        gated = partial(Case.ours, implementation="triton", alpha_gate="text_certainty")
        found["triton, fp32 logits, alpha gate"] = gated
        found["triton, bf16 logits, alpha gate"] = partial(gated, logits="bfloat16")
    found |= {"dense": partial(Case.ours, implementation="reference"), "dense, torch.compile": Case.compiled}
    if find_spec("liger_kernel"):
        found["Liger fused linear JSD"] = Case.liger
    if find_spec("trl"):
        found["TRL generalized JSD, dense"] = Case.trl
    return found


def main() -> None:
    """Print the versions and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11, help="timed turns (default 11)")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    names = list(dict.fromkeys(name for device in devices for name in implementations(device)))
    shapes = list(dict.fromkeys(shape.name for device in devices for shape in SHAPES[device]))
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"rows whose name begins so, of: {', '.join(names)}")
    parser.add_argument("--shapes", nargs="+", metavar="NAME", help=f"the same of: {', '.join(shapes)}")
    rows = sorted({shape.rows for device in devices for shape in SHAPES[device]})
    parser.add_argument("--rows", nargs="+", type=int, choices=rows, default=rows, help="answer rows of the shapes")
    args = parser.parse_args()
    for option, given, known in (("--only", args.only, names), ("--shapes", args.shapes, shapes)):
        if given and not any(name.startswith(tuple(given)) for name in known):
            parser.error(f"{option} {' '.join(given)}: no name begins so; there are {', '.join(known)}")
    named, every = tuple(args.shapes or [""]), [(device, shape) for device in devices for shape in SHAPES[device]]
    chosen = [(device, shape) for device, shape in every if shape.name.startswith(named) and shape.rows in args.rows]
    if not chosen:
        parser.error(f"no shape named so has {' or '.join(map(str, args.rows))} answer rows")
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats}: give at least 1")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    packages = [name for name in ("triton", "liger_kernel", "trl") if find_spec(name)]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"torch {torch.__version__}, {versions}, Python {platform.python_version()}, {cpu}, {gpu}\n")
    print("| implementation | device | shape | ms fwd+bwd | products alone, ms | ratio | peak extra MiB |")
    print("|---|---|---|---|---|---|---|")
    for device, shape in chosen:
        case = Case(shape, device)
        for name, implementation in implementations(device).items():
            if name.startswith(tuple(args.only or [""])):
                floor = case.products(torch.bfloat16 if "bf16 logits" in name else torch.float32)
                print(row(name, partial(implementation, case), floor, device, shape, args.repeats), flush=True)


def row(name: str, step: Callable[[], None], floor: Callable[[], None], device: str, shape: Shape, repeats: int) -> str:
    """Format a line of the table, also for a step that runs out of memory."""
    try:
        (took, least), peak = milliseconds([step, floor], device, repeats), peak_mib(step, device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return f"| {name} | {device} | {shape} | out of memory | | | |"
    memory = "unknown" if peak is None else f"{peak:.0f}"
    return f"| {name} | {device} | {shape} | {took:.1f} | {least:.1f} | {took / least:.2f} | {memory} |"


if __name__ == "__main__":
    main()
