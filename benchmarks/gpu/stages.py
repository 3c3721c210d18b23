"""The stages of benchmarks/gpu.sh, most important first, and their environment."""

import os
import sys
from pathlib import Path

from benchmarks.gpu.needs import disk, gpu_memory, host_memory, libaio, nvcc, package
from benchmarks.gpu.stage import Need, Stage

MOST_SECONDS = 660
FOR_THE_REST = 30  # probing the machine, which loads PyTorch for the first time, and writing pages
TINY_SECONDS = 240
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PEERS = {"liger-kernel": "Liger", "trl": "TRL"}


def environment(tiny: bool) -> dict[str, str]:
    """Return the environment of every stage: the chosen accelerator, no launcher's ranks, no network."""
    found = {name: value for name, value in os.environ.items() if name not in (*LAUNCHER, "TRITON_INTERPRET")}
    found |= {
        "DS_ACCELERATOR": "cpu" if tiny else "cuda",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore::FutureWarning",  # DeepSpeed uses names that PyTorch deprecates
        # Ninja is beside the interpreter, also if the virtual environment is not activated.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    if tiny:
        found |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return found


def stages(tiny: bool, shared: dict[str, str]) -> list[Stage]:
    """Return all stages, at the paper's shapes within MOST_SECONDS, or `tiny`; `shared` is their environment."""
    engine = package("deepspeed")
    peers = tuple(package(name, f": no row of {row}, no comparison with it") for name, row in PEERS.items())
    triton = package("triton", ": no row of its kernels, no test of them")
    step = ("benchmarks/step.py", "--scale", "tiny" if tiny else "paper", "--repeats", "1" if tiny else "3")
    engines = (*step, "--only", "engines", "--placement")
    small = ("--tiny",) if tiny else ()

    def stage(name: str, title: str, seconds: float, argv: tuple[str, ...], *needs: Need, parts: tuple = ()) -> Stage:
        return Stage(name, title, argv, TINY_SECONDS if tiny else seconds, needs, parts)

    def large(*needs: Need) -> tuple[Need, ...]:
        return () if tiny else needs

    tested = ("tests/loss/test_loss_contract.py",) if tiny else ("tests/loss", "-m", "not pretrained")
    compared = ("toy",) if tiny else ("Llama-3 3B from 8B", "--rows", "8192")
    return [
        stage(
            "tests", "The loss's tests, natively", 80,
            ("-m", "pytest", *tested, "-vv", "-rfEs", "-p", "no:cacheprovider"),
            package("pytest"), package("hypothesis"), parts=(*peers, triton),
        ),
        stage(
            "step", "A training step: the authors' graph, ours, ours with a cache, all in engines", 100,
            (*step, "--placement", "replicated", "resident", "cpu"), engine,
            *large(gpu_memory(48), host_memory(40), disk(2)),
        ),
        stage(
            "on_policy", "The step in engines with on-policy 0.5: what drawing takes of its time and tokens", 45,
            ("benchmarks/rollouts.py", "--scale", "tiny" if tiny else "paper", "--shares", "0.5", "--zero", "2",
             "--train", "connector", "--repeats", "1" if tiny else "3"),
            engine, *large(gpu_memory(48), host_memory(40)),
        ),
        stage(
            "cap", "The engines in 24 GB", 40,
            (*engines, "cpu", *(() if tiny else ("--cap-gb", "24"))), engine, *large(gpu_memory(24), host_memory(40)),
        ),
        stage(
            "loss", "The loss beside its peers", 40,
            ("benchmarks/loss.py", "--repeats", "1" if tiny else "5", "--shapes", *compared, "--only", "Liger",
             "TRL", *(("chunked",) if tiny else ("triton", "dense, torch"))),
            *large(gpu_memory(24)), parts=(*peers, *large(triton)),
        ),
        stage(
            "paper", "A training run of configs/paper", 100,
            ("benchmarks/paper.py", "--rows", "auto", "--steps", "20" if tiny else "30", *small),
            engine, package("mlflow"), *large(gpu_memory(40), host_memory(40), disk(40)),
        ),
        stage(
            "qwen2_audio", "A training run at Qwen2-Audio-7B's size", 95,
            ("benchmarks/qwen2_audio.py", "--rows", "connector", *small),
            engine, package("mlflow"), *large(gpu_memory(60), host_memory(40), disk(40)),
        ),
        stage(
            "nvme", "The engines with the teacher on NVMe", 60,
            (*engines, "nvme", *(() if tiny else ("--repeats", "1"))),
            engine, *large(nvcc, gpu_memory(24), host_memory(40), disk(20)), libaio(shared),
        ),
        stage(
            "decoding", "Decoding: teacher, teacher with contrastive decoding, student", 45,
            ("benchmarks/decoding.py", *(("--tokens", "4", "--rounds", "1") if tiny else ()), *small),
            *large(gpu_memory(40)),
        ),
        stage(
            "ranks", "Two ranks on the one device against one rank", 25,
            ("benchmarks/two_ranks.py",), engine, *large(gpu_memory(8)),
        ),
    ]  # fmt: skip
