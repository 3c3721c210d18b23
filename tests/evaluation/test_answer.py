"""A loaded model answers a recording as an evaluation answers the same item of a benchmark."""

import json
import threading
from itertools import zip_longest

import numpy as np
import pytest
import soundfile

import caad_ds
from caad_ds import cli
from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark
from caad_ds.utils.errors import UserError

LENGTH = 8


@pytest.fixture(scope="module")
def model(model_folder):
    return caad_ds.load(model_folder, device="cpu")


@pytest.fixture
def clip(conflicts):
    return next(iter(Benchmark.load(conflicts).rows)).clip.path


@pytest.mark.parametrize(
    "contrast",
    [
        {},
        {"contrast_alpha": 1.5, "negative": "silence", "plausibility": 0.01},
        {"contrast_alpha": 4.0, "alpha_gate": "text_certainty", "gate_m": 40.0},
    ],
)
def test_an_answer_is_the_prediction_that_evaluate_writes(model, model_folder, conflicts, tmp_path, contrast):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in contrast.items()]
    argv = ["--model", model_folder, "--benchmark", conflicts, "--out", tmp_path / "run", "--device", "cpu"]
    argv += ["--max-new-tokens", LENGTH, "--batch-size", 1, *flags]
    assert cli.main(["evaluate", *map(str, argv)]) == 0
    lines = map(json.loads, (tmp_path / "run/predictions.jsonl").read_text().splitlines())
    written = {(line["id"], line["condition"]): line["prediction"] for line in lines}
    said = {
        (item.id, item.condition): model.answer(
            item.clips[0].path, item.question, item.clips[0].text, hint=item.hint, max_new_tokens=LENGTH, **contrast
        )
        for item in Benchmark.load(conflicts).items
    }
    assert said == written and len(set(said.values())) > 4


def test_samples_in_memory_are_answered_as_their_file(model, clip, tmp_path):
    def said(audio):
        return model.answer(audio, "who speaks ?", max_new_tokens=LENGTH)

    floats, rate = soundfile.read(clip, dtype="float32")
    integers, _ = soundfile.read(clip, dtype="int16")
    assert said(clip) == said(str(clip)) == said((floats, rate)) == said((integers, rate)) == said(clip.read_bytes())
    stereo = np.stack([floats, floats / 4], 1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 22_050, subtype="FLOAT")
    assert said((stereo, 22_050)) == said(tmp_path / "stereo.wav") != said(clip)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ("absent.wav", "audio absent.wav: there is no such file"),
        ((np.zeros((2, 9000), np.float32), 16_000), r"samples of shape \(2, 9000\); give \[frames\]"),
        ((np.zeros(9000, bool), 16_000), "samples of type bool; give floats"),
        ((np.zeros(9000), 16e3), "a sample rate of 16000.0; give a whole number"),
        ((np.zeros(0), 16_000), "the audio is empty"),
        ((np.full(9000, np.nan), 16_000), "values that are not finite"),
        ((np.ones(40_000), 16_000), "its 2.5 s exceed the encoder's window of 1 s"),
        (np.ones(9000), "audio 1: it is a ndarray; give a path"),
        ([np.ones(9000), 16_000], "audio 1: it is a ndarray; give a path"),
        (("a.wav", "b.wav"), "audio 1: it is a tuple; give a path"),
        (([[1.0], [1.0, 2.0]], 16_000), "audio 1: samples that NumPy does not take"),
        (None, "audio 1: it is a NoneType; give a path"),
        (b"", "audio bytes: the bytes are empty"),
        (b"RIFF of something else", "audio bytes: "),
        (["absent.wav", b"x"], "audio absent.wav: there is no such file"),
        ([(np.ones(9000) / 9, 16_000), (np.zeros(0), 16_000)], "audio samples of clip 2: the audio is empty"),
    ],
)
def test_audio_that_cannot_be_heard_is_refused(model, audio, message):
    with pytest.raises(UserError, match=message):
        model.answer(audio, "who speaks ?")
    with pytest.raises(UserError, match=message):
        model.stream(audio, "who speaks ?")  # at once


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "--max-new-tokens 0: give a whole number of at least 1"),
        ({"contrast_alpha": -1.0}, "contrast_alpha -1.0: give a number from 0 to 1000"),
        ({"contrast_alpha": 1e38}, r"contrast_alpha 1e\+38: give a number from 0 to 1000"),
        ({"contrast_alpha": 1.0, "plausibility": 2.0}, r"plausibility 2.0: give a number in \(0, 1\]"),
        ({"plausibility": 0.1}, "plausibility: belongs to contrastive decoding; give contrast_alpha"),
        ({"alpha_gate": "text_certainty"}, "alpha_gate text_certainty: weakens a contrast; give a contrast alpha"),
        ({"contrast_alpha": 1.0, "alpha_gate": "entropy"}, "alpha_gate entropy: give one of none, text_certainty"),
        ({"contrast_alpha": 1.0, "gate_m": 3.0}, "gate_m 3.0: belongs to an alpha gate"),
        ({"contrast_alpha": 1.0, "negative": "quiet"}, "negative 'quiet': not known; use one of zero_mel, silence"),
        ({"text": "<eos>"}, "its transcript 1 holds '<eos>'"),
        ({"text": ["hello", "hello"]}, "text: 2 for 1 clips; give a transcription for each"),
        ({"text": [1]}, "text: a transcription of type int; give texts"),
        ({"temperature": 0.0}, "temperature 0.0: give a finite number of at least 0.001; leave it out for greedy"),
        ({"temperature": 1e-40}, "temperature 1e-40: give a finite number of at least 0.001; leave it out for greedy"),
        ({"temperature": 1.0, "top_p": 0.0}, r"top_p 0.0: give a number in \(0, 1\]"),
        ({"temperature": 1.0, "top_k": 0}, "--top-k 0: give a whole number of at least 1"),
        ({"seed": 1}, "^seed: belongs to sampling; give temperature as well"),
    ],
)
def test_options_that_do_not_fit_are_refused(model, clip, options, message):
    with pytest.raises(UserError, match=message):
        model.answer(clip, "who speaks ?", **options)


@pytest.mark.parametrize("question", ["", " \n", None])
def test_a_question_that_is_empty_is_refused(model, clip, question):
    with pytest.raises(UserError, match=r"^question .*: it is empty; give a text"):
        model.answer(clip, question)


def test_without_audio_there_is_nothing_to_contrast(model):
    assert model.answer([], "who speaks ?", max_new_tokens=LENGTH)
    with pytest.raises(UserError, match=r"^contrast_alpha 1.0: there is no audio to contrast with"):
        model.answer([], "who speaks ?", contrast_alpha=1.0)


def test_clips_are_heard_in_their_order(model, conflicts):
    one, two = [row.clip.path for row in Benchmark.load(conflicts).rows][:2]
    said = {
        model.answer(audio, "how loud is it ?", max_new_tokens=LENGTH)
        for audio in ([one], [two], [one, two], [two, one], [])
    }
    assert len(said) > 3
    assert model.answer([one, two], "who ?", ["hello", "it rains"], max_new_tokens=LENGTH) != model.answer(
        [one, two], "who ?", ["it rains", "hello"], max_new_tokens=LENGTH
    )


def test_streams_of_one_model_do_not_disturb_each_other(model, clip):
    questions = ["who speaks ?", "how loud is it ?", "is it male ?"]
    ends = model.lm.stops
    expected = [model.answer(clip, each, max_new_tokens=40) for each in questions]
    streams = [model.stream(clip, each, max_new_tokens=40) for each in questions]
    parts = list(zip_longest(*streams, fillvalue=""))
    assert ["".join(each) for each in zip(*parts)] == expected and len(parts) > 3
    assert model.lm.stops == ends


def test_a_failing_model_fails_the_stream(model, clip, monkeypatch):
    config = model.lm.generator.generation_config
    steps = []

    def failing(*arguments, forward=model.lm.generator.forward, **options):
        steps.append(1)
        if len(steps) > 6:
            raise ArithmeticError("of the model")
        return forward(*arguments, **options)

    monkeypatch.setattr(model.lm.generator, "forward", failing)
    with pytest.raises(ArithmeticError, match="of the model"):
        list(model.stream(clip, "who speaks ?", max_new_tokens=40))
    assert model.lm.generator.generation_config is config
    assert not [thread for thread in threading.enumerate() if thread.name == "caad-ds answer"]
    monkeypatch.undo()
    assert model.answer(clip, "who speaks ?", max_new_tokens=LENGTH)


def test_doubtful_audio_is_answered_with_a_warning(model):
    with pytest.warns(UserWarning, match="audio samples: silent"):
        model.answer((np.zeros(9000), 16_000), "who speaks ?")


def test_characters_that_the_tokenizer_does_not_know_are_named_once(model, clip, recwarn):
    model.answer(clip, "who sings ?", "who sings", max_new_tokens=LENGTH)
    model.answer(clip, "who speaks ?", "hello", max_new_tokens=LENGTH)
    [warning] = recwarn
    assert str(warning.message).startswith("prompt: this model's tokenizer does not know 'sing' and leaves it out")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"device": "gpu"}, "gpu: not usable here"), ({"dtype": "int8"}, "dtype int8: no floating")],
)
def test_a_device_or_dtype_that_is_none_is_refused(model_folder, options, message):
    with pytest.raises(UserError, match=message):
        caad_ds.load(model_folder, **options)


def test_a_runs_folder_gives_its_model(model_folder, tmp_path):
    (tmp_path / "model").symlink_to(model_folder)
    assert caad_ds.load(tmp_path, device="cpu").lm.module.config.num_queries == 3
