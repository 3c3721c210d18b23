"""slurm/cache_teacher.sbatch on a real two-node Slurm: an array fills a cache, a training reads it."""

import sys

import pytest

from caad_ds.distill.teacher_cache.segments import read_segments
from tests.root import ROOT
from tests.training.conftest import config, world  # noqa: F401 (world is a fixture)
from tests.training.launching import Run

pytestmark = pytest.mark.slurm
SCRIPT = ROOT / "slurm/cache_teacher.sbatch"


@pytest.fixture
def submit(cluster, tmp_path):
    """Submit an array; returns what Slurm says of each task, and the logs."""

    def run(array: str, *sbatch: str, **changed: str) -> tuple[list[str], list[str]]:
        variables = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "CONFIG": "out.yaml"} | changed
        options = (f"--array={array}", "--gpus-per-node=0", "--cpus-per-task=1", *sbatch)
        job = cluster.submit(*options, str(SCRIPT), cwd=tmp_path, **variables)
        cluster.wait(lambda: not cluster.run("squeue", "-h", "-j", str(job)).strip(), 240, f"job {job} to end")
        tasks = cluster.run("scontrol", "-o", "show", "job", str(job)).splitlines()
        return tasks, [path.read_text() for path in sorted(tmp_path.glob(f"caad-ds-cache-{job}*.log"))]

    yield run
    cluster.run("scancel", "-u", "root")  # a failed test's job must not hold the nodes


@pytest.mark.slow
def test_an_array_fills_a_cache_that_a_training_reads(submit, world, tmp_path):  # noqa: F811
    cache = tmp_path / "cache"
    file = config(
        world, tmp_path / "out", teacher={"cache": {"path": str(cache)}}, optimizer={"steps": 3},
        tracking={"enabled": False},
    )  # fmt: skip
    tasks, logs = submit("0-1", "--ntasks-per-node=2")
    assert len(tasks) == 2 and all("ExitCode=0:0" in task for task in tasks), logs
    keys = [entry.key for segment in read_segments(cache) for entry in segment.entries]
    assert sorted(keys) == [f"clip-{number:02d}" for number in range(24)]
    run = Run(file)
    assert run.wait() == [0] and f"teacher: cached (24 samples in {cache}" in run.output()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"CONFIG": ""}, "error: CONFIG is not set"),
        ({"CONFIG": "absent.yaml"}, "error: no configuration absent.yaml"),
        ({"PYTHON": "nowhere/python"}, "error: no interpreter nowhere/python"),
    ],
)
def test_a_mistake_is_one_line(submit, tmp_path, changed, expected):
    (tmp_path / "out.yaml").touch()
    tasks, logs = submit("0", **changed)
    assert "ExitCode=2:0" in tasks[0] and expected in logs[0], logs
