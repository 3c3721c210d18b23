"""What a stage may need: each asks a machine and names what is missing there."""

from benchmarks.gpu.machine import Machine, nvme_operator
from benchmarks.gpu.stage import Need


def package(name: str, why: str = "") -> Need:
    """A Python package; `why` says what is left out without it."""
    return lambda machine: None if machine.packages.get(name) else f"{name} is not installed{why}"


def gpu_memory(gb: float) -> Need:
    """That much free memory on the GPU."""

    def missing(machine: Machine) -> str | None:
        return None if machine.gpu_gb >= gb else f"needs {gb:g} GB of GPU memory, {machine.gpu_gb:.1f} GB are free"

    return missing


def host_memory(gb: float) -> Need:
    """That much free memory of the host."""

    def missing(machine: Machine) -> str | None:
        return None if machine.host_gb >= gb else f"needs {gb:g} GB of memory, {machine.host_gb:.1f} GB are free"

    return missing


def disk(gb: float) -> Need:
    """That much room where temporary files go."""

    def missing(machine: Machine) -> str | None:
        return None if machine.disk_gb >= gb else f"needs {gb:g} GB at $TMPDIR, {machine.disk_gb:.1f} GB are free"

    return missing


def nvcc(machine: Machine) -> str | None:
    """CUDA's compiler."""
    return None if machine.nvcc else "nvcc is not here, which DeepSpeed's NVMe operator is compiled with"


def libaio(environment: dict[str, str]) -> Need:
    """What DeepSpeed's NVMe operator is compiled with."""
    missing = "DeepSpeed's NVMe operator cannot be compiled here; install libaio (Debian: libaio-dev)"
    return lambda machine: None if nvme_operator(environment) else missing
