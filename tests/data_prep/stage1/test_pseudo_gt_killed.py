"""kill -9 at random moments, and again: what comes out is what an undisturbed run gives."""

import multiprocessing
import random
import signal
import time
from contextlib import suppress
from multiprocessing import forkserver

import pytest

from caad_ds import cli
from tests.data_prep.llm import make_llm
from tests.data_prep.questions import question

# Children are forked from a process that has imported this once.
PROCESSES = multiprocessing.get_context("forkserver")
IMPORTS = ["__main__", "data_prep.stage1.pseudo_gt"]
LLM_IMPORTS = [
    "caad_ds.generation.sampling",
    "caad_ds.models.pretrained",
    "transformers.models.llama.modeling_llama",
]
OUTPUTS = ("answered.jsonl", "answered.rejected.jsonl", "answered.settings.json")


@pytest.fixture(scope="module", autouse=True)
def own_server():
    """There is one fork server in a process: it ends here, since the tests of training want one with other imports."""
    server = forkserver._forkserver
    imports = server._preload_modules
    yield
    server._stop()
    server.set_forkserver_preload(imports)


def start(arguments, out):
    process = PROCESSES.Process(target=cli.main, args=([*map(str, arguments), "--out", str(out)],))
    process.start()
    return process


def finish(arguments, out) -> float:
    """Seconds that a run takes which is left alone."""
    began = time.monotonic()
    process = start(arguments, out)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began


def whole(folder):
    """The outputs' bytes."""
    return [(folder / name).read_bytes() for name in OUTPUTS]


def killed(process, journal, lines, seconds) -> bool:
    """Kill a run when its journal holds so many lines, or after so many seconds; False if it ended before."""
    deadline = time.monotonic() + seconds
    while process.exitcode is None and time.monotonic() < deadline:
        with suppress(FileNotFoundError):  # not yet there, or already renamed
            if journal.read_bytes().count(b"\n") >= lines:
                break
        time.sleep(0.001)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def kill_and_compare(arguments, folder, records, kills):
    """Kill runs at random moments, start each again until it ends, and compare with one that was left alone."""
    finish(arguments, folder / "warm-up/answered.jsonl")  # the first child waits for the imports
    seconds = finish(arguments, folder / "whole/answered.jsonl")
    moments, done, attempt = random.Random(0), 0, 0
    while done < kills:
        attempt += 1
        out = folder / f"killed{attempt}/answered.jsonl"
        for _ in range(2):
            at = moments.randint(0, 2 * records), moments.uniform(0, 1.5 * seconds)
            done += killed(start(arguments, out), out.with_name("answered.partial.jsonl"), *at)
        finish(arguments, out)
        assert whole(out.parent) == whole(folder / "whole")
        assert not list(out.parent.glob("answered.partial.jsonl"))


@pytest.mark.slow
def test_a_killed_llm_gives_the_same_bytes(tmp_path, write_lines):
    PROCESSES.set_forkserver_preload(IMPORTS + LLM_IMPORTS)
    manifest = write_lines("described.jsonl", [question(number) for number in range(45)])
    llm = make_llm(tmp_path / "llm", eager=4)
    engine = ["--engine", "transformers", "--device", "cpu", "--model", llm, "--max-new-tokens", 24, "--batch-size", 3]
    sampled = ["--temperature", 1, "--top-p", 0.9]
    kill_and_compare(["prep", "pseudo-gt", "--manifest", manifest, *engine, *sampled], tmp_path, 45, 20)


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_gives_the_same_bytes(tmp_path, write_lines, kills):
    PROCESSES.set_forkserver_preload(IMPORTS)
    rows = [question(number) for number in range(2000)]
    for row in rows[::50]:
        row["metadata"]["prompt"]["statement"] = "I'm sorry, but I can't tell."
    manifest = write_lines("described.jsonl", rows)
    kill_and_compare(["prep", "pseudo-gt", "--manifest", manifest, "--engine", "template"], tmp_path, 2000, kills)
