"""The arithmetic of a chunk of logits on a CPU, in C (`c_kernel.c`), for the paper's setting.

It is compiled for this machine when first used, which takes tenths of a second and needs no cache.
"""

import ctypes
import os
import platform
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from caad_ds.loss.chunked import Target
from caad_ds.loss.head import LMHead, LogitsMemory
from caad_ds.loss.objective import Objective, Rows, alpha_terms, computed

SOURCE = Path(__file__).with_name("c_kernel.c")
FLAGS = (
    *("-O3", "-march=native", "-funroll-loops", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"),
    *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []),
    *("-shared", "-fPIC"),
)
TERMS = ("kd", "ce", "rows", "token_accuracy", "agreement", "student_entropy", "teacher_entropy")
COMPILE_SECONDS = 60
SMALL = 2**16  # logits that take less time than waking another thread


def chunk_terms(
    chunk: Rows,
    student: LMHead,
    teacher: LMHead | None,
    objective: Objective,
    with_gradient: bool,
    memory: LogitsMemory,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Compute terms and diagnostics per row, [m] in float32, and dL/dz [m, V], written over the student's logits."""
    z_s, z_t = memory.logits("student", student, chunk.student), None
    if teacher is not None and chunk.positive is not None:
        target = Target.of(chunk, teacher, objective, memory)
        z_t, chunk = target.logits, replace(chunk, alpha=target.alpha)
    count, vocab = z_s.shape
    values = torch.empty(len(TERMS), count, dtype=torch.float32, device=z_s.device)
    of_rows = [x.contiguous() for x in (chunk.labels, chunk.valid, chunk.weight, chunk.kd_share)]

    def work(start: int, end: int) -> None:
        pointers = [None if x is None else x[start:].data_ptr() for x in (z_s, z_t, *of_rows)]
        address = values.data_ptr() + start * values.element_size()
        scalars = (objective.temperature, 1 + objective.sharpen, objective.kd_weight, with_gradient)
        library().caad_rows(end - start, vocab, count, *pointers, address, *scalars)

    threads = 1 if z_s.numel() <= SMALL else min(torch.get_num_threads(), count)
    bounds = [count * part // threads for part in range(threads + 1)]
    if threads == 1:
        work(0, count)
    else:
        list(_pool(threads).map(work, bounds[:-1], bounds[1:]))
    terms = dict(zip(TERMS, values, strict=True))
    terms = computed(terms, objective, distilled=z_t is not None, z_pos=False) | alpha_terms(chunk)
    return terms, z_s if with_gradient else None


@cache
def library() -> ctypes.CDLL:
    """Compile and load `c_kernel.c`.

    Raises:
        OSError: there is no C compiler ($CC, or `cc`), or it fails.
    """
    with TemporaryDirectory(prefix="caad-ds-") as folder:
        target = Path(folder) / "rows.so"
        compiler = shlex.split(os.environ.get("CC") or "cc")
        command = [*compiler, *FLAGS, str(SOURCE), "-o", str(target), "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=COMPILE_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise OSError(f"{compiler[0]} took over {COMPILE_SECONDS} s for {SOURCE.name}") from None
        if done.returncode:
            output = done.stderr.decode(errors="replace").strip()[-300:]
            raise OSError(f"{compiler[0]} could not compile {SOURCE.name}: {output}")
        loaded = ctypes.CDLL(str(target))
    size, pointer, number = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
    loaded.caad_rows.argtypes = [size] * 3 + [pointer] * 7 + [number] * 3 + [ctypes.c_int32]
    loaded.caad_rows.restype = None
    return loaded


@cache
def unavailable() -> str | None:
    """Return why `c_kernel.c` cannot be used on this machine, or None."""
    try:
        library()
    except OSError as error:
        return str(error)
    return None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    # Not OpenMP: a second runtime beside PyTorch's would keep its own threads spinning.
    return ThreadPoolExecutor(threads, thread_name_prefix="caad-rows")
