"""Start training as users do, and read its output."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from safetensors.torch import load_file

from examples.demo.commands import free_port
from tests.root import ROOT

LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")

# Ranks are forked from one process that holds the imports, which would cost each of them seconds.
_ranks = multiprocessing.get_context("forkserver")
_ranks.set_forkserver_preload([
    "caad_ds.training.trainer",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # imported by every engine, and torch's compiler with it
    "mlflow.store.tracking.sqlalchemy_store",
    "webdataset",
    "tests.training.frozen",
])  # fmt: skip


class Run:
    """`train.py` on some ranks, started as Slurm does: one process per rank, its place in the environment.

    `prepare`, a function of a module, is called in each rank before it trains. `command`: another one of caad-ds.
    """

    def __init__(
        self,
        config_file: Path,
        ranks: int = 1,
        *arguments: str,
        env: dict[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
        command: str = "train",
    ):
        shared = {"WORLD_SIZE": str(ranks), "LOCAL_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
        shared |= {"MASTER_PORT": str(free_port())} | (env or {})
        self.port = shared["MASTER_PORT"]
        self.logs = [config_file.with_suffix(f".{time.monotonic_ns()}.{rank}.log") for rank in range(ranks)]
        argv = ["--config", str(config_file), *arguments]
        self.processes = []
        for rank, log in enumerate(self.logs):
            place = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            self.processes.append(
                _ranks.Process(target=_rank, args=(argv, place, str(log), prepare, command), daemon=True)
            )
        for process in self.processes:
            process.start()

    def output(self, rank: int = 0) -> str:
        """What a rank has printed so far, both streams."""
        return self.logs[rank].read_text() if self.logs[rank].exists() else ""

    def wait_for(self, text: str, timeout: float = 60) -> None:
        """Until rank 0 has printed `text`."""
        end = time.monotonic() + timeout
        while text not in self.output():
            assert self.processes[0].is_alive() and time.monotonic() < end, self.output()
            time.sleep(0.005)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every rank."""
        for process in self.processes:
            os.kill(process.pid, number)

    def wait(self, timeout: float = 120) -> list[int]:
        """The exit statuses; a rank that hangs is killed and fails the test."""
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        hung = [process for process in self.processes if process.is_alive()]
        for process in hung:
            process.kill()
        assert not hung, f"{len(hung)} ranks hang:\n{self.output()}"
        self.left_in_memory = list(Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{self.port}_*"))
        for buffer in self.left_in_memory:  # of ranks that a test has killed
            buffer.unlink()
        return [process.exitcode for process in self.processes]


def _rank(argv: list[str], place: dict[str, str], log: str, prepare: Callable[[], None] | None, command: str) -> None:
    for name in LAUNCH:
        os.environ.pop(name, None)
    os.environ.update(place)
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    from caad_ds.training.train_command import main

    if prepare is not None:
        prepare()
    if command != "train":
        from caad_ds import cli

        sys.exit(cli.main([command, *argv]))
    sys.exit(main(argv))


def train(config_file: Path, ranks: int = 1, *arguments: str) -> str:
    """Train to the end; what rank 0 printed."""
    run = Run(config_file, ranks, *arguments)
    assert run.wait() == [0] * ranks, "\n".join(run.output(rank) for rank in range(ranks))
    return run.output()


def deepspeed(config_file: Path, ranks: int, *arguments: str) -> subprocess.CompletedProcess:
    """`deepspeed --num_accelerators N caad_ds/train.py --config FILE` to its end."""
    env = {k: v for k, v in os.environ.items() if k not in LAUNCH}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks),
        "--master_port", str(free_port()), str(ROOT / "caad_ds/train.py"), "--config", str(config_file), *arguments,
    ]  # fmt: skip
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=180, check=False)


def tracked(output_dir: Path):
    """The one MLflow run of an output folder and its client."""
    client = MlflowClient(f"sqlite:///{output_dir.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("tests").experiment_id
    [run] = client.search_runs([experiment], filter_string=f"params.`run.output_dir` = '{output_dir}'")
    return client, run


def curve(output_dir: Path, metric: str) -> list[tuple[int, float]]:
    """Read all points of a metric from the store, by step."""
    client, run = tracked(output_dir)
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric))


def weights(output_dir: Path) -> dict:
    """The final model's weights, without the encoder of our own family, which is outside the engines."""
    found = load_file(output_dir / "model/model.safetensors")
    return {name: weight for name, weight in found.items() if not name.startswith("encoder.whisper.")}


def refusal(file, *arguments: str, ranks: int = 1, **how: object) -> str:
    """Return the one line of error that the main rank prints besides progress; `how`: the rest of what Run takes."""
    run = Run(file, ranks, *arguments, **how)
    status = run.wait(60)
    assert status == [2] * ranks, f"exit status {status}: {run.output()}"
    error_lines = [line for rank in range(ranks) for line in run.output(rank).splitlines() if "error" in line.lower()]
    assert "Traceback" not in run.output() and len(error_lines) == 1, run.output()
    assert error_lines[0].startswith("caad-ds: error: ") and run.output().splitlines()[-1] == error_lines[0]
    return error_lines[0]
