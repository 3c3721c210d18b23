"""slurm/distill.sbatch on a real two-node Slurm: ranks, statuses, preemption."""

import re
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.root import ROOT
from tests.slurm.cluster import free_ports
from tests.training.conftest import config, world  # noqa: F401 (world is a fixture)

pytestmark = pytest.mark.slurm
SCRIPT = ROOT / "slurm/distill.sbatch"
PROBE = Path(__file__).with_name("probe.py")


@pytest.fixture
def submit(cluster, tmp_path):
    """Submit the script with the probe as training entry, from an empty folder that holds a configuration."""
    (tmp_path / "tiny.yaml").touch()
    variables = {"PYTHON": sys.executable, "CAAD_ENTRY": str(PROBE), "CONFIG": "tiny.yaml"}

    def run(*arguments: str, sbatch: tuple[str, ...] = (), **changed: str) -> int:
        command = ("--nodes=2", "--cpus-per-task=1", *sbatch, str(SCRIPT), *arguments)
        return cluster.submit(*command, cwd=tmp_path, **{**variables, **changed})

    yield run
    cluster.run("scancel", "-u", "root")  # a failed test's job must not hold the nodes


def log(tmp_path: Path, job: int) -> str:
    """What the job has printed so far."""
    path = tmp_path / f"caad-ds-{job}.log"
    return path.read_text() if path.exists() else ""


def ranks(text: str) -> list[dict[str, str]]:
    """The fields that each probe printed, by rank."""
    lines = [line for line in text.splitlines() if "probe RANK" in line]
    return sorted((dict(re.findall(r"(\w+)=(\S+)", line)) for line in lines), key=lambda fields: int(fields["RANK"]))


def test_four_ranks_on_two_nodes_find_their_place(cluster, submit, tmp_path):
    job = submit(sbatch=("--ntasks-per-node=2", "--gpus-per-node=2"))
    assert cluster.finished(job)["ExitCode"] == "0:0", log(tmp_path, job)
    seen = ranks(log(tmp_path, job))
    assert [(r["RANK"], r["LOCAL_RANK"], r["host"]) for r in seen] == [
        ("0", "0", "node1"),
        ("1", "1", "node1"),
        ("2", "0", "node2"),
        ("3", "1", "node2"),
    ]
    assert {(r["WORLD_SIZE"], r["LOCAL_SIZE"], r["MASTER_ADDR"]) for r in seen} == {("4", "2", "node1")}
    assert len({r["MASTER_PORT"] for r in seen}) == 1
    assert {r["CUDA_VISIBLE_DEVICES"] for r in seen} == {"0,1"}
    assert {r["config"] for r in seen} == {"tiny.yaml"}


@pytest.mark.parametrize(
    ("statuses", "delays", "expected"),
    [((2, 2), (0, 0.3), 2), ((0, 7), (30, 0), 7)],
    ids=["a user's mistake on every rank", "one rank crashes while the other hangs"],
)
def test_the_job_ends_with_the_ranks_status(cluster, submit, tmp_path, statuses, delays, expected):
    job = submit("--statuses", *map(str, statuses), "--delays", *map(str, delays))
    ended = cluster.finished(job, timeout=20)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", f"{expected}:0"), log(tmp_path, job)


def test_usr1_checkpoints_requeues_and_goes_on(cluster, submit, tmp_path):
    job = submit("--until-usr1")
    cluster.wait(lambda: len(ranks(log(tmp_path, job))) == 2, 20, "both ranks to start")
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    ended = cluster.finished(job)
    text = log(tmp_path, job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), text
    assert text.count("checkpointed rank=") == 2
    assert [r["restarts"] for r in ranks(text)] == ["0", "1", "0", "1"]
    assert not list(tmp_path.glob(".caad-ds-*"))


@pytest.mark.slow
def test_usr1_before_the_ranks_can_hold_it_starts_over(cluster, submit, tmp_path):
    job = submit("--until-usr1", "--deaf")
    cluster.wait(lambda: len(ranks(log(tmp_path, job))) == 2, 20, "both ranks to start")
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    ended = cluster.finished(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), log(tmp_path, job)


@pytest.mark.slow
def test_preemption_by_a_higher_partition_requeues(cluster, submit, tmp_path):
    job = submit("--until-usr1")
    cluster.wait(lambda: len(ranks(log(tmp_path, job))) == 2, 20, "both ranks to start")
    urgent = submit(sbatch=("--partition=high", "--ntasks-per-node=2", "--gpus-per-node=0"))
    assert cluster.finished(urgent)["JobState"] == "COMPLETED"
    assert cluster.finished(job)["JobState"] == "COMPLETED", log(tmp_path, job)
    assert log(tmp_path, job).count("checkpointed rank=") == 2


@pytest.mark.parametrize("variable", ["CONFIG", "CAAD_ENTRY", "PYTHON"])
def test_a_missing_file_is_named_in_one_line(cluster, submit, tmp_path, variable):
    job = submit(**{variable: "nowhere/absent"})
    assert cluster.finished(job)["ExitCode"] == "2:0"
    [line] = log(tmp_path, job).splitlines()
    assert line.startswith("error: no ") and "nowhere/absent" in line


@pytest.mark.slow
def test_training_is_preempted_and_finishes_as_one_mlflow_run(cluster, submit, tmp_path, world):  # noqa: F811
    steps = 60
    file = config(world, tmp_path / "out", optimizer={"steps": steps})
    variables = {"CAAD_ENTRY": str(ROOT / "caad_ds/train.py"), "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    [port] = free_ports(1)  # job ids start at 1 in every test cluster, so their default ports would meet
    job = submit(CONFIG=str(file), MASTER_PORT=str(port), **variables)
    cluster.wait(lambda: "step 3/" in log(tmp_path, job), 240, "training to begin")  # may compile
    cluster.run("scancel", "--batch", "--signal=USR1", str(job))
    ended = cluster.finished(job, timeout=150)
    text = log(tmp_path, job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), text
    assert "resumed from" in text and (tmp_path / "out/model/model.safetensors").exists()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [run] = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.info.status == "FINISHED"
    logged = [point.step for point in client.get_metric_history(run.info.run_id, "train/ce")]
    assert sorted(logged) == list(range(1, steps + 1))
