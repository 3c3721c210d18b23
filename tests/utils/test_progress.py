"""Long steps say how far they are, also when nothing comes for a while."""

import io
import time

import pytest

from caad_ds.utils import progress
from caad_ds.utils.progress import Heartbeat, track, waiting


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(progress, "BEAT_SECONDS", 0.05)


def test_a_slow_item_does_not_silence_the_report(capfd):
    def slow():
        yield "first"
        time.sleep(0.4)
        yield "second"

    assert list(track(slow(), "a step", 2)) == ["first", "second"]
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("a step: 0/2") and lines[-1].startswith("a step: 2/2")
    assert sum(line.startswith("a step: 1/2") for line in lines) > 1


def test_the_last_count_is_said_once_where_a_beat_has_said_it(capfd, monkeypatch):
    monkeypatch.setattr(progress, "BEAT_SECONDS", 0.3)
    with progress.progress("a step", 2) as advance:
        advance(2)
        time.sleep(0.4)  # a beat, and no second one
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["a step: 0/2", "a step: 2/2"]


def test_what_is_mostly_short_speaks_only_where_it_is_long(capfd):
    with waiting("reading"):
        pass
    assert capfd.readouterr().err == ""
    with waiting("reading"):
        time.sleep(0.3)
    assert set(capfd.readouterr().err.splitlines()) == {"reading (0 s so far)"}


def test_a_heartbeat_speaks_only_where_nothing_else_did():
    stream = io.StringIO()
    with Heartbeat(stream=stream) as heart:
        heart.begin("loading")
        for n in range(8):
            heart.say(f"line {n}")
            time.sleep(0.01)
        heart.set_activity(lambda: "compiling")
        time.sleep(0.3)
    lines = stream.getvalue().splitlines()
    assert lines[:9] == ["loading", *(f"line {n}" for n in range(8))]
    assert set(lines[9:]) == {"compiling (0 s so far)"} and len(lines) > 10
    silent = io.StringIO()
    with Heartbeat(stream=silent, enabled=False) as heart:
        heart.say("line")
        time.sleep(0.1)
    assert silent.getvalue() == ""
