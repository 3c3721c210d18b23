"""The machine that a run of benchmarks/gpu.sh is about; asked in processes of their own, which leave its GPU empty."""

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
    """GPU (None without one), versions by package (None where it is not installed), free memory and disk in GB."""

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
        """This machine, its GPU as the stages' environment shows it; UserError if PyTorch cannot be asked."""
        found = {"nvcc": False, "cuda": None, "device": None, "gpu_gb": 0.0} | json.loads(_ask(PROBE, environment))
        return Machine(
            **found,
            driver=_driver(),
            packages={name: installed_version(name) for name in PACKAGES},
            host_gb=_host_gb(),
            disk_gb=shutil.disk_usage(tempfile.gettempdir()).free / 1e9,
        )

    def rows(self) -> list[tuple[str, str]]:
        """What a page says of it."""
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
    """The commit of this checkout, and whether files differ from it."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = len(_git("status", "--porcelain").splitlines())
    except (OSError, subprocess.CalledProcessError):
        return "unknown (no git checkout here; --commit names it)"
    return f"{head}, {f'{changed} files changed or not tracked' if changed else 'nothing changed'}"


def nvme_operator(environment: dict[str, str]) -> bool:
    """Whether DeepSpeed can compile its operator for NVMe here."""
    ask = "from deepspeed.ops.op_builder import AsyncIOBuilder\nprint(AsyncIOBuilder().is_compatible(verbose=False))"
    with suppress(UserError):  # which would end the stages after this one as well
        return _ask(ask, environment) == "True"
    return False


def _ask(program: str, environment: dict[str, str]) -> str:
    """The last line that a program prints; UserError if it fails, or prints none in PROBE_SECONDS."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", program], env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=PROBE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UserError(f"this Python cannot be asked about its GPU (no answer in {PROBE_SECONDS} s)") from error
    lines = (asked.stdout if asked.returncode == 0 else asked.stderr).strip().splitlines()
    if asked.returncode or not lines:
        raise UserError(f"this Python cannot be asked about its GPU ({lines[-1] if lines else 'no output'})")
    return lines[-1]


def _driver() -> str | None:
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=PROBE_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(asked.stdout.split()), None)


def _host_gb() -> float:
    lines = read_text(Path("/proc/meminfo")).splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024 / 1e9


def _git(*arguments: str) -> str:
    asked = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return asked.stdout.strip()
