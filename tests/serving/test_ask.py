"""`caad-ds ask` prints the answers of `Model.answer`, and one line per error."""

import io
import re

import numpy as np
import pytest
import soundfile

import caad_ds
from caad_ds import cli
from caad_ds.generation.model import Model
from caad_ds.serving import ask
from caad_ds.utils.errors import UserError
from tests.command import run_command
from tests.models.families.tiny import qwen2_audio as tiny_qwen2_audio

QUESTION = "who speaks ?"
LENGTH = 8
SHORT = ("--max-new-tokens", LENGTH, "--device", "cpu")


@pytest.fixture(scope="module")
def model(model_folder):
    return caad_ds.load(model_folder, device="cpu")


@pytest.fixture(scope="module")
def qwen2_audio(tmp_path_factory):
    """A model whose prompts hold no transcription."""
    return tiny_qwen2_audio.write(tmp_path_factory.mktemp("qwen2_audio"))


@pytest.fixture
def without_weights(monkeypatch):
    """Any loading of weights fails the test."""

    def load(*arguments):
        raise AssertionError("the weights are loaded")

    monkeypatch.setattr(Model, "load", load)


def typed(monkeypatch, text: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hint": "it rains ."},
        {"temperature": 1.5, "top_p": 0.9, "top_k": 20, "seed": 5},
        {"contrast_alpha": 1.5, "negative": "silence", "plausibility": 0.01},
        {"contrast_alpha": 4.0, "alpha_gate": "text_certainty", "gate_m": 40.0},
    ],
)
def test_the_answer_is_that_of_the_function(model, model_folder, clips, capsys, options):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    for audio in [*([clip] for clip in clips), clips]:
        assert run_command(ask, model_folder, *audio, QUESTION, *flags, *SHORT) == 0
        said = model.answer([*audio], QUESTION, max_new_tokens=LENGTH, **options)
        printed = capsys.readouterr()
        assert printed.out == f"{said}\n" and "Traceback" not in printed.err


def test_the_bytes_of_a_file_are_answered_as_the_file(model, clips):
    said = [model.answer(clip, QUESTION, max_new_tokens=LENGTH) for clip in clips]
    assert [model.answer(clip.read_bytes(), QUESTION, max_new_tokens=LENGTH) for clip in clips] == said
    assert len({*said}) > 1


def test_texts_stand_beside_their_clips(model, model_folder, clips, capsys):
    texts = ["hello", "it rains"]
    flags = [f"--text={text}" for text in texts]
    assert run_command(ask, model_folder, *clips[:2], QUESTION, *flags, *SHORT) == 0
    said = model.answer(clips[:2], QUESTION, texts, max_new_tokens=LENGTH)
    assert capsys.readouterr().out == f"{said}\n"
    others = [model.answer(clips[:2], QUESTION, given, max_new_tokens=LENGTH) for given in (None, texts[::-1])]
    assert said not in others


def test_questions_of_standard_input_are_answered_one_by_one(model, model_folder, clips, capsys, monkeypatch):
    lines = [b"\xef\xbb\xbfwho speaks ?", b"", b"how loud is it ?\r", b"\xff\xfe", b"who <eos> ?", b"who <|AUDIO|> ?"]
    typed(monkeypatch, b"\n".join([*lines, b"is the speaker male ?"]))
    encoded = []
    monkeypatch.setattr(Model, "clips", lambda self, clips=Model.clips: encoded.append(made := clips(self)) or made)
    assert run_command(ask, model_folder, clips[0], "-", *SHORT) == 2
    printed = capsys.readouterr()
    asked = ["who speaks ?", "how loud is it ?", "is the speaker male ?"]
    assert printed.out.splitlines() == [model.answer(clips[0], each, max_new_tokens=LENGTH) for each in asked]
    failed = [line for line in printed.err.splitlines() if "error" in line]
    assert [re.match(r"caad-ds: error: question (\d): ", line)[1] for line in failed] == ["2", "4", "5", "6"]
    assert "question 2: it is empty; give" in failed[0] and "not UTF-8" in failed[1]
    assert "'<eos>'" in failed[2] and "<|AUDIO|>" in failed[3]
    assert len(encoded) == 4, "one for the command, which encodes its clip once"


def test_questions_that_are_all_answered_end_with_0(model_folder, clips, monkeypatch, capsys):
    typed(monkeypatch, b"who speaks ?\nhow loud is it ?\n")
    assert run_command(ask, model_folder, clips[0], "-", *SHORT) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_second_model_answers_too(model, model_folder, qwen2_audio, clips, capsys):
    texts = "--text=hello", "--text="
    assert run_command(ask, model_folder, *clips[:2], QUESTION, *texts, "--vs", qwen2_audio, *SHORT) == 0
    printed = capsys.readouterr()
    second = caad_ds.load(qwen2_audio, device="cpu").answer(clips[:2], QUESTION, max_new_tokens=LENGTH)
    first = model.answer(clips[:2], QUESTION, ["hello", None], max_new_tokens=LENGTH)
    found = re.fullmatch(r"(.*): (.*)  \(\d+\.\d\d s\)\n(.*): ((?s:.*))  \(\d+\.\d\d s\)\n", printed.out)
    assert found.groups() == (str(model_folder), first, str(qwen2_audio), second)
    assert f"the prompt of {qwen2_audio} holds no transcription" in printed.err


def test_a_doubtful_clip_is_named_once(model_folder, tmp_path, capsys, monkeypatch):
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 16_000)
    typed(monkeypatch, b"who speaks ?\nhow loud is it ?\n")
    assert run_command(ask, model_folder, tmp_path / "silent.wav", "-", *SHORT) == 0
    assert capsys.readouterr().err.count("silent.wav: silent: ") == 1


def test_characters_that_the_tokenizer_does_not_know_are_named(model_folder, clips, capsys):
    assert run_command(ask, model_folder, clips[0], "who sings ?", "--hint", "A .", *SHORT) == 0
    assert capsys.readouterr().err.count("prompt: this model's tokenizer does not know 'Asing'") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.wav", QUESTION], r"^absent.wav: no such file or folder"),
        ([".", QUESTION], r"^audio \.: it is a folder"),
        (["text.wav", QUESTION], r"^audio text.wav: .*; give another file$"),
        (["empty.wav", QUESTION], r"^audio empty.wav: the file is empty"),
        (["long.wav", QUESTION], r"^audio long.wav: its 1.5 s exceed the encoder's window of 1 s; cut it"),
        (["one.wav", " "], r"^QUESTION: it is empty"),
        (["one.wav", "who <eos> ?"], r"one.wav: .*'<eos>'"),
        (["one.wav", "two <|AUDIO|> ?"], r"one.wav: .*<\|AUDIO\|>"),
        (["one.wav", QUESTION, "--text=a", "--text=b"], r"^--text: 2 for 1 clips"),
        (["one.wav", QUESTION, "--text=a", "--transcribe"], r"^--text, --transcribe: "),
        (["one.wav", QUESTION, "--seed=3"], r"^--seed: belongs to sampling; give --temperature"),
        (["one.wav", QUESTION, "--temperature=-1"], r"^--temperature -1.0: give a finite number of at least 0.001"),
        (["one.wav", QUESTION, "--plausibility=0.1"], r"^--plausibility: belongs to contrastive decoding"),
        (["one.wav", QUESTION, "--negative=silence"], r"^--negative silence: belongs to contrastive decoding"),
        (["one.wav", QUESTION, "--contrast-alpha=1", "--negative=shuffled"], r"^--negative shuffled: "),
        (["one.wav", QUESTION, "--alpha-gate=text_certainty"], r"^--alpha-gate text_certainty: weakens"),
        (["one.wav", QUESTION, "--device=gpu"], r"^--device gpu: not usable here"),
        (["one.wav", QUESTION, "--vs=absent"], r"^absent: no such folder"),
        (
            ["one.wav", QUESTION, "--transcribe"],
            r"^--transcribe: the encoder of .* without Whisper's decoder; name",
        ),
        (["one.wav", QUESTION, "--transcribe=./absent"], r"^./absent: no such folder, expected an ASR model"),
    ],
)
def test_bad_input_is_refused_before_weights_are_loaded(
    model_folder, clips, without_weights, monkeypatch, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.wav").write_text("this is text, not audio\n" * 100)
    (tmp_path / "empty.wav").touch()
    soundfile.write("long.wav", np.random.default_rng(0).standard_normal(24_000) / 10, 16_000)
    with pytest.raises(UserError, match=message) as raised:
        run_command(ask, model_folder, *arguments)
    assert "\n" not in str(raised.value)


def test_a_text_that_no_prompt_holds_is_refused(qwen2_audio, clips, without_weights):
    for option in ("--text=hello", "--transcribe"):
        with pytest.raises(UserError, match=f"^{option[:6]}.*: the prompt of .* holds no transcription; leave it out"):
            run_command(ask, qwen2_audio, clips[0], QUESTION, option)


def test_the_console_script_says_it_in_one_line(model_folder, clips, capsys):
    assert cli.main(["ask", str(model_folder), str(clips[0]), QUESTION, "--text", "a", "--text", "b"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("caad-ds: error: --text: 2 for 1 clips")
    assert len(printed.err.splitlines()) == 1


def test_a_folder_that_holds_no_model_is_refused(clips, tmp_path, model_folder):
    (tmp_path / "broken").mkdir()
    for config in ("{}", '{"model_type": "caad_speech_lm"}', "[]", '{"model_type": "qwen2_audio"}'):
        (tmp_path / "broken/config.json").write_text(config)
        with pytest.raises(UserError) as raised:
            run_command(ask, tmp_path / "broken", clips[0], QUESTION, "--device", "cpu")
        assert "broken" in str(raised.value) and "\n" not in str(raised.value)
