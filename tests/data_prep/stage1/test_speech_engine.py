"""Stage 1 with a SpeechLM that uses the audio: its answers and how they are processed."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from caad_ds import cli
from caad_ds.data.audio_markers import user_content
from caad_ds.evaluation.benchmarks.items import Clip, Item
from caad_ds.generation.decoding import decode
from caad_ds.generation.model import Model
from caad_ds.generation.sampling import Sampling
from caad_ds.models.language_model.tokenizer import load_tokenizer
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.folder import save
from data_prep.stage1.answer_checks import CHECKS
from data_prep.stage1.engines.generation_settings import GenerationSettings
from data_prep.stage1.engines.speech import SpeechEngine
from tests.data_prep.lines import read
from tests.data_prep.llm import make_llm
from tests.training.tiny import amplify, encoder

COUNT, MOST = 20, 24
GREEDY, DRAWN = (), ("--temperature", 0.8, "--top-p", 0.9, "--seed", 3)
OUTPUTS = ("answered.jsonl", "answered.rejected.jsonl", "answered.settings.json")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a random SpeechLM with a window of one second; it ends some of its answers in time."""
    folder = tmp_path_factory.mktemp("teacher")
    llm = str(make_llm(folder / "llm", eager=4))
    speech_encoder = encoder()
    model = build(llm, speech_encoder, None, num_queries=4, qformer_layers=1, qformer_heads=2)
    amplify(model.connector)
    save(folder / "model", model, speech_encoder, load_tokenizer(llm))
    return folder / "model"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A manifest of half-second clips with prompts that have a hint in every third; two prompts ask about each clip."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(COUNT):
        clip = number // 2
        if not number % 2:
            soundfile.write(folder / f"{clip}.wav", rng.standard_normal(8000 + 500 * clip) * 0.05 * (1 + clip), 16_000)
        question = user_content("Who speaks" + " now" * (number % 4) + "?", "A woman." if number % 3 else None)
        rows.append({
            "id": f"clip{number}", "audios": [{"path": f"{clip}.wav", "text": "hello " * (number % 5)}],
            "messages": [{"role": "user", "content": question}], "seed_description": "(Gender: female)",
        })  # fmt: skip
    return write(folder / "described.jsonl", rows)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer(manifest, model, out, *options) -> int:
    """Run the command as a user does; its exit status."""
    fixed = ("--engine", "speech", "--device", "cpu", "--max-new-tokens", MOST, "--batch-size", 3)
    arguments = ("--manifest", manifest, "--model", model, "--out", out, *fixed, *options)
    return cli.main(["prep", "pseudo-gt", *map(str, arguments)])


def texts(folder) -> dict[str, str]:
    return {row["id"]: row["response"] for row in read(folder / "answered.jsonl")}


def reasons(folder) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in read(folder / "answered.rejected.jsonl")}


def whole(folder) -> list[bytes]:
    return [(folder / name).read_bytes() for name in OUTPUTS]


@pytest.mark.parametrize("options", [GREEDY, DRAWN], ids=["greedy", "sampled"])
def test_it_answers_what_evaluation_decodes_of_the_clip(tmp_path, teacher, corpus, options):
    assert answer(corpus, teacher, tmp_path / "answered.jsonl", *options) == 0
    loaded = Model.load(teacher, torch.device("cpu"))
    clips = loaded.clips()
    expected = {}
    for row in read(corpus):
        [entry] = row["audios"]
        clip = Clip(corpus.parent / entry["path"], entry["text"])
        item = Item(row["id"], "s", None, (clip,), row["messages"], "", "")
        clips.encode([item])
        batch = clips.prompts([item])
        batch.keys[:] = [row["id"]]  # an item's key holds its condition, and the draw follows the key
        sampling = Sampling(0.8, 0.9, seed=3) if options else None
        [expected[row["id"]]] = decode(loaded.lm, batch, max_new_tokens=MOST, sampling=sampling)
    got, rejected = texts(tmp_path), reasons(tmp_path)
    assert len(set(got.values())) > 3 and got.keys() | rejected.keys() == expected.keys()
    assert got == {name: expected[name] for name in got}
    assert all((expected[name] == "") == reason.startswith("empty: ") for name, reason in rejected.items())
    assert f"truncated: it did not end within {MOST} tokens" in rejected.values()


def test_a_resumed_run_gives_the_same_bytes_and_a_divided_one_the_same_texts(tmp_path, teacher, corpus):
    assert answer(corpus, teacher, tmp_path / "answered.jsonl", *DRAWN) == 0
    expected, made = whole(tmp_path), list(texts(tmp_path).items())[:4]
    settings = json.loads((tmp_path / "answered.settings.json").read_text())
    answered_under = {name: value for name, value in settings.items() if name not in CHECKS}
    for name in OUTPUTS:
        (tmp_path / name).unlink()
    rows = [{"id": name, "response": text, "reason": ""} for name, text in made]
    write(tmp_path / "answered.partial.jsonl", [answered_under, *rows])
    assert answer(corpus, teacher, tmp_path / "answered.jsonl", *DRAWN) == 0
    assert whole(tmp_path) == expected

    divided = tmp_path / "divided/answered.jsonl"
    for index in range(2):  # batches of one record: blocks of 16, so that each part has one
        answer(corpus, teacher, divided, *DRAWN, "--batch-size", 1, "--shard", f"{index}/2")
    assert cli.main(["prep", "merge", "--manifest", str(corpus), "--out", str(divided)]) == 0
    assert texts(divided.parent) == texts(tmp_path)


def test_answers_of_another_teacher_are_not_mixed_in(tmp_path, teacher, corpus, capsys):
    out = tmp_path / "answered.jsonl"
    assert answer(corpus, teacher, out) == 0
    before = whole(tmp_path)
    moved = shutil.copytree(teacher, tmp_path / "moved")
    assert answer(corpus, moved, out) == 0 and "already finished, nothing to do" in capsys.readouterr().out
    weights = load_file(moved / "model.safetensors")
    name = next(name for name in weights if name.startswith("connector."))
    save_file({**weights, name: -weights[name]}, moved / "model.safetensors", metadata={"format": "pt"})
    assert answer(corpus, moved, out) == 2
    assert "made with another model_sha256; choose another --out" in capsys.readouterr().err
    assert whole(tmp_path) == before


def test_what_cannot_be_heard_or_asked_rejects_its_record_alone(tmp_path, teacher, corpus, capsys):
    soundfile.write(tmp_path / "long.wav", np.zeros(24_000), 16_000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    shutil.copy(corpus.parent / "0.wav", tmp_path)
    rows = read(corpus)[:8]
    for row, name in zip(rows, ("0", "long", "broken", "absent", "0", "0", "0", "long"), strict=True):
        row["audios"] = [{"path": f"{name}.wav", "text": "hello"}]
    rows[0]["response"] = "given"
    del rows[4]["messages"]
    rows[5]["audios"][0]["text"] = "word " * 4000
    rows[6]["metadata"] = {"prompt": "Who speaks?"}
    rows[7]["audios"][0] |= {"offset": 0.5, "duration": 0.5}  # a part that fits
    assert answer(write(tmp_path / "described.jsonl", rows), teacher, tmp_path / "answered.jsonl") == 0
    assert "3 audio" in capsys.readouterr().out
    why = reasons(tmp_path)
    assert why["clip1"].startswith(f"audio: {tmp_path / 'long.wav'}: an audio of 1.50 s exceeds the model's window")
    assert why["clip2"].startswith(f"audio: {tmp_path / 'broken.wav'} does not decode: ")
    assert why["clip3"] == f"audio: {tmp_path / 'absent.wav'} does not decode: there is no such file"
    assert why["clip4"].startswith("record: it has no messages; run `caad-ds prep describe` first")
    assert why["clip5"].startswith("record: its prompt of ") and why["clip5"].endswith("leaves no room in 2048")
    assert why["clip6"].startswith("record: 'prompt' of its metadata is kept")
    assert texts(tmp_path)["clip0"] == "given" and not why.get("clip7", "empty").startswith(("audio", "record"))


def test_audio_that_prompts_of_a_batch_share_is_encoded_once(teacher, corpus, monkeypatch):
    engine = SpeechEngine(teacher, GenerationSettings(system="Be brief.", max_new_tokens=2), batch_size=4, device="cpu")
    encoder = engine.loaded.lm.encoder
    encode, encoded = encoder.encode, []
    monkeypatch.setattr(encoder, "encode", lambda mel: encoded.append(len(mel)) or encode(mel))
    rows = [{**row, "audios": [{"path": str(corpus.parent / "0.wav")}]} for row in read(corpus)[:4]]
    assert len(list(engine.answers([rows], ()))) == 4 and encoded == [1]
    asked = engine.tokenizer.decode(engine._prompt(rows[0])[1])
    assert "system: Be brief." in asked and "Who speaks?" in asked


def test_a_folder_without_a_speech_lm_is_named(tmp_path, teacher, corpus, capsys):
    out = tmp_path / "answered.jsonl"
    assert answer(corpus, tmp_path, out) == 2
    assert f"{tmp_path}: no model there (config.json is missing)" in capsys.readouterr().err
    assert answer(corpus, teacher.parent / "llm", out) == 2
    assert "llm: a model of type llama is not supported; supported are audioflamingo3, " in capsys.readouterr().err


def test_plain_lines_are_ingested_and_asked_as_the_readme_has_it(teacher, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).standard_normal(8000) * 0.1, 16_000)
    line = {"audio": "a.wav", "messages": [{"role": "user", "content": "<|AUDIO|> Who speaks?"}]}
    plain, asked = write(tmp_path / "mine.jsonl", [line]), tmp_path / "asked.jsonl"
    assert answer(plain, teacher, tmp_path / "answers.jsonl") == 2
    assert (
        f"`caad-ds prep ingest jsonl --root {plain} --out MANIFEST.jsonl` makes a manifest of it"
        in capsys.readouterr().err
    )
    assert cli.main(["prep", "ingest", "jsonl", "--root", str(plain), "--out", str(asked)]) == 0
    answer(asked, teacher, tmp_path / "answers.jsonl")
    rejected = tmp_path / "answers.rejected.jsonl"
    reasons = [row["reason"] for row in read(rejected)] if rejected.exists() else []
    assert all(not reason.startswith(("record", "audio")) for reason in reasons), "it is asked, whatever it answers"
