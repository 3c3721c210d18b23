"""Commands that take a model's folder take a hub id as well, from the local cache where there is no network."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading

import pytest

from caad_ds.data.audio_markers import user_content
from caad_ds.models.model_hashes import model_hash
from caad_ds.models.pretrained import pretrained
from caad_ds.utils.errors import UserError
from caad_ds.utils.model_names import run_name
from tests.root import ROOT

NAME, COMMIT = "organisation/name", "0123456789abcdef0123456789abcdef01234567"
# Where the cache is, is read when huggingface_hub is imported: a process of its own, one for all commands.
COMMANDS = """
import json, sys
import caad_ds
from caad_ds import cli
for argv in json.load(sys.stdin):
    print("status", cli.main(argv), flush=True)
print("asked", caad_ds.load("organisation/name", device="cpu").answer(sys.argv[1], "who speaks ?"), flush=True)
"""
INSTRUCTIONS = """
attributes:
  gender: {name: Gender, questions: ["who speaks ?"], options: {male: the speaker is male ., female: she}}
irrelevant: [it rains]
"""


def test_pickled_weights_count_where_there_are_no_others(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    file = tmp_path / "pytorch_model.bin"
    found = []
    for weights in (b"one", b"two"):
        file.write_bytes(weights)
        found.append(model_hash(tmp_path))
    assert found[0] != found[1]
    (tmp_path / "model.safetensors").write_bytes(b"read")
    with_both = model_hash(tmp_path)
    file.unlink()
    assert with_both == model_hash(tmp_path)


@pytest.fixture
def hub(tmp_path, model_folder):
    """A cache as huggingface_hub writes it, with the tiny model under an id."""
    home = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    (home / "blobs").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    snapshot = home / "snapshots" / COMMIT
    for file in model_folder.rglob("*"):
        if file.is_file():
            place = snapshot / file.relative_to(model_folder)
            blob = home / "blobs" / str(place.relative_to(snapshot)).replace("/", "-")
            shutil.copy(file, blob)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(blob)
    return snapshot


def commands(tmp_path, arguments, clip):
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(clip)],
        input=json.dumps([[str(one) for one in argv] for argv in arguments]),
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.stdout, done.stderr


def test_every_command_that_runs_a_model_takes_a_hub_id(tmp_path, hub, model_folder, make_benchmark):
    benchmark = make_benchmark("benchmark", {"gender": 2})
    (tmp_path / "i.yaml").write_text(INSTRUCTIONS)
    clip = benchmark / "gender" / "audio" / "0.wav"
    question = {"role": "user", "content": user_content("who speaks ?")}
    asked = {"messages": [question], "seed_description": "(Gender: male)"}
    lines = [{"id": n, "audios": [{"path": str(clip), "text": "hello " * k}], **asked} for k, n in enumerate("abcdef")]
    (tmp_path / "described.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stage1 = "--manifest", "described.jsonl", "--model", NAME, "--out", "answered.jsonl", "--max-new-tokens", 32
    options = "--benchmark", benchmark, "--device", "cpu"
    model = "--model", NAME, *options
    out, err = commands(tmp_path, [
        ["evaluate", *model, "--out", "evaluated", "--max-new-tokens", 2],
        ["explain", *model, "--teacher", NAME, "--items", "gender/0:neutral", "--out", "shown", "--max-new-tokens", 1],
        ["speed", "--models", f"it={NAME}", *options, "--batch-size", 2, "--tokens", 1, "--rounds", 1],
        ["check-teacher", *model, "--instructions", "i.yaml", "--out", "check.json", "--max-new-tokens", 1],
        ["prep", "pseudo-gt", "--engine", "speech", "--device", "cpu", *stage1],
        ["evaluate", "--model", "organisation/absent", *options, "--out", "absent"],
    ], clip)  # fmt: skip
    statuses = [line for line in out.splitlines() if line.startswith("status")]
    assert statuses == ["status 0"] * 5 + ["status 2"], err
    assert "\nasked " in out
    setup = json.loads((tmp_path / "evaluated" / "setup.json").read_text())
    assert (setup["name"], setup["model_sha256"]) == ("name", model_hash(model_folder)), "that of a copy elsewhere"
    shown = json.loads((tmp_path / "shown" / "gender_0.neutral.json").read_text())
    assert shown["model"] == shown["teacher"] == NAME
    check = json.loads((tmp_path / "check.json").read_text())
    assert (check["model"], check["model_sha256"]) == ("name", setup["model_sha256"])
    settings = json.loads((tmp_path / "answered.settings.json").read_text())
    assert settings["model_sha256"] == setup["model_sha256"]
    [error] = [line for line in err.splitlines() if "error" in line]
    assert error.startswith("caad-ds: error: organisation/absent: no such folder, and no model of that id could be")
    assert "Traceback" not in err


def test_a_folder_of_the_cache_gives_the_models_name_and_not_its_commit(hub):
    assert run_name(hub) == "name"


ROOMS = """
name: rooms
title: Which room
data: ask the lab
hub: [lab/rooms]
columns: {question: ask, answer: right, audio: sound}
matching: exact
"""


@pytest.fixture(params=["HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", ""], ids=["refuses", "hangs up"])
def proxy(request):
    """The address of a proxy that refuses every connection, or breaks it off."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # closed
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(request.param.encode())

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def test_a_proxy_that_refuses_is_one_line_with_the_id(proxy, conflicts, tmp_path):
    (tmp_path / "rooms.yaml").write_text(ROOMS)
    given = [
        ["benchmarks", "check", "rooms.yaml"],
        ["evaluate", "--model", NAME, "--benchmark", str(conflicts), "--device", "cpu", "--out", "run"],
    ]
    unset = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "NO_PROXY", "no_proxy")
    env = {key: value for key, value in os.environ.items() if key not in unset}
    env |= dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy) | {"HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    script = "import json, sys; from caad_ds import cli; print([cli.main(argv) for argv in json.load(sys.stdin)])"
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(given), capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert done.stdout.splitlines()[-1:] == ["[2, 2]"] and "Traceback" not in done.stderr, done.stderr
    first, second = [line for line in done.stderr.splitlines() if "error: " in line]
    assert first.startswith("caad-ds: error: lab/rooms: the data set cannot be read from the hub (")
    assert second.startswith(f"caad-ds: error: {NAME}: no such folder, and no model of that id could be downloaded (")


def test_weights_that_a_broken_connection_keeps_away_are_one_line():
    class BrokenConnection(Exception):
        """As of httpx, whose errors are neither OSErrors nor ValueErrors."""

    class Model:
        @staticmethod
        def from_pretrained(name, **options):
            raise BrokenConnection("403 Forbidden")

    with pytest.raises(
        UserError, match=r"^lab/whisper: no Whisper encoder that loads \(403 Forbidden\); give a hub id"
    ):
        pretrained(Model, "lab/whisper", "Whisper encoder")
