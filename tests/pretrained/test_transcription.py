"""`caad-ds ask --transcribe` with Whisper tiny.en as it is on the hub, which a student's encoder names."""

import pytest
import soundfile
import torch
from huggingface_hub import try_to_load_from_cache

from caad_ds.models.language_model.tokenizer import load_tokenizer
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.encoder_folder import load_encoder
from caad_ds.models.speech_lm.folder import save
from caad_ds.serving import ask
from tests.command import run_command
from tests.pretrained.test_real_weights import ENCODER, LLM

SENTENCE = "The weather is very nice today."
pytestmark = [
    pytest.mark.pretrained,
    pytest.mark.skipif(
        not all(isinstance(try_to_load_from_cache(name, "config.json"), str) for name in (ENCODER, LLM)),
        reason=f"HF_HOME does not hold {ENCODER} and {LLM}",
    ),
]


def test_the_encoders_whisper_hears_a_spoken_sentence(tmp_path, capsys):
    pytest.importorskip("espeakng_loader", reason="espeak-ng speaks the sentence; install the extra demo")
    from data_prep.synthetic.espeak import SAMPLE_RATE, speak

    soundfile.write(tmp_path / "said.wav", speak(SENTENCE, "en-us", 140, 50), SAMPLE_RATE)
    torch.manual_seed(0)
    encoder = load_encoder(ENCODER, [0, 3], 4)
    model = build(LLM, encoder, ENCODER, num_queries=4, qformer_layers=1, qformer_heads=6, keep_layers=1)
    save(tmp_path / "model", model, encoder, load_tokenizer(LLM))
    status = run_command(
        ask, tmp_path / "model", tmp_path / "said.wav", "Who speaks?", "--transcribe",
        "--max-new-tokens", 2, "--device", "cpu",
    )  # fmt: skip
    printed = capsys.readouterr()
    assert status == 0
    heard = printed.err.lower()
    assert sum(word in heard for word in SENTENCE.strip(".").lower().split()) >= 5, printed
