"""Help and wrong paths are answered before anything is imported that takes seconds; the shell is answered too."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from caad_ds import __version__, cli
from tests.root import ROOT

HEAVY = ("torch", "transformers", "deepspeed", "mlflow")
BENCHMARK = ["--benchmark", "absent"]
WRONG = {
    "prep synthesize": ["--root", "absent", "--workers", "0"],
    "prep ingest": ["jsonl", "--root", "absent", "--out", "a.jsonl"],
    "prep add-noise": ["--manifest", "absent", "--out", "a.jsonl", "--audio-dir", "a"],
    "prep split": ["--manifest", "absent", "--out", "a", "--rules", "absent"],
    "prep annotate": ["--manifest", "absent", "--out", "a.jsonl", "--annotators", "pitch"],
    "prep describe": ["--manifest", "absent", "--out", "a.jsonl", "--instructions", "absent"],
    "prep pseudo-gt": ["--manifest", "there.jsonl", "--out", "a.jsonl", "--engine", "speech", "--model", "absent"],
    "prep merge": ["--manifest", "absent", "--out", "a.jsonl"],
    "prep pack": ["--manifest", "absent", "--out", "a"],
    "prep join-shards": ["absent"],
    "prep verify": ["absent"],
    "prep conflict-benchmark": ["--manifest", "absent", "--instructions", "absent", "--out", "a"],
    "config": ["absent"],
    "plan": ["absent"],
    "train": ["--config", "config.yaml"],
    "cache-teacher": ["--config", "absent.yaml"],
    "dashboard": ["--mlflow", "sqlite:///absent.db"],
    "import-desta": ["there.jsonl", "--llm", "./absent", "--encoder", "openai/whisper-tiny", "--out", "a"],
    "export": ["absent", "--out", "a"],
    "push": ["absent", "--repo", "a/b"],
    "ask": ["model", "absent.wav", "Who speaks?"],
    "serve": ["absent", "--port", "0"],
    "benchmarks": ["check", "absent"],
    "check-teacher": ["--model", "absent", *BENCHMARK, "--instructions", "absent"],
    "evaluate": ["--model", "model", *BENCHMARK, "--out", "a"],
    "speed": ["--models", "teacher=absent", *BENCHMARK],
    "explain": ["--model", "absent", *BENCHMARK, "--items", "a/0", "--out", "a"],
    "compare": ["absent"],
    "report": ["absent", "--out", "a.html"],
}
# Each command in one process, one after the other: what it has imported beyond those before it is its own.
SCRIPT = """
import contextlib, io, json, sys
from caad_ds import cli
from caad_ds.training import train_command
HEAVY, WRONG = json.loads(sys.argv[1])
def heavy():
    return [name for name in HEAVY if name in sys.modules]
found = {}
for name, wrong in WRONG.items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main = train_command.main if name == "train.py" else cli.main
            words = [] if name == "train.py" else name.split()
            try:
                main([*words, "--help"])
            except SystemExit as ended:
                helped = ended.code, heavy()
            status = main([*words, *wrong]), heavy()
        except BaseException as error:
            status = repr(error), heavy()
    found[name] = helped, out.getvalue(), status, err.getvalue()
print(json.dumps(found))
"""


def run(folder: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess:
    """Run Python in a folder."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env=env)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which nothing named `absent` is there, and the other inputs are."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "there.jsonl").write_text('{"id": "a", "audios": [{"path": "a.wav"}]}\n')
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text("{}")
    (folder / "config.yaml").write_text(
        "{run: {output_dir: a}, data: {train: absent}, student: {path: absent}, teacher: {path: absent}, "
        "optimizer: {steps: 1}}"
    )
    return folder


@pytest.fixture(scope="module")
def answers(folder):
    """By command: status and heavy imports of its help, the help text, and the same for a wrong path."""
    commands = WRONG | {"train.py": WRONG["train"]}
    ended = run(folder, "-c", SCRIPT, json.dumps([HEAVY, commands]))
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("name", [*cli.COMMANDS, "train.py"])
def test_help_and_a_wrong_path_import_nothing_heavy(answers, name):
    helped, text, ended, error = answers[name]
    assert helped == [0, []] and text.startswith(f"usage: {name if name == 'train.py' else f'caad-ds {name}'}")
    assert ended == [2, []]
    [line] = error.splitlines()
    assert line.startswith("caad-ds: error: ") and ("absent" in line or name in ("prep synthesize", "prep merge"))


def test_python_m_answers_as_the_console_script(folder):
    ended = run(folder, "-X", "importtime", "-m", "caad_ds", "help", "evaluate")
    modules = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert ended.returncode == 0 and ended.stdout.startswith("usage: caad-ds evaluate ")
    assert "caad_ds.cli" in modules and not modules & set(HEAVY)


def test_version_and_help(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"caad-ds {__version__}\n"
    assert cli.main(["help"]) == 0
    assert "prep describe" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["evaluate", "--help"]])
def test_a_reader_that_has_gone_is_no_error(folder, arguments):
    """As in `caad-ds --help | head -0`."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "caad_ds", *arguments]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}  # what is held back counts
    env["PYTHONPATH"] = str(ROOT)
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False, env=env)
    os.close(write)
    # argparse itself drops what it cannot write.
    assert ended.returncode in (0, 141) and ended.stderr == ""


@pytest.mark.parametrize(("arguments", "status"), [("--version", 0), ("absent", 2)])
def test_a_closed_output_is_no_error(folder, arguments, status):
    """As a service may start it: Python then has no `sys.stdout` at all."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f'exec "{sys.executable}" -m caad_ds {arguments} >&-'
    ended = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=60, check=False, env=env)
    assert ended.returncode == status and "Traceback" not in ended.stderr


def test_an_unknown_option_names_the_nearest(capsys):
    assert cli.main(["evaluate", "--model", ".", "--bathc-size", "3"]) == 2
    assert "caad-ds: error: " in capsys.readouterr().err
    assert cli.main(["prep", "join-shards", "a", "--debgu"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("unrecognized arguments: --debgu (did you mean --debug?); see caad-ds prep join-shards --help")


def test_a_word_too_many_names_what_is_taken(capsys):
    takes = {
        "one CONFIG": ["plan", "a.yaml", "b.yaml"],
        "options alone": ["train", "--config=x", "y"],
    }
    for taken, words in takes.items():
        assert cli.main(words) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert f"unrecognized arguments: {words[-1]} (it takes {taken}); see caad-ds {words[0]} --help" in line


@pytest.mark.skipif(find_spec("argcomplete") is None, reason="argcomplete is not installed")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("caad-ds eval", "evaluate"),
        ("caad-ds prep ver", "verify"),
        ("caad-ds evaluate --cont", "--contrast-alpha"),
    ],
)
def test_the_shell_completes(folder, typed, expected):
    asked = {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(folder / "completions"), "COMP_LINE": typed,
        "COMP_POINT": str(len(typed)), "_ARGCOMPLETE_IFS": "\n",
    }  # fmt: skip
    ended = run(folder, "-X", "importtime", "-m", "caad_ds", env=asked)
    assert expected in (folder / "completions").read_text().split()
    assert not {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()} & set(HEAVY)
