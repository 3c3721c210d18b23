import json
import shutil
import time

import pytest
import torch

from caad_ds import cli
from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark
from caad_ds.evaluation.speed.compare_speed import System
from caad_ds.evaluation.speed.measure import Clock, Meter
from caad_ds.evaluation.speed.speed_tables import speed_legend, speed_rows
from caad_ds.generation.decoding import Contrast, generate
from caad_ds.generation.model import Model
from caad_ds.models.speech_lm.folder import load
from caad_ds.utils.memory import MIB, PeakMemory


@pytest.fixture
def benchmark(make_benchmark):
    return make_benchmark("benchmark", {"gender": 3, "noise": 2})


@pytest.fixture
def run(model_folder, benchmark, tmp_path):
    def run(command, *argv):
        given = ["--benchmark", benchmark, "--device", "cpu", *argv]
        return cli.main([command, *map(str, given)])

    return run


def parameters(folder):
    model, encoder, _ = load(folder)
    return sum(p.numel() for part in (model, encoder) for p in part.parameters())


def test_evaluate_notes_the_speed_of_full_batches_after_the_first(run, model_folder, tmp_path, capsys):
    evaluated = "--model", model_folder, "--out", tmp_path / "run", "--batch-size", 6
    assert run("evaluate", *evaluated) == 0
    assert "tokens/s, batch 6" in capsys.readouterr().out
    speed = json.loads((tmp_path / "run" / "scores.json").read_text())["speed"]
    assert speed["parameters"]["total"] == parameters(model_folder)
    # Buffers, such as positions of the encoder and the tables of rotary positions, come on top of parameters.
    assert speed["memory_mib"]["weights"] == pytest.approx(4 * parameters(model_folder) / MIB, rel=0.05)
    assert speed["dtype"] == "float32" and speed["threads"] == torch.get_num_threads() and "CPU" in speed["device"]
    [timed] = speed["runs"]
    assert (timed["batch_size"], timed["batches"]) == (6, 2), "20 items: the first batch warms up, the last is short"
    for figure in (timed["tokens_per_second"], timed["first_token_ms"]):
        assert 0 < figure["low"] <= figure["median"] <= figure["high"]
    assert run("evaluate", *evaluated) == 0
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["speed"] == speed, "nothing was left to measure"


def test_the_clock_counts_what_was_said_and_when(model_folder):
    clock = Clock(Model.load(model_folder, torch.device("cpu")), rows=2)
    clock.put(torch.empty(4, 0))
    for tokens in ([5, 5, 5, 5], [0, 5, 0, 5], [0, 5, 0, 5]):
        time.sleep(0.05)
        clock.put(torch.tensor(tokens))
    timing = clock.timing
    assert timing.tokens == 2 + 3, "an end counts, padding and the path without audio do not"
    assert 0.05 <= timing.first < timing.last - 0.09 < 1


def test_too_few_batches_measure_nothing(model_folder):
    meter = Meter(Model.load(model_folder, torch.device("cpu")), 4)
    with meter.batch(4):
        pass
    assert meter.summary() is None


def test_table_of_models_with_and_without_contrast(run, model_folder, tmp_path, capsys):
    shutil.copytree(model_folder, tmp_path / "other")
    models = f"teacher={model_folder}", f"student={tmp_path / 'other'}"
    gate = "--alpha-gate", "text_certainty", "--gate-m", 40
    options = "--contrast-alpha", 1, *gate, "--batch-size", 4, "--tokens", 3, "--rounds", 2, "--out", tmp_path / "speed"
    assert run("speed", "--models", *models, *options) == 0
    saved = json.loads((tmp_path / "speed" / "speed.json").read_text())
    names = [
        f"{name}{contrasted}"
        for name in ("teacher", "student")
        for contrasted in ("", " + CD 1 zero_mel text_certainty 40")
    ]
    assert list(saved["systems"]) == names
    for speed in saved["systems"].values():
        assert [(r["batch_size"], r["batches"]) for r in speed["runs"]] == [(1, 2), (4, 2)]
        assert all(timed["encoder_ms"]["median"] > 0 for timed in speed["runs"])
    text = (tmp_path / "speed" / "speed.md").read_text()
    shown = [name for size in (1, 4) for name in (f"tokens/s, batch {size}", f"x tokens/s, batch {size}")]
    assert f"| system | parameters M | memory MiB | {' | '.join(shown)} |" in text
    assert all(f"| {name} |" in text for name in names) and "2 rounds, 3 tokens an answer" in text
    assert "student + CD" in capsys.readouterr().out


def test_every_system_says_as_many_tokens(model_folder, benchmark):
    loaded = Model.load(model_folder, torch.device("cpu"))
    items = [item for row in Benchmark.load(benchmark).rows for item in row.items()]
    clips = loaded.clips()
    likeliest = generate(loaded.lm, clips.prompts(clips.encode(items)), max_new_tokens=1)
    loaded.lm.generator.generation_config.eos_token_id = likeliest.flatten().tolist()  # every answer would end at once
    for contrasted in (None, Contrast(1.0, "silence"), Contrast(1.0, "shuffled")):
        for asked in (items, items[:1]):
            seconds, timing = System(loaded, contrasted, items).answer(asked, 5)
            assert timing.tokens == 5 * len(asked)
            assert 0 < timing.first < timing.last and seconds > 0


def test_ratios_are_to_the_first_system():
    def speed(median, batch=8):
        figure = {"median": median, "low": median, "high": median}
        run = {"batch_size": batch, "batches": 3, "tokens_per_second": figure, "first_token_ms": figure}
        where = {"device": "a CPU", "threads": 2, "dtype": "float32"}
        return {"parameters": {"total": 2e6}, "memory_mib": {"weights": 8.0, "working": None}, "runs": [run], **where}

    two = {"teacher": speed(100.0), "student": speed(250.0)}
    header, rows = speed_rows(two)
    assert "; x: against the first system." in speed_legend(two)
    assert header[3:7] == [
        "tokens/s, batch 8",
        "x tokens/s, batch 8",
        "first token ms, batch 8",
        "x first token ms, batch 8",
    ]
    assert rows[0][:5] == ["teacher", "2", "8 + ?", "100 [100, 100]", "1.00"]
    assert rows[1][4] == "2.50" and rows[1][-1] == "a CPU, threads: 2, float32"
    header, rows = speed_rows({"teacher": speed(100.0), "other batch": speed(9.0, batch=2)})
    assert rows[0][3:7] == ["-", "-", "100 [100, 100]", "1.00"] and rows[1][4] == "-", "nothing to compare with"
    one = {"teacher": speed(100.0)}
    assert speed_rows(one)[0][3:5] == ["tokens/s, batch 8", "first token ms, batch 8"]
    assert "x:" not in speed_legend(one), "a legend of a column that is not there"


def test_compare_prints_sizes_and_no_speeds_of_different_moments(run, model_folder, tmp_path, capsys):
    for name in ("a", "b"):
        options = "--out", tmp_path / name, "--name", name, "--batch-size", 5
        assert run("evaluate", "--model", model_folder, *options, "--temperature", 1, "--seed", ord(name)) == 0
    capsys.readouterr()
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "table")]) == 0
    text = (tmp_path / "table" / "table.md").read_text()
    for shown in (text, capsys.readouterr().out):
        assert not [line for line in shown.splitlines() if "tokens/s" in line or " x " in line]
        assert "`caad-ds speed` measures systems in turns" in shown
    assert "| system | parameters M | memory MiB | device |" in text
    assert set(json.loads((tmp_path / "table" / "table.json").read_text())["speed"]) == {"a", "b"}


def test_mistakes_of_the_user(run, model_folder, benchmark, capsys):
    def refused(*argv):
        assert run("speed", *argv) == 2
        return capsys.readouterr().err

    model = f"teacher={model_folder}"
    assert "--models teacher: give NAME=MODEL" in refused("--models", "teacher")
    assert "each name once" in refused("--models", model, model)
    assert "give --batch-size 20" in refused("--models", model, "--batch-size", 21)
    gate = "--alpha-gate", "text_certainty"
    assert "--alpha-gate text_certainty: weakens a contrast" in refused("--models", model, *gate)
    assert "--contrast-alpha 0" in refused("--models", model, "--contrast-alpha", 0)
    (benchmark / "gender" / "audio" / "0.wav").write_bytes(b"")
    assert "0.wav" in refused("--models", model, "--batch-size", 2)


def test_peak_memory_is_that_of_the_work():
    peak = PeakMemory("cpu")
    if peak.mib() is None:
        pytest.skip("the platform does not tell its peak memory")
    torch.ones(64 * MIB // 4).sum()
    assert 60 < peak.mib() < 100
    assert PeakMemory("cpu").mib() < 30, "a new one starts from what is held now"
