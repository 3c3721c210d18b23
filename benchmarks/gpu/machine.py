"""The machine that benchmarks/gpu.sh runs on, probed in separate processes so that its GPU memory stays free."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from caad_ds.tracking.origin import installed_version
from caad_ds.utils.errors import UserError
from caad_ds.utils.text import read_text

ROOT = Path(__file__).resolve().parents[2]
PROBE_SECONDS = 60  # a new machine reads PyTorch from a cold disk
PACKAGES = (
    "torch", "triton", "deepspeed", "transformers", "peft", "mlflow", "liger-kernel", "trl", "pytest", "hypothesis",
)  # fmt: skip
PROBE = """
import json, torch
from torch.utils.cpp_extension import CUDA_HOME
found = {"nvcc": CUDA_HOME is not None, "cuda": torch.version.cuda}
if torch.cuda.is_available():
    found |= {"device": torch.cuda.get_device_name(), "gpu_gb": torch.cuda.mem_get_info()[0] / 1e9}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Machine:
    """GPU (None without one), versions by package (None if not installed), free memory and disk in GB."""

    device: str | None
    gpu_gb: float
    cuda: str | None
    nvcc: bool
    driver: str | None
    packages: dict[str, str | None]
    host_gb: float
    disk_gb: float

    @staticmethod
    def here(environment: dict[str, str]) -> "Machine":
        """Probe this machine, with the GPU that the stages' environment shows; UserError if PyTorch fails."""
        found = {"nvcc": False, "cuda": None, "device": None, "gpu_gb": 0.0} | json.loads(_run(PROBE, environment))
        return Machine(
            **found,
            driver=_driver(),
            packages={name: installed_version(name) for name in PACKAGES},
            host_gb=_host_gb(),
            disk_gb=shutil.disk_usage(tempfile.gettempdir()).free / 1e9,
        )

    def rows(self) -> list[tuple[str, str]]:
        """Return the rows of a page that describe the machine."""
        memory = f"{self.host_gb:.0f} GB of memory free, {self.disk_gb:.0f} GB of disk"
        software = [f"Python {platform.python_version()}"]
        software += [f"{name} {number}" for name, number in self.packages.items() if number]
        return [
            ("device", f"{self.device}, {self.gpu_gb:.1f} GB free" if self.device else "no GPU: a CPU"),
            ("driver", f"{self.driver or 'unknown'}, CUDA {self.cuda}" if self.device else "none"),
            ("host", f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory}"),
            ("versions", ", ".join(software)),
        ]


def commit() -> str:
    """Return the commit of this checkout, and whether files differ from it."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = len(_git("status", "--porcelain").splitlines())
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout here; --commit names it)"
    return f"{head}, {f'{changed} files changed or not tracked' if changed else 'nothing changed'}"


def nvme_operator(environment: dict[str, str]) -> bool:
    """Return whether DeepSpeed can compile its NVMe operator here."""
    probe = "from deepspeed.ops.op_builder import AsyncIOBuilder\nprint(AsyncIOBuilder().is_compatible(verbose=False))"
    with suppress(UserError):  # it must not stop the other stages
        return _run(probe, environment) == "True"
    return False


def _run(program: str, environment: dict[str, str]) -> str:
    """Run a Python program; returns its last line. UserError if it fails or prints nothing within PROBE_SECONDS."""
    try:
        process = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=PROBE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UserError(f"this Python cannot be asked about its GPU (no answer in {PROBE_SECONDS} s)") from error
    lines = (process.stdout if process.returncode == 0 else process.stderr).strip().splitlines()
    if process.returncode or not lines:
        raise UserError(f"this Python cannot be asked about its GPU ({lines[-1] if lines else 'no output'})")
    return lines[-1]


def _driver() -> str | None:
    try:
        process = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=PROBE_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(process.stdout.split()), None)


def _host_gb() -> float:
    lines = read_text(Path("/proc/meminfo")).splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024 / 1e9


def _git(*arguments: str) -> str:
    process = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return process.stdout.strip()
