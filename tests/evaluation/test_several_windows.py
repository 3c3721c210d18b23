"""Commands that ask a model, on an Audio Flamingo 3 whose clips have one window or several."""

import json

import numpy as np
import pytest
import soundfile

import caad_ds
from caad_ds import cli
from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark
from caad_ds.utils.errors import UserError
from tests.evaluation.conftest import write_benchmark
from tests.models.families.tiny import audioflamingo3 as tiny_audioflamingo3

LENGTH = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `model`, whose windows are 2 s, and a benchmark of clips of half a second and of 5 s."""
    folder = tmp_path_factory.mktemp("windows")
    tiny_audioflamingo3.write(folder / "model")
    write_benchmark(folder / "benchmark", {"gender": 2})
    write_benchmark(folder / "benchmark", {"noise": 2}, seconds=5)
    return folder


@pytest.fixture(scope="module")
def model(place):
    return caad_ds.load(place / "model", device="cpu")


def evaluated(place, out, *argv, benchmark="benchmark", status=0) -> list[dict]:
    options = "--model", place / "model", "--benchmark", place / benchmark, "--out", out, "--device", "cpu"
    assert cli.main(["evaluate", *map(str, (*options, "--max-new-tokens", LENGTH, *argv))]) == status
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.numeric
@pytest.mark.parametrize("contrast", [{}, {"contrast_alpha": 1.5, "negative": "text_only"}, {"contrast_alpha": 1.5}])
def test_evaluate_and_answer_say_the_same_whatever_is_asked_beside_it(place, model, tmp_path, contrast):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in contrast.items()]
    together, alone = (evaluated(place, tmp_path / str(size), "--batch-size", size, *flags) for size in (8, 1))
    assert together == alone
    written = {(line["id"], line["condition"]): line["prediction"] for line in alone}
    items = Benchmark.load(place / "benchmark").items
    said = {
        (item.id, item.condition): model.answer(
            item.clips[0].path, item.question, item.clips[0].text, hint=item.hint, max_new_tokens=LENGTH, **contrast
        )
        for item in items
    }
    assert said == written and len({*said.values()}) > 4
    counts = {len(model.reader.features([item.clips[0].measured()[0]]).audio["input_features"][0]) for item in items}
    assert counts == {1, 3}


def test_a_clip_beyond_the_most_windows_is_left_out_by_name(place, model, tmp_path):
    long = (np.random.default_rng(0).standard_normal(6 * 16_000 + 1).astype(np.float32) * 0.1, 16_000)
    with pytest.raises(UserError, match="exceed the encoder's window of 6 s"):
        model.answer(long, "who speaks ?")
    write_benchmark(place / "long", {"gender": 2})
    soundfile.write(place / "long/gender/audio/1.wav", *long)
    written = evaluated(place, tmp_path / "out", benchmark="long", status=3)
    assert {line["id"] for line in written} == {"gender/0"}
    rejected = json.loads((tmp_path / "out/scores.json").read_text())["rejected"]
    assert [each["id"] for each in rejected] == ["gender/1"] and "exceed the encoder's window" in rejected[0]["reason"]
