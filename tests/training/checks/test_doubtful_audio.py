"""Training on shards packed without rules: unusable samples are named once, and counted over all ranks."""

import json

import numpy as np
import pytest
import soundfile

from caad_ds.data.audio.usable_audio import ALLOWED, Rules
from data_prep.pack.pack import pack
from tests.training.launching import Run
from tests.training.tiny import ce, records

OFF = {"tracking": {"enabled": False}}


@pytest.mark.parametrize(("reader", "ranks"), [("indexed", 2), ("stream", 1)])
def test_a_silent_sample_is_named_once_and_counted_once_in_two_epochs(world, tmp_path, reader, ranks):
    rows = records(tmp_path, 8)
    for number in (2, 5):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(8_000), 16_000)
    (tmp_path / "answered.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(tmp_path / "answered.jsonl", tmp_path / "shards", rules=Rules(allow=ALLOWED))
    index = tmp_path / "shards/index.json"
    index.write_text(json.dumps({k: v for k, v in json.loads(index.read_text()).items() if k != "rules"}))
    data = {"train": str(tmp_path / "shards"), "reader": reader if reader == "stream" else None}
    data["validation"] = str(world / "shards")
    run = Run(ce(world, tmp_path / "out", data=data, optimizer={"steps": 3, "batch_size": 8}, **OFF), ranks)
    assert run.wait() == [0] * ranks, run.output()
    said = [run.output(rank) for rank in range(ranks)]
    assert all(text.count("silent: all its samples are alike") <= 1 for text in said) and "silent: " in "".join(said)
    assert "samples with audio that `caad-ds prep pack` would reject: silent 2\n" in said[0]
    assert "validation: loss" in said[0] and "kd " not in said[0], "objective ce has no teacher"
