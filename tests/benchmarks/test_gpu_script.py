"""benchmarks/gpu.sh: what fails, hangs, is missing or interrupted leaves the results of the rest."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import machine as machine_module
from benchmarks.gpu import stages
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.needs import gpu_memory, nvcc, package
from benchmarks.gpu.run import GRACE_SECONDS, complaint
from benchmarks.two_ranks import TOLERANCE, differences
from caad_ds.utils.errors import UserError
from tests.conftest import HAS_GPU
from tests.root import ROOT

SCRIPT = """
import sys
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.needs import package
from benchmarks.gpu.stage import Stage

def stages(tiny, environment):
    return [{stages}]

sys.exit(main(sys.argv[1:], stages))
"""
TABLE = 'Stage("table", "A table", ("-c", "print(\'| a | b |\\\\n|---|---|\\\\n| 1 | 2 |\')"), 60)'
FAILS = 'Stage("fails", "It fails", ("-c", "print(1)\\nraise ValueError(\'no such shape\')"), 60)'
# A child that takes no SIGINT outlives its parent, unless the whole group is killed.
HANGS = """Stage("hangs", "It hangs", ("-c", '''
import subprocess, time
child = subprocess.Popen(["sh", "-c", "trap : INT; while :; do sleep 1; done"])
print("| child |", child.pid, flush=True)
time.sleep(300)
'''), {seconds})"""
LACKS = 'Stage("lacks", "It lacks a package", ("-c", ""), 60, (package("no-such-peer"),))'


@pytest.fixture
def start(tmp_path):
    """Starts the script with stages of the test's own."""

    def start(*written: str, options: tuple[str, ...] = ()) -> subprocess.Popen:
        file = tmp_path / "script.py"
        file.write_text(SCRIPT.replace("{stages}", ", ".join(written)))
        argv = [sys.executable, file, "--tiny", "--out", tmp_path / "out", *options]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}  # as gpu.sh runs Python
        return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True)

    return start


def left(tmp_path):
    """The page, and each stage's result by name."""
    [page], [values] = (list((tmp_path / "out").glob(f"*.{kind}")) for kind in ("md", "json"))
    found = json.loads(values.read_text())["stages"]
    return page.read_text(), {stage["name"]: stage for stage in found}


def child(output):
    """The process that the hanging stage has started, 0 before it has."""
    found = re.search(r"\| child \| (\d+)", output)
    return int(found[1]) if found else 0


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_fails_hangs_or_is_missing_leaves_the_results_of_the_rest(start, tmp_path):
    script = start(HANGS.format(seconds=GRACE_SECONDS + 2), FAILS, LACKS, TABLE)
    script.communicate(timeout=200)
    assert script.returncode == 1
    page, found = left(tmp_path)
    assert {name: stage["status"] for name, stage in found.items()} == {
        "hangs": "stopped", "fails": "failed", "lacks": "skipped", "table": "passed",
    }  # fmt: skip
    assert "- fails: failed (exit status 1: ValueError: no such shape)" in page
    assert (
        "- hangs: stopped (stopped at its limit of 5 s)" in page and "- lacks: skipped (no-such-peer is not in" in page
    )
    assert "## A table" in page and "| a | b |\n|---|---|\n| 1 | 2 |" in page
    assert not is_running(child(found["hangs"]["output"]))


def test_an_interrupt_leaves_what_was_finished(start, tmp_path):
    script = start(TABLE, HANGS.format(seconds=120), FAILS)
    while not any(child(log.read_text()) for log in tmp_path.glob("out/*.log")):
        assert script.poll() is None
        time.sleep(0.05)
    script.send_signal(signal.SIGTERM)
    script.communicate(timeout=60)
    assert script.returncode == 128 + signal.SIGTERM
    page, found = left(tmp_path)
    statuses = [(stage["status"], stage["reason"]) for stage in found.values()]
    assert statuses == [
        ("passed", ""), ("interrupted", "SIGTERM came"), ("not run", "SIGTERM came before it"),
    ]  # fmt: skip
    assert "| 1 | 2 |" in page and "- hangs: interrupted (SIGTERM came)" in page
    assert not is_running(child(found["hangs"]["output"]))


def test_a_reader_that_leaves_stops_no_stage(start, tmp_path):
    script = start(TABLE, FAILS, TABLE.replace("table", "second", 1))
    script.stdout.close()
    assert script.wait(timeout=60) == 1
    assert [stage["status"] for stage in left(tmp_path)[1].values()] == ["passed", "failed", "passed"]


def test_a_question_without_an_answer_ends_no_run(monkeypatch):
    broken = {**os.environ, "PYTHONHOME": "/nowhere"}
    assert not machine_module.nvme_operator(broken)
    with pytest.raises(UserError, match="cannot be asked about its GPU"):
        Machine.here(broken)
    monkeypatch.setattr(machine_module, "PROBE_SECONDS", 0)
    with pytest.raises(UserError, match="no answer in 0 s"):
        Machine.here(dict(os.environ))


@pytest.mark.skipif(HAS_GPU, reason="a GPU is here, which the script would measure")
def test_without_a_gpu_it_says_so(tmp_path):
    argv = ["bash", ROOT / "benchmarks/gpu.sh", "--out", tmp_path]
    done = subprocess.run(argv, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert done.returncode == 2 and "finds no GPU here; --tiny tries the script on a CPU" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named():
    argv = ["bash", ROOT / "benchmarks/gpu.sh", "--tiny", "--out", "/proc/nowhere"]
    done = subprocess.run(argv, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    assert done.returncode == 2 and "gpu.sh: error: --out /proc/nowhere: " in done.stderr
    assert "Traceback" not in done.stderr


def test_the_stages_fit_into_eleven_minutes_and_are_those_of_the_tiny_run():
    full, tiny = (stages.stages(small, {}) for small in (False, True))
    assert sum(stage.seconds for stage in full) + stages.FOR_THE_REST <= stages.MOST_SECONDS == 11 * 60
    assert [stage.name for stage in full] == [stage.name for stage in tiny]
    assert [stage.name for stage in full] == [
        "tests", "step", "on_policy", "cap", "loss", "paper", "qwen2_audio", "nvme", "decoding", "ranks",
    ]  # fmt: skip


def test_what_is_missing_is_named():
    machine = Machine("a GPU", 20.0, "13.0", False, "580", {"trl": None, "triton": "3.9"}, 60.0, 10.0)
    assert package("trl", ": no row of TRL")(machine) == "trl is not installed: no row of TRL"
    assert package("triton")(machine) is None
    assert gpu_memory(24)(machine) == "needs 24 GB of GPU memory, 20.0 GB are free" and gpu_memory(20)(machine) is None
    assert "nvcc is not here" in nvcc(machine)
    lacking = {stage.name: [part(machine) for part in (*stage.needs[:2], *stage.parts)]
               for stage in stages.stages(False, {}) if stage.name in ("step", "loss")}  # fmt: skip
    assert "needs 48 GB of GPU memory, 20.0 GB are free" in lacking["step"]
    assert "trl is not installed: no row of TRL, no comparison with it" in lacking["loss"]


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("a\nRuntimeError: two sizes\n\nbye\n", "RuntimeError: two sizes"),
        ("FAILED tests/a.py::b - no\n1 failed, 2 passed in 3 s\n", "1 failed, 2 passed in 3 s"),
        ("caad-ds: error: no disk\n", "caad-ds: error: no disk"),
        ("only this\n", "only this"),
        ("", "no output"),
    ],
)
def test_the_last_line_that_speaks_of_an_error(output, line):
    assert complaint(output) == line


def test_losses_of_two_ranks_are_compared_one_by_one():
    one = {placed: [{"kd": 0.5, "ce": 8.0}, {"kd": 0.4, "ce": 7.0}] for placed in ("replicated", "resident")}
    two = json.loads(json.dumps(one))
    two["resident"][1]["ce"] += 2 * TOLERANCE
    apart = [row[:3] for row in differences(one, two) if abs(row[3] - row[4]) > TOLERANCE]
    assert apart == [("resident", 2, "ce")] and len(differences(one, two)) == 8
