"""A model folder answers through transformers alone, token for token as `caad_ds.load(...).answer` does."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

import caad_ds
from caad_ds.generation.decoding import generate
from caad_ds.generation.decoding_settings import Decoding
from caad_ds.generation.question import Question, recordings
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.prompts.answer_turn import FORM
from caad_ds.models.prompts.prompt_encoder import PIECES
from caad_ds.models.reader import NO_TRANSCRIPT
from caad_ds.models.speech_lm import adapters, huggingface
from caad_ds.models.speech_lm.build_speech_lm import build
from tests.models.prompts.chat_tokenizers import CHATML, ZEPHYR, byte_level, sentence_piece
from tests.models.speech_lm import by_transformers
from tests.training.tiny import amplify, encoder, llama

pytestmark = pytest.mark.slow  # a fresh process that imports transformers

QUESTION = "Is the tone high or low?"
# Of each question: clips, each with its transcription.
ASKED = [[("a", None)], [("b", "he said stop")], [("b", "yes"), ("a", None)], [], [("c", "no"), ("b", "no"), ("a", "")]]


def model(tokenizer, *, window=1, dtype=torch.float32, tied=True, **shape):
    """A model of our own family with random weights whose states depend on the audio."""
    speech_encoder = encoder(seconds=2)
    speech_encoder.cut_window(window)
    speech_encoder.extractor = type(speech_encoder.extractor)(feature_size=80, chunk_length=window)
    speech_encoder.final_norm = shape.get("connector") != "desta"
    torch.manual_seed(1)
    architecture = llama(2, len(tokenizer), tied=tied) | {"max_position_embeddings": 256}
    made = build(architecture, speech_encoder, None, num_queries=4, qformer_layers=1, qformer_heads=2, **shape)
    amplify(made.connector)
    amplify(made.llm.model.layers)
    return SpeechAudioLM(made.to(dtype), speech_encoder, tokenizer)


def without_transcripts(tokenizer):
    lm = model(tokenizer, tied=False)
    lm.reader.set_transcript(NO_TRANSCRIPT)
    return lm


def in_pieces(tokenizer):
    tokenizer.init_kwargs[FORM] = PIECES
    return model(tokenizer)


def adapted(tokenizer):
    lm = model(tokenizer)
    adapters.add(lm.module, {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear", "encoder": False})
    return lm


VARIANTS = {
    "pieces": lambda folder: in_pieces(sentence_piece(folder, True, ZEPHYR)),
    "no-transcripts": lambda folder: without_transcripts(byte_level(CHATML)),
    "bf16-desta": lambda folder: model(sentence_piece(folder, False, ZEPHYR), dtype=torch.bfloat16, connector="desta"),
    "normalized-2s": lambda folder: model(byte_level(CHATML), window=2, normalize_states=True),
    "shards": lambda folder: model(byte_level(CHATML)),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Folders of all variants, their clips, and what transformers answers by them."""
    root = tmp_path_factory.mktemp("alone")
    rng = np.random.default_rng(0)
    for n, name in enumerate("abc"):
        wave = 0.2 * np.sin(np.arange(9000) * (n + 1) / 20) + 0.05 * rng.standard_normal(9000)
        soundfile.write(root / f"{name}.wav", wave, 16_000)
    requests = {}
    for name, made in (VARIANTS | {"adapters": lambda _: adapted(byte_level(CHATML))}).items():
        (root / name / "tokenizer").mkdir(parents=True)
        with pytest.MonkeyPatch.context() as patch:
            if name == "shards":
                patch.setattr(huggingface, "MAX_SHARD_SIZE", "50KB")
            made(root / name / "tokenizer").save(root / name / "model")
        requests[str(root / name / "model")] = [chat(root, clips) for clips in ASKED]
    (root / "requests.json").write_text(json.dumps(requests))
    script = [sys.executable, "-I", by_transformers.__file__, str(root / "requests.json"), str(root / "out.json")]
    env = os.environ | {"HF_HOME": str(root / "cache"), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(script, env=env, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return root, json.loads((root / "out.json").read_text())


def chat(root, clips):
    heard = [
        {"type": "audio", "audio": str(root / f"{name}.wav"), **({} if said is None else {"text": said})}
        for name, said in clips
    ]
    return [{"role": "user", "content": [*heard, {"type": "text", "text": QUESTION}]}]


@pytest.mark.parametrize("name", VARIANTS)
def test_token_for_token(found, name):
    root, answers = found
    theirs = answers[str(root / name / "model")]
    assert (len(list((root / name / "model").glob("model-*.safetensors"))) > 2) == (name == "shards")
    ours = caad_ds.load(root / name / "model", "cpu")
    assert theirs["dtype"] == ("torch.bfloat16" if name.startswith("bf16") else "torch.float32")
    said = []
    for clips, their in zip(ASKED, theirs["each"], strict=True):
        heard = recordings([root / f"{clip}.wav" for clip, _ in clips], [text for _, text in clips])
        decoding = Decoding(max_new_tokens=by_transformers.LONGEST)
        prompted = ours.prepare_prompt(ours.clips(), Question(heard, QUESTION), decoding)
        ids = generate(ours.lm, prompted.batch, max_new_tokens=by_transformers.LONGEST)[0].tolist()
        said.append(ids)
        assert their["pipeline"] == their["auto"] == ids
        if "\ufffd" not in (answer := prompted.answer()):  # else a pipeline does not find the prompt to cut off
            assert their["text"].strip() == answer
    ends = {ours.reader.tokenizer.eos_token_id, ours.reader.prompts.turn.end}
    for row, ids in zip(theirs["batch"], said, strict=True):
        assert row[: len(ids)] == ids and set(row[len(ids) :]) <= ends
    assert len({tuple(ids) for ids in said}) > 1, "the audio decides"


def test_adapters_that_are_kept_are_refused_by_name(found):
    root, answers = found
    refused = answers[str(root / "adapters/model")]["refused"]
    assert "the model's adapters are not merged into its weights; export it without --keep-adapters" in refused
