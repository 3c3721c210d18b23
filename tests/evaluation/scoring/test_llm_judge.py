import json
import shutil
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from caad_ds.cli import main
from caad_ds.evaluation.scoring.llm_judge import Judge
from caad_ds.utils.errors import UserError

pytest.importorskip("openai")
KEY = "sk-not-to-be-seen"


class Endpoint:
    """A chat endpoint on loopback: yes for the answer that the test names, and a failure after `fails_after` calls."""

    def __init__(self):
        self.prompts, self.keys, self.at_once, self.most = [], [], 0, 0
        self.fails_after, self.status, self.say, self.lock = None, 500, lambda prompt: "Yes.", threading.Lock()
        self.error, self.body, self.type = f"out of service, key {KEY}", None, "application/json"
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.answer(self, body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler, body):
        with self.lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            self.prompts.append(body["messages"][0]["content"])
            self.keys.append(handler.headers["Authorization"])
            fails = self.fails_after is not None and len(self.prompts) > self.fails_after
        time.sleep(0.02)
        message = {"role": "assistant", "content": self.say(body["messages"][0]["content"])}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        reply["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
        data = json.dumps({"error": {"message": self.error}} if fails else reply).encode()
        data = data if self.body is None else self.body
        with self.lock:  # before the answer is there, after which the client asks the next one at once
            self.at_once -= 1
        handler.send_response(self.status if fails else 200)
        handler.send_header("Content-Type", self.type)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


@pytest.fixture
def run(model_folder, conflicts, tmp_path, endpoint, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    judge = ["--judge-base-url", endpoint.url, "--judge-model", "big", "--judge-api-key-env", "JUDGE_KEY"]

    def run(*argv, judge=judge):
        argv = ["--model", model_folder, "--benchmark", conflicts, "--out", tmp_path / "run", *judge, *argv]
        return main(["evaluate", "--device", "cpu", *map(str, argv)])

    return run


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def different(folder):
    return {(p["id"].split("/")[0], p["gt"], p["prediction"]) for p in lines(folder / "predictions.jsonl")}


def test_verdicts_are_asked_once_and_scored_beside_the_rules(run, endpoint, tmp_path, capsys):
    endpoint.say = lambda prompt: "**Yes**" if "Reference answer: male" in prompt else "No, it does not."
    assert run("--judge-concurrency", 3) == 0
    folder = tmp_path / "run"
    assert len(endpoint.prompts) == len(set(endpoint.prompts)) == len(different(folder))
    assert 1 < endpoint.most <= 3 and set(endpoint.keys) == {f"Bearer {KEY}"}
    predictions = lines(folder / "predictions.jsonl")
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["rules"]["judge"] == sum(p["gt"] == "male" for p in predictions) == 8
    assert scores["judge"]["groups"]["gender"]["accuracy_neutral"]["value"] == 0.5
    assert scores["judge"]["model"] == "big" and scores["judge"]["unclear"] == 0
    differing = [p for p in predictions if len({p["right"], p["strict"], p["option"], p["gt"] == "male"}) > 1]
    assert lines(folder / "disagreements.jsonl") == [{**p, "judge": p["gt"] == "male"} for p in differing] != []
    asked = len(endpoint.prompts)
    assert run() == 0 and len(endpoint.prompts) == asked
    assert json.loads((folder / "scores.json").read_text()) == scores
    everything = "".join(file.read_text() for file in folder.iterdir()) + "".join(capsys.readouterr())
    assert KEY not in everything
    assert run("--judge-model", "bigger") == 0 and len(endpoint.prompts) == 2 * asked


def test_an_endpoint_that_dies_keeps_what_was_judged(run, endpoint, tmp_path, capsys):
    endpoint.fails_after, endpoint.status = 3, 401
    assert run("--judge-concurrency", 1) == 2
    folder = tmp_path / "run"
    assert len(lines(folder / "judge.jsonl")) == 3 and not (folder / "scores.json").exists()
    err = capsys.readouterr().err
    [error_line] = [line for line in err.splitlines() if "error:" in line]
    assert "out of service" in error_line and "kept, run it again" in error_line and KEY not in err
    with open(folder / "judge.jsonl", "a") as file:
        file.write('{"key": "cut by a ki')
    endpoint.fails_after = None
    assert run() == 0
    assert len(set(endpoint.prompts)) == len(different(folder)) == len(lines(folder / "judge.jsonl"))
    assert len(endpoint.prompts) == len(set(endpoint.prompts)) + 1


def test_no_part_of_a_secret_is_reported(run, endpoint, capsys):
    endpoint.fails_after, endpoint.status, endpoint.error = 0, 401, "x" * 150 + KEY
    url = endpoint.url.replace("//", "//me:SECRET@")
    judge = ["--judge-base-url", url, "--judge-model", "big", "--judge-api-key-env", "JUDGE_KEY"]
    assert run("--judge-concurrency", 1, judge=judge) == 2
    err = capsys.readouterr().err
    [error_line] = [line for line in err.splitlines() if "error:" in line]
    assert "sk-" not in err and "SECRET" not in err and "x" * 150 in error_line


@pytest.mark.parametrize(
    "url", ["", "host/v1", "localhost:1/v1", "http://[::1", "http://me:SECRET/@host/v1", "http://"]
)
def test_what_is_no_url_is_reported_before_the_first_answer_and_not_shown(run, tmp_path, capsys, url):
    assert run("--debug", judge=["--judge-base-url", url, "--judge-model", "big"]) == 2
    err = capsys.readouterr().err
    assert "--judge-base-url: no URL; give one such as https://host/v1" in err and "SECRET" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["sk-“quoted”", "sk-cut\n", "sk-\x7f"])
def test_a_key_that_no_header_takes_is_reported_and_not_shown(run, tmp_path, capsys, monkeypatch, key):
    monkeypatch.setenv("JUDGE_KEY", key)
    assert run() == 2
    err = capsys.readouterr().err
    assert "--judge-api-key-env JUDGE_KEY: holds what no key has" in err and "sk-" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("body", "type"),
    [
        ("<html>Welcome</html>", "text/html"),
        ("<html>Welcome</html>", "application/json"),
        ('{"choices": []}', "application/json"),
        ('{"choices": null}', "application/json"),
        ('{"choices": [{}]}', "application/json"),
        ('{"choices": 3}', "application/json"),
        ("{}", "application/json"),
        ("[]", "application/json"),
        ("null", "application/json"),
    ],
)
def test_what_is_no_chat_completion_is_reported(tmp_path, endpoint, body, type):
    endpoint.body, endpoint.type = body.encode(), type
    judge = Judge("big", endpoint.url, KEY, 1, tmp_path / "judge.jsonl")
    with pytest.raises(UserError, match="its reply is no chat completion; does the URL end in /v1"):
        judge.verdicts([("How loud?", "loud", "Loud.")])


def test_an_endpoint_that_is_not_there(run, endpoint, capsys):
    endpoint.server.shutdown()
    endpoint.server.server_close()
    assert run() == 2
    assert "Connection error" in capsys.readouterr().err


def test_what_the_judge_leaves_open_or_refuses_is_counted(run, endpoint, tmp_path, capsys):
    endpoint.say = lambda prompt: "Yes or no, who knows"
    assert run() == 0
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["judge"]["unclear"] == 28 and scores["rules"]["judge"] == 0
    assert "judge 0.0 (28 replies neither yes nor no)" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "run")
    endpoint.prompts.clear()
    endpoint.say, endpoint.fails_after, endpoint.status = lambda prompt: "Yes", 0, 400
    assert run() == 0
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["judge"]["unclear"] == 28
    endpoint.fails_after = None  # a refusal is no verdict: it is asked again
    assert run() == 0
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["judge"]["unclear"] == 0


def test_user_mistakes(run, endpoint, capsys, monkeypatch):
    assert run(judge=["--judge-model", "big"]) == 2
    assert "belong together" in capsys.readouterr().err
    monkeypatch.delenv("JUDGE_KEY")
    assert run() == 2
    assert "--judge-api-key-env JUDGE_KEY: that variable is not set" in capsys.readouterr().err
    assert endpoint.prompts == []


def test_a_missing_client_is_reported_before_the_first_answer(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)  # what an import of a missing package meets
    assert run() == 2
    assert "pip install 'caad-ds[openai]'" in capsys.readouterr().err
    assert not (tmp_path / "run" / "predictions.jsonl").exists()
