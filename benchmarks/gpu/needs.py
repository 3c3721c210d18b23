"""Requirements of stages: each checks a machine and describes what is missing."""

from benchmarks.gpu.machine import Machine, nvme_operator
from benchmarks.gpu.stage import Need


def package(name: str, why: str = "") -> Need:
    """Require a Python package; `why` says what is left out without it."""
    return lambda machine: None if machine.packages.get(name) else f"{name} is not installed{why}"


def gpu_memory(gb: float) -> Need:
    """Require free GPU memory."""

    def missing(machine: Machine) -> str | None:
        return None if machine.gpu_gb >= gb else f"needs {gb:g} GB of GPU memory, {machine.gpu_gb:.1f} GB are free"

    return missing


def host_memory(gb: float) -> Need:
    """Require free host memory."""

    def missing(machine: Machine) -> str | None:
        return None if machine.host_gb >= gb else f"needs {gb:g} GB of memory, {machine.host_gb:.1f} GB are free"

    return missing


def disk(gb: float) -> Need:
    """Require free space in the folder for temporary files."""

    def missing(machine: Machine) -> str | None:
        return None if machine.disk_gb >= gb else f"needs {gb:g} GB at $TMPDIR, {machine.disk_gb:.1f} GB are free"

    return missing


def nvcc(machine: Machine) -> str | None:
    """CUDA's compiler."""
    return None if machine.nvcc else "nvcc is not here, which DeepSpeed's NVMe operator is compiled with"


def libaio(environment: dict[str, str]) -> Need:
    """Require libaio, which DeepSpeed's NVMe operator is compiled with."""
    missing = "DeepSpeed's NVMe operator cannot be compiled here; install libaio (Debian: libaio-dev)"
    return lambda machine: None if nvme_operator(environment) else missing
