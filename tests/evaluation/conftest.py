"""A random model of a few thousand weights, and a benchmark of half-second clips."""

import json

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, WhisperConfig

from caad_ds.evaluation.commands import evaluate
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.folder import save
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from tests.command import run_command
from tests.tolerance import path

WORDS = "user assistant who speaks how loud the speaker is male female man woman voice quiet it rains hello".split()
# At the usual scale of 0.02 a random model gives nearly the same answer to every clip.
LOUD = 0.4
TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}assistant "


def tiny_tokenizer():
    words = ["<eos>", "<unk>", "start_audio", "end_audio", "<", ">", ".", "?", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>", chat_template=TEMPLATE
    )


def tiny_parts(num_queries=3, **of_llm):
    torch.manual_seed(0)
    whisper = WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, num_mel_bins=8,
        max_source_positions=50, init_std=LOUD,
    )  # fmt: skip
    encoder = SpeechEncoder.from_config(whisper, taps=[0, 1])
    llm = {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40,
        "num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 0, "initializer_range": LOUD,
        "tie_word_embeddings": False, **of_llm,
    }  # fmt: skip
    model = build(llm, encoder, None, num_queries=num_queries, qformer_layers=1, qformer_heads=2)
    for weight in model.connector.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=LOUD)
    return model.eval(), encoder, tiny_tokenizer()


@pytest.fixture(scope="session")
def parts():
    return tiny_parts()


@pytest.fixture(scope="session")
def terms(parts):
    """The length of the sums in a forward, whose prompts and windows have fewer than 100 positions."""
    model, encoder, _ = parts
    return path(model, encoder, positions=100)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("model")
    save(folder, *parts)
    return folder


def write_benchmark(folder, counts, seconds=0.5):
    options = {"gender": ("male", "female"), "noise": ("loud", "quiet")}
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        rows = []
        (folder / name / "audio").mkdir(parents=True)
        for k in range(count):
            right, wrong = options[name][k % 2], options[name][1 - k % 2]
            waveform = rng.standard_normal(int(16000 * seconds)) * 0.2 * rng.random()
            soundfile.write(folder / name / "audio" / f"{k}.wav", waveform, 16000)
            rows.append({
                "audio": f"{k}.wav", "gt": right, "neutral": "who speaks ?" if name == "gender" else "how loud is it ?",
                "faithful": f"the speaker is {right} .", "adversarial": f"the speaker is {wrong} .",
                "irrelevant": "it rains here .", "text": "hello " * (k % 3),
            })  # fmt: skip
        (folder / name / f"{name}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def make_benchmark(tmp_path):
    return lambda name, counts: write_benchmark(tmp_path / name, counts)


@pytest.fixture
def conflicts(make_benchmark):
    return make_benchmark("benchmark", {"gender": 4, "noise": 3})


@pytest.fixture
def run(model_folder, conflicts, tmp_path):
    """Runs `caad-ds evaluate` on the tiny model, into the folder `out` of the test."""

    def run(*argv, out="run", benchmark=conflicts):
        return run_command(
            evaluate, "--model", model_folder, "--benchmark", benchmark, "--out", tmp_path / out,
            "--device", "cpu", "--batch-size", 6, *argv,
        )  # fmt: skip

    return run


def scores(folder):
    """Read `scores.json` without the fields that depend on the machine."""
    return {**json.loads((folder / "scores.json").read_text()), "speed": None}
