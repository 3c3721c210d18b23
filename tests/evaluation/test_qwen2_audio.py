"""Every command that asks a model, on a Qwen2-Audio with its real processor, as on our own family."""

import json
import shutil

import pytest

from caad_ds import cli
from caad_ds.data.audio_markers import user_content
from tests.evaluation.conftest import write_benchmark
from tests.evaluation.test_hub_ids import INSTRUCTIONS
from tests.models.families.tiny import qwen2_audio as tiny_qwen2_audio

NEGATIVES = ["zero_mel", "silence", "noise", "text_only", "shuffled"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `teacher` and `student`, a benchmark of clips of half a second, and instructions."""
    folder = tmp_path_factory.mktemp("commands")
    tiny_qwen2_audio.write(folder / "teacher")
    tiny_qwen2_audio.write(folder / "student", hidden=16, seed=1)
    write_benchmark(folder / "benchmark", {"gender": 3})
    (folder / "i.yaml").write_text(INSTRUCTIONS)
    return folder


@pytest.fixture
def done(place):
    def done(command: str, *argv) -> None:
        assert cli.main([*command.split(), *map(str, argv), "--device", "cpu"]) == 0

    return done


def arguments(place, model: str = "teacher") -> list:
    return ["--model", place / model, "--benchmark", place / "benchmark"]


@pytest.mark.numeric
def test_evaluate_with_and_without_a_contrast_and_compare(place, done, tmp_path):
    predictions = {}
    for name, contrast in {"plain": [], **{n: ["--contrast-alpha", 1.5, "--negative", n] for n in NEGATIVES}}.items():
        for size in (5, 1):
            out = tmp_path / f"{name}-{size}"
            done("evaluate", *arguments(place), "--out", out, "--max-new-tokens", 6, "--batch-size", size, *contrast)
            predictions[name, size] = (out / "predictions.jsonl").read_text()
        assert predictions[name, 5] == predictions[name, 1]
        assert name == "plain" or predictions[name, 1] != predictions["plain", 1]
    runs = [tmp_path / f"{name}-5" for name in ("plain", "zero_mel")]
    assert cli.main(["compare", *map(str, runs), "--out", str(tmp_path / "compared")]) == 0


def test_check_teacher_with_every_negative(place, done, tmp_path):
    out = tmp_path / "check.json"
    options = "--instructions", place / "i.yaml", "--max-new-tokens", 2, "--alphas", 1, "--negatives", *NEGATIVES
    done("check-teacher", *arguments(place), *options, "--out", out)
    result = json.loads(out.read_text())
    assert result["model"] == "teacher" and not result["rejected"]
    assert len(result["signals"]) == 1 + 2 * len(NEGATIVES)


def test_explain_a_student_beside_its_teacher(place, done, tmp_path):
    shown = "--teacher", place / "teacher", "--items", "gender/0:neutral", "--max-new-tokens", 2
    done("explain", *arguments(place, "student"), *shown, "--out", tmp_path)
    assert json.loads((tmp_path / "gender_0.neutral.json").read_text())["signals"][-1] == "student"


def test_speed_of_both(place, done, tmp_path):
    models = [f"{name}={place / name}" for name in ("teacher", "student")]
    counts = "--batch-size", 2, "--tokens", 2, "--rounds", 1, "--contrast-alpha", 1
    done("speed", "--models", *models, "--benchmark", place / "benchmark", *counts, "--out", tmp_path)
    speeds = json.loads((tmp_path / "speed.json").read_text())
    assert "teacher + CD 1 zero_mel" in json.dumps(speeds)


def test_stage_1_from_the_audio(place, done, tmp_path):
    """A model of which every fourth token ends an answer: random weights would say no end."""
    model = shutil.copytree(place / "teacher", tmp_path / "model")
    settings = model / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"eos_token_id": [*range(0, 300, 4)]}))
    prompts = [user_content(question) for question in ("who speaks ?", "how loud ?", "is it high ?", "rain ?")]
    rows = [
        {
            "id": f"{clip}-{number}",
            "audios": [{"path": str(place / f"benchmark/gender/audio/{clip}.wav")}],
            "messages": [{"role": "user", "content": prompt}],
            "seed_description": "(Gender: male)",
        }
        for clip in range(3)
        for number, prompt in enumerate(prompts)
    ]
    manifest, out = tmp_path / "described.jsonl", tmp_path / "answered.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = "--manifest", manifest, "--out", out, "--max-new-tokens", 32
    done("prep pseudo-gt", "--engine", "speech", "--model", model, *options)
    answered = [json.loads(line) for line in out.read_text().splitlines()]
    assert answered and all(row["response"] for row in answered)
