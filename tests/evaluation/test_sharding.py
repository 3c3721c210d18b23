"""`caad-ds evaluate` as several real processes, one of which is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from caad_ds.cli import main
from caad_ds.utils import ranks

RANKS = 2


@pytest.fixture
def arguments(model_folder, make_benchmark):
    benchmark = make_benchmark("benchmark", {"gender": 12, "noise": 9})
    (benchmark / "gender" / "audio" / "3.wav").write_bytes(b"not audio")
    return ["--model", str(model_folder), "--benchmark", str(benchmark), "--device", "cpu", "--batch-size", "3"]


@pytest.fixture
def alone(arguments, tmp_path):
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "alone")]) == 3
    return tmp_path / "alone"


def launch():
    """What a launcher sets for every rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(RANKS)}


def start(argv):
    meet = launch()
    command = [sys.executable, "-m", "caad_ds.cli", "evaluate", *argv]
    return [
        subprocess.Popen(command, env={**os.environ, **meet, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(RANKS)
    ]


def finished(processes):
    errors = [process.communicate(timeout=240)[1] for process in processes]
    return [process.returncode for process in processes], errors


def keys(folder):
    files = sorted(folder.glob("predictions*.jsonl"))
    whole = [line for file in files for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [(p["id"], p["condition"]) for p in map(json.loads, whole)]


def same(folder, other):
    setups = [(each / "setup.json").read_bytes() for each in (folder, other)]
    scores = [json.loads((each / "scores.json").read_text()) | {"speed": None} for each in (folder, other)]
    return setups[0] == setups[1] and scores[0] == scores[1]


@pytest.mark.numeric
def test_ranks_share_the_work_and_score_as_one_process(arguments, alone, tmp_path):
    status, errors = finished(start([*arguments, "--out", str(tmp_path / "run")]))
    assert status == [3, 3]
    assert "rank 0 of 2: 42/42" in errors[0] and "1 row was left out" in errors[0]
    assert errors[1] == "", "one rank speaks for all"
    assert same(tmp_path / "run", alone)
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == (alone / "predictions.jsonl").read_bytes()
    assert [file.name for file in (tmp_path / "run").glob("predictions*")] == ["predictions.jsonl"]


@pytest.mark.slow
def test_after_a_kill_no_item_is_answered_twice_whatever_the_number_of_ranks(arguments, alone, tmp_path):
    folder = tmp_path / "run"
    argv = [*arguments, "--batch-size", "1", "--out", str(folder)]
    processes = start(argv)
    while len(list(folder.glob("predictions.*.jsonl"))) < RANKS or len(keys(folder)) < 6:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.005)
    processes[0].send_signal(signal.SIGKILL)
    status, errors = finished(processes)
    assert status == [-signal.SIGKILL, 2]
    [error_line] = errors[1].splitlines()
    assert "rank 1: another rank has ended" in error_line, "the one that speaks for all is gone"
    assert "GLHF" not in error_line, "gloo's advice is not ours"
    before = keys(folder)
    assert 6 <= len(before) < 80 and len(set(before)) == len(before) and not (folder / "scores.json").exists()
    with open(folder / "predictions.1.jsonl", "a") as file:
        file.write('{"id": "cut by the ki')
    kept = {file.name: file.read_text() for file in folder.glob("predictions.*.jsonl")}
    assert len(kept) == RANKS
    assert main(["evaluate", *argv]) == 3
    after = (folder / "predictions.jsonl").read_text().splitlines()
    merged = [line for text in kept.values() for line in text.splitlines()[: text.count("\n")]]
    asked_before = {tuple(answer.items()) for answer in map(json.loads, merged)}
    answered = [json.loads(line) for line in after[: len(before)]]  # with verdicts, which scoring adds
    texts = ("id", "condition", "subset", "gt", "prediction")
    assert {tuple((key, answer[key]) for key in texts) for answer in answered} == asked_before, "it stays as it was"
    assert len(set(keys(folder))) == len(keys(folder)) == 80
    assert same(folder, alone)


def test_a_kill_while_ranks_files_are_put_together_doubles_nothing(arguments, alone):
    whole = (alone / "predictions.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (alone / "predictions.0.jsonl").write_bytes(b"".join(lines[::2]))
    (alone / "predictions.1.jsonl").write_bytes(b"".join(lines[1::2]))
    assert main(["evaluate", *arguments, "--out", str(alone)]) == 3
    assert sorted((alone / "predictions.jsonl").read_bytes().splitlines(keepends=True)) == sorted(lines)
    assert len(list(alone.glob("predictions*"))) == 1


def test_ranks_that_never_start_are_not_waited_for_without_a_word(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ranks, "MEETING", timedelta(seconds=1))
    for name, value in {**launch(), "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "run")]) == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert "rank 1: the 2 ranks do not meet at 127.0.0.1:" in last_line and "timed out" in last_line


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "two"), ("RANK", "2"), ("MASTER_PORT", "http")])
def test_a_launcher_that_tells_no_numbers(arguments, tmp_path, monkeypatch, capsys, name, value):
    for variable, number in {**launch(), "RANK": "0", name: value}.items():
        monkeypatch.setenv(variable, number)
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "run"), "--debug"]) == 2
    assert f"{name} {value}" in capsys.readouterr().err


def test_a_launcher_that_tells_only_half_is_a_users_mistake(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "run")]) == 2
    assert "RANK, MASTER_ADDR, MASTER_PORT not set" in capsys.readouterr().err
