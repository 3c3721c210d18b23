"""`caad-ds push` with the real client and a stand-in for the hub: sent files and refused models."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

from caad_ds import cli
from caad_ds.models.speech_lm.folder import save
from tests.evaluation.conftest import tiny_parts
from tests.publishing.hub import standing_in
from tests.root import ROOT

TOKEN = "hf_" + "a1" * 17


@pytest.fixture
def hub(monkeypatch):
    """A hub that the client speaks to, with a token that it accepts."""
    with standing_in() as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model folder with a card; not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder, *tiny_parts())
    (folder / "README.md").write_text("---\ntags:\n- caad\n---\n\n# Mine\n")
    return folder


@pytest.fixture
def own(saved):
    """The names of its files."""
    return {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}


@pytest.fixture
def model(saved, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(saved, tmp_path / "model")


def push(*arguments: object) -> int:
    return cli.main(["push", *map(str, arguments)])


@pytest.fixture
def refusal(capsys):
    """Run a push that fails; returns its one line of error."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert push(*arguments, "--repo", "lab/student") == 2
        printed = capsys.readouterr()
        assert TOKEN not in printed.out + printed.err
        [line] = printed.err.splitlines()
        return line

    return run


def test_a_model_goes_to_a_private_repository(hub, model, capsys, own):
    assert push(model, "--repo", "lab/student", "--message", "first") == 0
    [made] = hub.requests("POST /api/repos/create")
    assert (made["name"], made["organization"], made["visibility"]) == ("student", "lab", "private")
    assert hub.files.keys() == own
    assert {name: (model / name).read_bytes() for name in own} == hub.files
    assert hub.commits == [{"branch": "main", "summary": "first"}]
    printed = capsys.readouterr().out
    assert "/lab/student (private)" in printed and f"{len(own)} files" in printed


def test_the_token_stands_in_one_header_alone(hub, model, capsys):
    assert push(model, "--repo", "lab/student") == 0
    for request, headers, body in hub.heard:
        carried = {name.lower() for name, value in headers.items() if TOKEN in value}
        to_hub = request.startswith(("POST /api/", "GET /api/models", "POST /lab/"))
        assert carried == ({"authorization"} if to_hub else set()), request
        assert TOKEN not in request and TOKEN.encode() not in (body if isinstance(body, bytes) else repr(body).encode())
    assert hub.requests("PUT /blobs/"), "weights go elsewhere, without the token"
    printed = capsys.readouterr()
    assert TOKEN not in printed.out + printed.err


def test_files_that_do_not_belong_stay_here(hub, model, capsys, own):
    strangers = {
        ".env": "hidden", ".cache": "hidden", "optimizer.pt": "pickled", "pytorch_model.bin": "pickled",
        "train.log": "no file of a model", "checkpoints/config.json": "no file of a model",
        "encoder/.git": "hidden", "run.sh": "no file of a model", "secrets.json": "no file of a model",
        "NOTICE-extra.pkl": "pickled", "LICENSE.env": "no file of a model",
    }  # fmt: skip
    for name in (*(strangers.keys() - {".cache", "encoder/.git"}), ".cache/x", "encoder/.git/config"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("x")
    (model / "LICENSE").symlink_to("/etc/passwd")
    os.mkfifo(model / "NOTICE")
    assert push(model, "--repo", "lab/student") == 0
    assert hub.files.keys() == own
    printed = capsys.readouterr().out
    assert all(f"left out  {name!r} ({why}" in printed for name, why in strangers.items()), printed
    assert "left out  'LICENSE' (a link)" in printed and "left out  'NOTICE' (no regular file)" in printed


def test_code_goes_with_a_model_that_brings_its_own(hub, model, own):
    theirs = json.loads((model / "config.json").read_text())["auto_map"]
    changed_config(model, auto_map=theirs | {"AutoModelForCTC": "own.Own"})
    (model / "own.py").write_text("from .beside import x")
    (model / "beside.py").write_text("x = 1")
    assert push(model, "--repo", "lab/student") == 0
    assert hub.files.keys() == own | {"own.py", "beside.py"}


def test_a_dry_run_needs_neither_network_nor_token(model, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert push(model, "--repo", "lab/student", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "/lab/student, branch main:" in printed and "a new repository would be private" in printed
    assert f"{(model / 'model.safetensors').stat().st_size / 1000:.3g} kB  model.safetensors" in printed


def test_a_public_repository_is_refused_unless_public_is_asked_for(hub, model, refusal, capsys, own):
    hub.repositories["lab/student"] = False
    assert "it is there and is public; add --public" in refusal(model)
    assert not hub.files and not hub.requests("POST /api/repos/create")
    assert push(model, "--repo", "lab/student", "--public") == 0
    assert hub.files.keys() == own


def test_a_new_repository_is_public_where_that_is_asked_for(hub, model):
    assert push(model, "--repo", "lab/student", "--public") == 0
    assert hub.requests("POST /api/repos/create")[0]["visibility"] == "public"


def test_a_private_repository_stays_private(hub, model, capsys):
    hub.repositories["lab/student"] = True
    assert push(model, "--repo", "lab/student", "--public") == 0
    assert "lab/student is there and stays private" in capsys.readouterr().out
    assert hub.repositories["lab/student"] and not hub.requests("POST /api/repos/create")


def test_a_branch_is_made_where_it_is_named(hub, model):
    assert push(model, "--repo", "lab/student", "--revision", "trial") == 0
    assert [request for request, _, _ in hub.heard if "/branch/" in request] == [
        "POST /api/models/lab/student/branch/trial"
    ]
    assert hub.commits[0]["branch"] == "trial"


def test_the_streamed_upload_sends_the_same(hub, model, monkeypatch, own):
    """What the client does where hf_xet is installed, of files that the hub takes without it."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.large = "nothing"
    assert push(model, "--repo", "lab/student") == 0
    assert {name: (model / name).read_bytes() for name in own} == hub.files


def test_a_runs_folder_stands_for_its_model(hub, model, own):
    (model.parent / "checkpoints").mkdir()
    assert push(model.parent, "--repo", "lab/student") == 0
    assert hub.files.keys() == own


@pytest.mark.parametrize(
    ("begin", "status", "reason"),
    [
        ("GET /api/models", 401, "the hub does not accept the token; log in by `hf auth login`"),
        ("POST /api/repos/create", 403, "the token may not write there"),
        ("POST /api/repos/create", 409, "the repository is there and the token may not see it"),
        ("POST /api/models/lab/student/preupload", 404, "no such repository, branch or organisation"),
        ("POST /api/models/lab/student/commit", 413, "the hub finds it too large"),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, model, refusal, begin, status, reason):
    message = "Invalid credentials in Authorization header" if status == 401 else f"no {TOKEN}"
    hub.answers[begin] = status, message
    line = refusal(model)
    assert f"--repo lab/student: HTTP {status} (" in line and reason in line
    assert not hub.files


def test_front_matter_that_the_hub_finds_wrong_is_one_line(hub, model, refusal):
    hub.answers["POST /api/validate-yaml"] = 400, "no such licence"
    assert "the hub does not take these files (Invalid metadata in README.md" in refusal(model)
    assert not hub.files


def test_a_hub_that_is_not_there_is_one_line(hub, model, refusal, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "--repo lab/student: the hub is not reached, or the upload broke off (" in refusal(model)


def test_an_interrupted_push_says_what_to_do(hub, model, monkeypatch, capsys):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", interrupted)
    assert push(model, "--repo", "lab/student") == 130
    assert "interrupted; run the same command again" in capsys.readouterr().out


def test_without_a_token_or_offline_nothing_is_asked(hub, model, refusal, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "no token of the hub is on this machine; log in by `hf auth login`" in refusal(model)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal(model)
    assert not hub.heard


@pytest.mark.parametrize("repo", ["student", "a/b/c", "lab/", "lab/stu dent", "lab/../x", "lab/-x", "/x"])
def test_what_is_no_id_is_refused(hub, model, capsys, repo):
    assert push(model, "--repo", repo) == 2
    assert "no id of a repository; give OWNER/NAME" in capsys.readouterr().err and not hub.heard


def cut(model):
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:-1])


def pickled(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def half_written(model):
    (model / ".README.md.123.partial").touch()


def changed_config(model, **values):
    config = json.loads((model / "config.json").read_text()) | values
    (model / "config.json").write_text(json.dumps(config))


def no_encoder(model):
    changed_config(model, encoder=None, encoder_config=None)
    shutil.rmtree(model / "encoder", ignore_errors=True)


def cut_encoder(model):
    no_encoder(model)
    (model / "encoder").mkdir()
    (model / "encoder/config.json").write_text("{}")
    (model / "encoder/model.safetensors").write_bytes(b"")


def broken_config(model):
    (model / "config.json").write_text("{")


def no_type(model):
    (model / "config.json").write_text("{}")


def token_in_card(model):
    (model / "README.md").write_text(f"made with {TOKEN}\n")


def own_path(model):
    changed_config(model, encoder=str(model))


def parts_without_index(model):
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")


def part_missing(model):
    parts_without_index(model)
    weights = {"weight_map": {"a": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(weights))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "model.safetensors: damaged or cut ("),
        (pickled, "no model.safetensors there; pickled weights are not pushed"),
        (half_written, ".README.md.123.partial: half written"),
        (no_encoder, "encoder/config.json: cannot be read"),
        (cut_encoder, "encoder/model.safetensors: damaged or cut ("),
        (broken_config, "config.json: cannot be read as JSON"),
        (no_type, "config.json: it names no model_type"),
        (token_in_card, "README.md: holds what looks like a token or a key; remove it, and revoke the token"),
        (own_path, "which is on one machine alone"),
        (parts_without_index, "weights in several files, and no model.safetensors.index.json"),
        (part_missing, "a is not in model-00002-of-00002.safetensors"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_whole_model_is_refused_before_the_hub_is_asked(hub, model, refusal, damage, message):
    damage(model)
    assert message in refusal(model)
    assert not hub.heard


def test_weights_in_several_files_are_sent_with_their_index(hub, model, own):
    weights = load_file(model / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, model / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "model.safetensors").unlink()
    assert push(model, "--repo", "lab/student") == 0
    assert hub.files.keys() == own - {"model.safetensors"} | {*parts, "model.safetensors.index.json"}


def test_what_no_folder_is_named_by_is_no_hub_id(hub, refusal):
    assert "lab/teacher: no such folder" in refusal("lab/teacher")


@pytest.mark.slow
def test_the_console_script_keeps_the_token_to_itself(hub, model, tmp_path):
    """In a separate process, with the traceback that --debug shows."""
    hub.answers["POST /api/models/lab/student/commit"] = 500, f"failed with {TOKEN}"
    env = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT), "HF_DEBUG": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "caad_ds", "push", str(model), "--repo", "lab/student", "--debug"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2 and "Traceback" in ended.stderr and "HTTP 500" in ended.stderr
    assert TOKEN not in ended.stdout + ended.stderr
