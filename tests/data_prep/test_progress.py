"""Long steps say how far they are, also when nothing comes for a while."""

import time

from data_prep import progress


def test_a_slow_item_does_not_silence_the_report(monkeypatch, capfd):
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.02)

    def slow():
        yield "first"
        time.sleep(0.2)
        yield "second"

    assert list(progress.track(slow(), "a step", 2)) == ["first", "second"]
    assert capfd.readouterr().err.count("a step: 1/2") > 1
