"""The examples end as the console script does: one line for a mistake, no traceback on Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest

from caad_ds.utils.errors import UserError
from examples.demo import __main__ as demo
from examples.demo import commands
from examples.demo.commands import Job, run_all
from examples.recorded import probe


def test_a_mistake_is_one_line_and_status_2(tmp_path, capsys):
    assert probe.main([str(tmp_path / "absent.jsonl")] * 2) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("caad-ds: error: ") and "absent.jsonl: cannot be read" in line


@pytest.mark.slow
def test_an_interrupt_ends_without_a_traceback(tmp_path):
    manifest = tmp_path / "manifest.jsonl"
    os.mkfifo(manifest)
    command = [sys.executable, "-m", "examples.recorded.probe", str(manifest), str(manifest)]
    # Where the tests run in the background of a shell, Ctrl-C is ignored, and what they start inherits that.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=heard, **pipes) as running:
        with open(manifest, "w"):  # returns when the other end is open too
            running.send_signal(signal.SIGINT)
            _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, "")


def test_rows_that_there_are(capsys):
    with pytest.raises(SystemExit) as ended:
        demo.main(["full", "--rows", "std kd"])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "'std kd'" in last and "'std_kd'" in last and "'twin caad noise'" in last


def test_a_run_that_fails_ends_the_demo_and_names_its_log(tmp_path):
    jobs = [Job(str(tmp_path / "absent.yaml"), (), tmp_path / f"out-{n}") for n in range(3)]
    with pytest.raises(UserError, match=r"ended with status 2; see .*out-0\.log"):
        run_all(jobs, 1, "students")
    assert not (tmp_path / "out-2.log").exists()
    assert "no such config file" in (tmp_path / "out-0.log").read_text()


@pytest.mark.parametrize(
    ("runs", "sign", "processes"),
    [
        ("job.run()", signal.SIGINT, 4),
        ("run_all([job], 1, 'x')", signal.SIGTERM, 1),
        ("run_all([bad, job], 2, 'x')", signal.SIGINT, 1),  # which waits for the other when one has failed
    ],
)
def test_an_interrupt_ends_the_commands_that_run_and_says_how_to_resume(runs, sign, processes, tmp_path):
    config = tmp_path / "config.yaml"
    os.mkfifo(config)
    made = f"Job({str(config)!r}, (), Path({str(tmp_path / 'out')!r}))"
    bad = f"Job('absent.yaml', (), Path({str(tmp_path / 'bad')!r}))"
    code = f"job = {made}; bad = {bad}; sys.exit(resumable(lambda: {runs}))"
    imports = "import sys; from pathlib import Path; from examples.demo.commands import Job, resumable, run_all; "
    command = [sys.executable, "-c", imports + code]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, preexec_fn=heard, stderr=subprocess.PIPE, text=True, cwd=commands.ROOT) as running:
        with open(config, "w"):  # returns when a rank reads it
            while "bad" in runs and len(psutil.Process(running.pid).children()) > 1:
                time.sleep(0.05)
            started = psutil.Process(running.pid).children(recursive=True)
            assert len(started) == processes  # a launcher is two, and each of its ranks one
            running.send_signal(sign)
            _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "caad-ds: interrupted; run the same command again to resume"
    assert [child for child in started if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
