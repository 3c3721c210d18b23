"""Time and memory of the loss, forward and backward to the student's hidden states (frozen heads, the paper's setting).

    python benchmarks/loss.py

The floor is the three matrix products that no implementation can do without (student logits, teacher logits, the
gradient), timed in the same run on the same device over the same row chunks. Peak extra memory is above the inputs:
allocated bytes on CUDA, resident bytes on Linux CPUs. Needs PyTorch and `caad_ds.loss` alone.
"""

import argparse
import ctypes
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from caad_ds.loss import LMHead, contrastive_distillation_loss
from caad_ds.loss.head import matmul, wide_dtype

MIB = 2**20


@dataclass(frozen=True)
class Shape:
    """N answer rows, widths of student and teacher, vocabulary."""

    name: str
    rows: int
    student: int
    teacher: int
    vocab: int
    dtype: torch.dtype = torch.float32

    def __str__(self):
        sizes = f"N {self.rows} Hs {self.student} Ht {self.teacher} V {self.vocab}"
        return f"{self.name} {str(self.dtype).removeprefix('torch.')} {sizes}"


CPU = [Shape("toy", 512, 96, 128, 512), Shape("SmolLM2-135M", 256, 576, 576, 49152)]
CUDA = [Shape("Llama-3 3B from 8B", 1024, 3072, 4096, 128256, torch.bfloat16)]


class Case:
    """Random tensors of one shape, and the work to be timed on them."""

    def __init__(self, shape: Shape, device: str):
        generator = torch.Generator(device).manual_seed(0)

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(*size, generator=generator, device=device, dtype=shape.dtype)

        self.student = normal(shape.rows, shape.student).requires_grad_(True)
        self.positive, self.negative = normal(shape.rows, shape.teacher), normal(shape.rows, shape.teacher)
        self.student_head = LMHead(normal(shape.vocab, shape.student) / shape.student**0.5)
        self.teacher_head = LMHead(normal(shape.vocab, shape.teacher) / shape.teacher**0.5)
        self.labels = torch.randint(0, shape.vocab, (shape.rows,), generator=generator, device=device)

    def step(self, implementation: str) -> None:
        """Loss forward and backward with the paper's scalars."""
        teacher = (self.positive, self.negative, self.teacher_head)
        options = {"alpha": 1.0, "temperature": 2.0, "kd_weight": 0.7, "implementation": implementation}
        out = contrastive_distillation_loss(self.student, self.student_head, *teacher, self.labels, **options)
        torch.autograd.grad(out.loss, self.student)

    @torch.no_grad()
    def products(self, rows: int = 256) -> None:
        """The three products alone."""
        student, teacher = self.student_head.weight, self.teacher_head.weight
        wide = wide_dtype(student)
        for start in range(0, len(self.student), rows):
            chunk = slice(start, start + rows)
            z = matmul(self.student[chunk], student.t(), wide)
            matmul(self.positive[chunk], teacher.t(), wide)
            matmul(z.to(student.dtype), student, wide)


def milliseconds(work: Callable[[], None], device: str, repeats: int) -> float:
    """The median of some timed runs after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times[1:])[repeats // 2]


def synchronize(device: str) -> None:
    """Waits for the device's queue."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_mib(work: Callable[[], None], device: str) -> float | None:
    """Peak memory during the work above that before it; None where the platform does not tell."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    try:
        # What the allocator kept from earlier steps would hide what this one needs.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak of the resident set
        before = resident_kib("VmRSS")
        work()
        return max(0, resident_kib("VmHWM") - before) / 1024
    except (OSError, AttributeError):
        return None


def resident_kib(field: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    """Prints the versions and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {cpu}, {gpu}\n")
    print("| implementation | device | shape | ms fwd+bwd | ratio to the products | peak extra MiB |")
    print("|---|---|---|---|---|---|")
    cases = [("cpu", shape) for shape in CPU]
    if torch.cuda.is_available():
        cases += [("cuda", shape) for shape in CUDA]
    for device, shape in cases:
        case = Case(shape, device)
        floor = milliseconds(case.products, device, repeats)
        print(f"| products alone | {device} | {shape} | {floor:.1f} | 1.00 | |", flush=True)
        for implementation in ("chunked", "reference"):
            step = partial(case.step, implementation)
            took, peak = milliseconds(step, device, repeats), peak_mib(step, device)
            memory = "unknown" if peak is None else f"{peak:.0f}"
            row = [implementation, device, shape, f"{took:.1f}", f"{took / floor:.2f}", memory]
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
