"""`caad-ds serve` as a process: refusals before anything is loaded, shutdown, memory."""

import argparse
import io
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import util
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest
import soundfile

import caad_ds
from caad_ds import cli
from caad_ds.generation.model import Model
from caad_ds.serving import serve
from tests.models.families.tiny import qwen2_audio as tiny_qwen2_audio
from tests.root import ROOT
from tests.serving.server.conftest import LIMITS, Running, asking, file_of, running
from tests.serving.server.hostile import QUESTION, RAW, REFUSED, WIDE, wide

KEY = "sk-not-to-be-told-0123456789"
MIB = 1 << 20
LONG = file_of("2")  # about which this model says a lot


@pytest.fixture
def without_weights(monkeypatch):
    """Any loading of weights fails the test."""

    def load(*arguments):
        raise AssertionError("the weights are loaded")

    monkeypatch.setattr(Model, "load", load)
    monkeypatch.delenv(serve.KEY, raising=False)


def refused(capsys, *arguments: object) -> str:
    """The one line of a command that does not serve."""
    assert cli.main(["serve", *map(str, arguments)]) == 2
    return [line for line in capsys.readouterr().err.splitlines() if "a run's folder" not in line][-1]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_other_interfaces_need_a_key(without_weights, model_folder, capsys, monkeypatch, host):
    assert f"--host {host}: others reach this interface; export a key" in refused(capsys, model_folder, "--host", host)


@pytest.mark.parametrize("key", ["two\nlines", "abc ", " abc", "abc\t", " "])
@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_a_key_that_no_client_can_send_is_refused(without_weights, model_folder, capsys, monkeypatch, host, key):
    """HTTP drops blanks at the ends of a header, so that no request would have such a key."""
    monkeypatch.setenv(serve.KEY, key)
    assert "CAAD_API_KEY: holds what no key has" in refused(capsys, model_folder, "--host", host)


@pytest.mark.parametrize("package", serve.PACKAGES)
def test_a_missing_package_is_one_line_that_names_the_extra(
    without_weights, model_folder, capsys, monkeypatch, package
):
    found = util.find_spec
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == package else found(name))
    line = refused(capsys, model_folder)
    assert line.endswith(f"serve needs the package {package}; pip install 'caad-ds[serve]'")


def test_ports_names_and_limits_that_cannot_be(without_weights, model_folder, capsys):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port}: cannot be listened on" in refused(capsys, model_folder, "--port", port)
    assert "--port 99999: no port has that number" in refused(capsys, model_folder, "--port", 99999)
    assert "both models are called" in refused(capsys, model_folder, "--vs", model_folder)
    assert "--vs-name: there is no second model" in refused(capsys, model_folder, "--vs-name", "b")
    assert "--timeout 0.0: give a finite number above 0" in refused(capsys, model_folder, "--timeout", 0)
    assert "--drain -1.0: give a number" in refused(capsys, model_folder, "--drain", -1)


def test_models_are_called_as_in_tables(tmp_path):
    snapshot = tmp_path / "models--lab--student" / "snapshots" / "0a1b"
    for folder, name in ((snapshot, "student"), (tmp_path / "mine" / "model", "mine"), (tmp_path / "own", "own")):
        folder.mkdir(parents=True)
        given = argparse.Namespace(model=folder, name=None, vs=None, vs_name=None)
        assert serve._named(given) == {name: folder}
    given = argparse.Namespace(model=Path("lab/other"), name=None, vs=snapshot, vs_name=None)
    assert [*serve._named(given)] == ["other", "student"]


def test_what_a_reader_finds_out_at_its_first_call_it_has_when_requests_come(tmp_path):
    model = caad_ds.load(tiny_qwen2_audio.write(tmp_path / "model"), device="cpu")
    assert "_positions_per_second" not in vars(model.reader)
    with running(model):
        assert "_positions_per_second" in vars(model.reader)


@contextmanager
def process(folder, log, *arguments, env=None):
    """The command, once it serves, and its address."""
    command = [sys.executable, "-m", "caad_ds", "serve", str(folder), "--port", "0", "--device", "cpu"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    with open(log, "w") as out:
        running = subprocess.Popen([*command, *map(str, arguments)], stdout=out, stderr=out, env=env)
    try:
        for _ in range(600):
            if match := re.search(r"serving (.*) at (\S+); Ctrl-C ends it", log.read_text()):
                break
            assert running.poll() is None, log.read_text()
            time.sleep(0.1)
        yield running, Running(match[2], None), match[1]
    finally:
        running.kill()
        running.wait()


@pytest.mark.slow
def test_it_ends_gracefully(model, model_folder, tmp_path):
    """What is inside is answered, what comes then gets 503, the status is 0; the key is printed nowhere."""
    log, same = tmp_path / "log", ["--name", "student", "--max-batch", 2, "--host", "0.0.0.0"]
    with process(model_folder, log, *same, env={"CAAD_API_KEY": KEY}) as (ended, server, names):
        assert names == "student"
        headers = {"Authorization": f"Bearer {KEY}"}
        server.address = server.address.replace("0.0.0.0", "127.0.0.1")
        lengths = range(100, 112)
        with ThreadPoolExecutor(12) as pool:
            long = [asking(QUESTION, LONG, max_tokens=length) for length in lengths]
            answers = [pool.submit(server.post, each, headers=headers) for each in long]
            metrics = f"{server.address}/metrics"
            server.wait(lambda: "caad_requests_inside 12" in httpx2.get(metrics, headers=headers).text)
            ended.send_signal(signal.SIGTERM)
            late = server.post(asking(QUESTION), headers=headers)
            assert late.status_code == 503 and "about to end" in late.json()["error"]["message"]
            assert httpx2.get(f"{server.address}/health").json() == {"status": "ending"}
            said = [each.result().json()["choices"][0]["message"]["content"] for each in answers]
        assert ended.wait(20) == 0
    expected = [model.answer(LONG, QUESTION, max_new_tokens=length) for length in lengths]
    assert said == expected
    assert KEY not in log.read_text() and "Traceback" not in log.read_text()


@pytest.mark.slow
def test_what_takes_too_long_to_end_is_cut(model_folder, tmp_path):
    log = tmp_path / "log"
    with process(model_folder, log, "--name", "student", "--drain", 0.2, "--max-batch", 1) as (ended, server, _):
        long = asking(QUESTION, LONG, max_tokens=1000)
        with ThreadPoolExecutor(20) as pool:
            answers = [pool.submit(server.post, long) for _ in range(20)]
            server.wait(lambda: server.metric("caad_requests_inside") == 20)
            ended.send_signal(signal.SIGTERM)
            assert ended.wait(20) == 0
            assert any(each.exception() or each.result().status_code != 200 for each in answers)
    assert re.search(r"\d+ requests were not answered within 0.2 s", log.read_text())
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("drain", "first", "second"), [(60, "SIGTERM", "SIGINT"), (0, "SIGINT", "SIGTERM")])
def test_a_second_signal_ends_it_at_once(model_folder, tmp_path, drain, first, second):
    """Neither the requests inside, nor the connections of those that were cut, are waited for."""
    log = tmp_path / "log"
    with process(model_folder, log, "--name", "student", "--drain", drain, "--max-batch", 1) as (ended, server, _):
        with ThreadPoolExecutor(20) as pool:
            answers = [pool.submit(server.post, asking(QUESTION, LONG, max_tokens=1000)) for _ in range(20)]
            server.wait(lambda: server.metric("caad_requests_inside") == 20)
            ended.send_signal(getattr(signal, first))
            time.sleep(0.5)
            assert ended.poll() is None, "the first signal waits for no one"
            ended.send_signal(getattr(signal, second))
            assert ended.wait(3) == 0
            assert any(each.exception() for each in answers)
    assert "ended at once, by a second signal" in log.read_text() and "Traceback" not in log.read_text()


@pytest.mark.slow
def test_hostile_requests_leave_no_memory_behind(model, model_folder, tmp_path):
    """Ten hours of FLAC take 2.3 GB in samples. The first round makes what stays."""
    buffer, minute = io.BytesIO(), np.zeros(60 * 16_000, np.int16)
    with soundfile.SoundFile(buffer, "w", 16_000, 1, format="FLAC") as file:
        for _ in range(600):
            file.write(minute)
    hours = asking(QUESTION, buffer.getvalue())
    hostile = [content for content, _ in REFUSED.values()] + [hours] * 3
    assert len(hostile) + len(RAW) >= 100
    raw = [*RAW.values(), *(wide(what, 16 * MIB) for what in WIDE)]
    same = ["--max-clips", LIMITS["clips"], "--most-new-tokens", LIMITS["most_new_tokens"]]
    with process(model_folder, tmp_path / "log", "--name", "student", *same) as (running, server, _):

        def send() -> int:
            for content in hostile:
                answer = server.post(content)
                assert answer.status_code in (400, 413), answer.text
            for content in raw:
                assert server.post(data=content, headers={"Content-Type": "application/json"}).status_code == 400
            said = server.post(asking(QUESTION, file_of("one"))).json()["choices"][0]["message"]["content"]
            assert said == model.answer(file_of("one"), QUESTION, max_new_tokens=128)
            return psutil.Process(running.pid).memory_info().rss

        first = send()
        highest = max(send() for _ in range(2))
        peak = next(int(line.split()[1]) for line in open(f"/proc/{running.pid}/status") if line.startswith("VmHWM"))
        assert highest - first < 50 * MIB
        assert 1024 * peak - first < 300 * MIB, "something large was held for a moment"
        assert "Traceback" not in (tmp_path / "log").read_text()
