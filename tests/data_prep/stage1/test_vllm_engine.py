"""The vLLM engine, on a CPU or a GPU: answers, rejected records, and resuming after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from tests.data_prep.lines import read
from tests.data_prep.llm import TEMPLATE, make_llm
from tests.data_prep.questions import question

if not find_spec("vllm"):
    pytest.skip("vLLM is not installed: docs/corpora.md says how", allow_module_level=True)

REFUSING = "{% if 'clip 7 ' in messages[0]['content'] %}{{ raise_exception('no clip 7') }}{% endif %}" + TEMPLATE
SAMPLED = ("--temperature", "0.8", "--top-p", "0.9")
OUTPUTS = ("answered.jsonl", "answered.rejected.jsonl")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    """A random Llama that ends some of its answers in time; vLLM's kernels for CPUs want heads of 32 at least."""
    folder = make_llm(tmp_path_factory.mktemp("llm"), eager=4, heads=1)
    (folder / "chat_template.jinja").write_text(REFUSING)
    generation = folder / "generation_config.json"
    generation.write_text(json.dumps(json.loads(generation.read_text()) | {"repetition_penalty": 1.2}))
    return folder


@pytest.fixture
def command(tmp_path, llm):
    """The command line of a run that writes `FOLDER/answered.jsonl`."""

    def line(source, folder, *options, engine="vllm", model=llm) -> list[str]:
        out = tmp_path / folder / "answered.jsonl"
        given = ("--manifest", source, "--out", out, "--engine", engine, "--model", model, "--dtype", "float32")
        start = [sys.executable, "-m", "caad_ds.cli", "prep", "pseudo-gt", "--max-new-tokens", "24"]
        return [*start, *map(str, (*given, *options))]

    return line


def run(line, status=0) -> str:
    """What the run says on stderr."""
    ended = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"})
    assert ended.returncode == status, ended.stderr
    assert all("answered." in line for line in ended.stdout.splitlines()), ended.stdout
    return ended.stderr


def test_greedy_answers_and_rejects_are_those_of_transformers(tmp_path, write_lines, command):
    rows = [question(number) for number in range(40)]
    rows[5]["seed_description"] += " and so on" * 400
    source = write_lines("described.jsonl", rows)
    said = run(command(source, "vllm")).splitlines()
    assert said[0].startswith("loading ") and all(line.startswith(("loading ", "pseudo ground")) for line in said)
    run(command(source, "transformers", "--device", "cpu", engine="transformers"))
    for name in OUTPUTS:
        assert (tmp_path / "vllm" / name).read_bytes() == (tmp_path / "transformers" / name).read_bytes()
    assert len({row["response"] for row in read(tmp_path / "vllm/answered.jsonl")}) > 3
    reasons = {row["id"]: row["reason"] for row in read(tmp_path / "vllm/answered.rejected.jsonl")}
    assert "leaves no room in 2048" in reasons.pop("clip5")
    assert reasons.pop("clip7") == "record: no clip 7"
    assert set(reasons.values()) == {"truncated: it did not end within 24 tokens"}


def test_a_killed_part_draws_the_same_answers(tmp_path, write_lines, command):
    source = write_lines("described.jsonl", [question(number) for number in range(2100)])
    run(command(source, "whole", *SAMPLED))
    first, second = (command(source, "parts", *SAMPLED, "--shard", f"{part}/2") for part in range(2))
    journal = tmp_path / "parts/answered.00000-of-00002.partial.jsonl"
    process = subprocess.Popen(first, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 100):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    run(first)
    run(second)
    merge = [sys.executable, "-m", "caad_ds.cli", "prep", "merge", "--manifest", source]
    subprocess.run([*merge, "--out", tmp_path / "parts/answered.jsonl"], check=True)
    for name in OUTPUTS:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_model_that_is_not_there_ends_in_one_line(tmp_path, write_lines, command):
    source = write_lines("described.jsonl", [question(0)])
    absent = tmp_path / "absent/llm"
    *_, last = said = run(command(source, "out", model=absent), status=2).splitlines()
    assert last.startswith(f"caad-ds: error: --model {absent}: ")
    assert all(line.startswith("loading ") for line in said[:-1])
