"""The OpenAI engine against `transformers serve`, and against a small server with scripted failures."""

import functools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from caad_ds import cli
from data_prep.stage1 import pseudo_gt
from tests.data_prep.lines import read
from tests.data_prep.llm import make_llm
from tests.data_prep.questions import question

KEY = "sk-not-to-be-told-0123456789"
OPTIONS = ("--engine", "openai", "--max-new-tokens", 24)


class Serve:
    """`transformers serve` in a separate process, which can be killed and restarted on the same port."""

    def __init__(self, model: Path, log: Path) -> None:
        self.model, self.log, self.process = model, log, None
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        program = "from transformers.cli.transformers import main; main()"
        command = [sys.executable, "-c", program, "serve", str(self.model), "--device", "cpu"]
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        with open(self.log, "a") as log:
            self.process = subprocess.Popen([*command, *address], stdout=log, stderr=log)

    def wait(self) -> None:
        for _ in range(600):
            try:
                return urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
            except (URLError, OSError):
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.2)
        raise TimeoutError(self.log.read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return make_llm(tmp_path_factory.mktemp("served"), eager=4, sample=True)


@pytest.fixture(scope="module")
def served(llm, tmp_path_factory):
    server = Serve(llm, tmp_path_factory.mktemp("log") / "serve.log")
    server.start()
    server.wait()
    yield server
    server.kill()


@pytest.fixture
def described(write_lines):
    return write_lines("described.jsonl", [question(number) for number in range(12)])


def test_the_server_answers_as_the_model_in_this_process(tmp_path, described, served, prep):
    asked = ("--manifest", described, "--model", served.model, "--system", "Be brief.", "--max-new-tokens", 24)
    prep(pseudo_gt, *asked, "--out", tmp_path / "local.jsonl", "--engine", "transformers", "--device", "cpu")
    prep(pseudo_gt, *asked, "--out", tmp_path / "remote.jsonl", "--engine", "openai", "--base-url", served.url)
    local, remote = read(tmp_path / "local.jsonl"), read(tmp_path / "remote.jsonl")
    assert local == remote and len({row["response"] for row in local}) > 3
    assert read(tmp_path / "local.rejected.jsonl") == read(tmp_path / "remote.rejected.jsonl")


def test_each_record_is_sampled_with_its_own_seed(tmp_path, described, served, prep):
    asked = ("--manifest", described, "--model", served.model, *OPTIONS, "--base-url", served.url)
    # The server seeds all its requests together, so that one at a time is what it can repeat.
    sampled = ("--temperature", 1, "--top-p", 0.9, "--concurrency", 1)
    texts = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        prep(pseudo_gt, *asked, *sampled, "--seed", seed, "--out", tmp_path / f"{name}.jsonl")
        texts[name] = (tmp_path / f"{name}.jsonl").read_bytes()
    assert texts["first"] == texts["again"] != texts["other"]


@pytest.mark.slow  # the server takes its time to start
def test_a_server_that_is_killed_and_comes_back_loses_nothing(tmp_path, write_lines, served, prep):
    rows = [question(number) for number in range(150)]
    asked = ("--manifest", write_lines("many.jsonl", rows), "--model", served.model, *OPTIONS, "--base-url", served.url)
    prep(pseudo_gt, *asked, "--out", tmp_path / "whole.jsonl")
    out, partial = tmp_path / "cut.jsonl", tmp_path / "cut.partial.jsonl"
    run = threading.Thread(target=prep, args=(pseudo_gt, *asked, "--out", out, "--retries", 60))
    run.start()
    while not (partial.exists() and partial.read_bytes().count(b"\n") > 10):
        time.sleep(0.005)
    served.kill()
    before = partial.read_bytes().count(b"\n")
    served.start()
    run.join()
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes() and before < 150


class Server(ThreadingHTTPServer):
    """Answers the requests as `say(number, body)` says: a status, headers, and a text or an object."""

    daemon_threads = True

    def __init__(self, say) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.say, self.bodies, self.keys, self.lock = say, [], [], threading.Lock()
        self.busy = self.most = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.bodies.append(body)
            server.keys.append(self.headers["Authorization"])
            number = len(server.bodies)
            server.busy += 1
            server.most = max(server.most, server.busy)
        reply = server.say(number, body)
        with server.lock:
            server.busy -= 1
        if reply is None:  # hang up
            self.close_connection = True
            return
        status, headers, content = reply
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        kind = "text/html" if isinstance(content, str) else "application/json"
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(data), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def chat(text, reason="stop", **message):
    """A chat completion that says `text`."""
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text, **message}}
    return 200, {}, {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


def asked_for(body) -> str:
    return body["messages"][-1]["content"].split()[2]


@pytest.fixture
def start_server():
    servers = []

    def start(say) -> Server:
        servers.append(Server(say))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def ask(tmp_path, described, monkeypatch):
    """Runs the command against a URL, with a key in the environment, and returns its status."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def run(url, *options, out="answered.jsonl"):
        arguments = ["--manifest", described, "--out", tmp_path / out, *OPTIONS, "--model", "m", "--base-url", url]
        return cli.main(["prep", "pseudo-gt", *map(str, [*arguments, *options])])

    return run


def test_limits_and_failures_are_tried_again(tmp_path, start_server, ask):
    wrong = {1: (429, {"Retry-After": "1.2"}, {"error": "slow down"}), 3: (500, {}, {}), 5: (503, {}, "busy"), 7: None}
    at = []

    def say(number, body):
        at.append(time.monotonic())
        return wrong[number] if number in wrong else chat(f"I am {asked_for(body)}.")

    server = start_server(say)
    assert ask(server.url, "--concurrency", 1) == 0
    assert [row["response"] for row in read(tmp_path / "answered.jsonl")] == [f"I am {n}." for n in range(12)]
    assert len(server.bodies) == 16
    assert at[1] - at[0] > 1.15 and all(at[number] - at[number - 1] > 0.35 for number in (3, 5, 7))


def test_what_is_asked_for(start_server, ask, tmp_path):
    server = start_server(lambda _, body: chat("Yes."))
    assert ask(server.url, "--temperature", 0.5, "--top-p", 0.8, "--system", "Be brief.") == 0
    body = min(server.bodies, key=lambda body: int(asked_for(body)))
    record = question(0)
    user = f"{record['seed_description']}\n{record['metadata']['prompt']['question']}"
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": user}]
    assert {name: body[name] for name in ("model", "max_tokens", "temperature", "top_p")} == {
        "model": "m", "max_tokens": 24, "temperature": 0.5, "top_p": 0.8,
    }  # fmt: skip
    assert len({body["seed"] for body in server.bodies}) == 12
    assert set(server.keys) == {f"Bearer {KEY}"}


def test_no_more_requests_than_asked_for_are_under_way(start_server, ask):
    def say(_, body):
        time.sleep(0.03)
        return chat("Yes.")

    server = start_server(say)
    assert ask(server.url, "--concurrency", 3) == 0
    assert server.most == 3


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((400, {}, {"error": {"message": f"too long for {KEY}"}}), "server: it refuses this record, "),
        ((422, {}, {"detail": "no"}), "server: it refuses this record, "),
        (chat("half", "length"), "truncated: it did not end within 24 tokens"),
        (chat(None, "content_filter"), "refusal: the content filter"),
        (chat(None, refusal="No."), "refusal: No."),
        (chat(None), "empty: there is no text"),
    ],
)
def test_one_bad_answer_stops_no_other(tmp_path, start_server, ask, reply, reason):
    server = start_server(lambda _, body: reply if asked_for(body) == "3" else chat("Yes."))
    assert ask(server.url) == 0
    assert len(read(tmp_path / "answered.jsonl")) == 11
    [rejected] = read(tmp_path / "answered.rejected.jsonl")
    assert rejected["id"] == "clip3" and rejected["reason"].startswith(reason) and KEY not in rejected["reason"]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ((401, {}, {"error": {"message": f"Incorrect API key {KEY}"}}), "401"),
        ((404, {}, {"error": {"message": "no model m"}}), "no model m"),
        ((500, {}, {"error": {"message": "out of memory"}}), "out of memory"),
        ((200, {}, "<html>Hello</html>"), "what came is no chat completion; does the path end in /v1?"),
        ((200, {}, {"choices": []}), "what came is no chat completion"),
        ((200, {"Content-Type": "application/json"}, "{"), "the server's answer is not JSON"),
        (None, "Connection error"),
    ],
)
def test_a_server_that_refuses_ends_the_run_in_one_line_and_keeps_the_answers(
    tmp_path, start_server, ask, capsys, reply, expected
):
    server = start_server(lambda number, body: chat("Yes.") if number <= 5 else reply)
    assert ask(server.url, "--concurrency", 2, "--retries", 0) == 2
    told_us = capsys.readouterr()
    *_, line = told_us.err.splitlines()
    assert line.startswith("caad-ds: error: ") and expected in line and server.url in line
    assert len(read(tmp_path / "answered.partial.jsonl")) == 1 + 5 and not (tmp_path / "answered.jsonl").exists()
    asked, server.say = len(server.bodies), lambda number, body: chat("Yes.")
    assert ask(server.url) == 0
    assert len(server.bodies) == asked + 7 and len(read(tmp_path / "answered.jsonl")) == 12
    texts = [told_us.out, told_us.err, *(path.read_text() for path in tmp_path.glob("answered*"))]
    assert not any(KEY in text for text in texts)


def test_a_server_that_does_not_answer_in_time_is_given_up(start_server, ask, capsys):
    server = start_server(lambda *_: time.sleep(1.0))
    assert ask(server.url, "--timeout", 0.2, "--retries", 1, "--concurrency", 1) == 2
    assert "timed out" in capsys.readouterr().err.splitlines()[-1] and len(server.bodies) == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ("--base-url", "http://127.0.0.1:9/v1", "--retries", "0"),
            "http://127.0.0.1:9/v1, model m, record clip",
        ),
        (("--base-url", "127.0.0.1:8000/v1"), "--base-url '127.0.0.1:8000/v1': it must be a URL"),
        (("--api-key-env", "NO_SUCH_KEY"), "--api-key-env NO_SUCH_KEY: there is no such environment variable"),
    ],
)
def test_mistakes_of_the_user_are_named(ask, capsys, options, expected):
    assert ask("http://127.0.0.1:9/v1", *options) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]


def test_no_password_of_a_url_is_reported(start_server, ask, capsys):
    server = start_server(lambda *_: (401, {}, {"error": {"message": "no"}}))
    assert ask(server.url.replace("//", "//me:SECRET@"), "--concurrency", 1) == 2
    assert ask("http://me:SECRET/@host/v1") == 2
    err = capsys.readouterr().err
    assert "[hidden]@127.0.0.1" in err and "--base-url: it must be a URL" in err and "SECRET" not in err


def test_a_key_that_no_header_takes_is_reported_and_not_shown(ask, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-cut\n")
    assert ask("http://127.0.0.1:9/v1", "--api-key-env", "MY_KEY") == 2
    err = capsys.readouterr().err
    assert "--api-key-env MY_KEY: holds what no key has" in err and "sk-" not in err


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--retries", "-3", "-3 is below 0"),
        ("--retries", "many", "invalid"),
        ("--timeout", "nan", "nan is no number of seconds above 0"),
        ("--timeout", "0", "0 is no number of seconds above 0"),
        ("--timeout", "inf", "inf is no number"),
    ],
)
def test_retries_and_timeout_are_checked_at_once(ask, capsys, option, value, expected):
    assert ask("http://127.0.0.1:9/v1", option, value) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: " in line and expected in line


def test_an_interrupt_ends_at_once_and_keeps_the_answers(tmp_path, described, start_server):
    """Of requests that take minutes none is waited for."""
    released = threading.Event()
    server = start_server(lambda number, _: chat("Yes.") if number <= 5 else released.wait(120) and None)
    out, partial = tmp_path / "answered.jsonl", tmp_path / "answered.partial.jsonl"
    asked = ["--manifest", described, "--out", out, *OPTIONS, "--model", "m", "--base-url", server.url]
    command = [sys.executable, "-m", "caad_ds.cli", "prep", "pseudo-gt", *map(str, asked), "--concurrency", "3"]
    # Where the tests run in the background of a shell, Ctrl-C is ignored, and what they start inherits that.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, preexec_fn=heard, **pipes)
    while server.busy < 3 or not partial.exists() or len(read(partial)) < 1 + 5:
        assert process.poll() is None
        time.sleep(0.01)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    released.set()
    assert process.returncode == 130 and time.monotonic() - began < 5
    assert len(read(partial)) == 1 + 5 and "Traceback" not in err and "Task" not in err


@pytest.mark.parametrize(
    ("engine", "advice"), [("openai", "pip install 'caad-ds[openai]'"), ("vllm", "as docs/corpora.md says")]
)
def test_a_package_that_is_missing_is_named(ask, monkeypatch, capsys, engine, advice):
    monkeypatch.setitem(sys.modules, engine, None)  # what `import` takes for not installed
    assert ask("http://127.0.0.1:9/v1", "--engine", engine) == 2
    assert advice in capsys.readouterr().err.splitlines()[-1]


def test_a_local_server_needs_no_key(start_server, ask, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server = start_server(lambda *_: chat("Yes."))
    assert ask(server.url) == 0
    assert set(server.keys) == {"Bearer none"}
