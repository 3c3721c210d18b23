"""slurm/pseudo_gt.sbatch on a real two-node Slurm: an array over parts, then the merge."""

import sys

import pytest

from caad_ds import cli
from caad_ds.utils.files import write_jsonl
from tests.data_prep.questions import question
from tests.root import ROOT

pytestmark = pytest.mark.slurm
SCRIPT = ROOT / "slurm/pseudo_gt.sbatch"


@pytest.fixture
def submit(cluster, tmp_path):
    """Submit an array over a manifest of 50 records; returns what Slurm says of each task, and the logs."""
    write_jsonl(tmp_path / "described.jsonl", [question(number) for number in range(50)])
    variables = {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "MANIFEST": "described.jsonl",
        "OUT": "answered.jsonl",
    }

    def run(array: str, *arguments: str, **changed: str) -> tuple[list[str], list[str]]:
        options = (f"--array={array}", "--gpus-per-node=0", "--cpus-per-task=1")
        engine = arguments or ("--engine", "template")
        job = cluster.submit(*options, str(SCRIPT), *engine, cwd=tmp_path, **{**variables, **changed})
        cluster.wait(lambda: not cluster.run("squeue", "-h", "-j", str(job)).strip(), 120, f"job {job} to end")
        tasks = cluster.run("scontrol", "-o", "show", "job", str(job)).splitlines()
        logs = sorted(tmp_path.glob(f"caad-ds-pseudo-gt-{job}*.log"))
        return tasks, [path.read_text() for path in logs]

    yield run
    cluster.run("scancel", "-u", "root")  # a failed test's job must not hold the nodes


def merged(tmp_path) -> bytes:
    """What the merge makes of the parts."""
    files = ["--manifest", str(tmp_path / "described.jsonl"), "--out", str(tmp_path / "answered.jsonl")]
    assert cli.main(["prep", "merge", *files]) == 0
    return (tmp_path / "answered.jsonl").read_bytes()


def test_an_array_answers_what_one_run_answers(submit, tmp_path):
    tasks, logs = submit("0-2")
    assert len(tasks) == 3 and all("ExitCode=0:0" in task for task in tasks), logs
    one = [
        "--manifest",
        str(tmp_path / "described.jsonl"),
        "--out",
        str(tmp_path / "one.jsonl"),
        "--engine",
        "template",
    ]
    assert cli.main(["prep", "pseudo-gt", *one]) == 0
    assert merged(tmp_path) == (tmp_path / "one.jsonl").read_bytes()


def test_parts_that_are_missing_are_answered_by_their_number(submit, tmp_path, capsys):
    submit("0,3", PARTS="4")
    files = ["--manifest", str(tmp_path / "described.jsonl"), "--out", str(tmp_path / "answered.jsonl")]
    assert cli.main(["prep", "merge", *files]) == 2
    assert "not finished: shard 1/4, 2/4; run" in capsys.readouterr().err.splitlines()[-1]
    submit("1-2", PARTS="4")
    assert merged(tmp_path).count(b"\n") == 50


@pytest.mark.parametrize(
    ("array", "changed", "expected"),
    [
        ("0", {"OUT": ""}, "error: MANIFEST and OUT are not both set"),
        ("0", {"PYTHON": "nowhere/python"}, "error: no interpreter nowhere/python"),
        ("0,2", {}, "error: the tasks are not 0 to 1: submit --array=0-1, or set PARTS"),
        ("1-2", {}, "error: the tasks are not 0 to 1: submit --array=0-1, or set PARTS"),
        ("0", {"MANIFEST": "absent.jsonl"}, "caad-ds: error: absent.jsonl: cannot be read"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(submit, array, changed, expected):
    tasks, logs = submit(array, **changed)
    assert all("ExitCode=2:0" in task for task in tasks)
    assert logs and all(log.splitlines()[-1].startswith(expected) for log in logs), logs
