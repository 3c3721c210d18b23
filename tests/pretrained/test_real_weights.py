"""Whisper tiny.en and SmolLM2-135M as they are on the hub: Stage 1 answers, a student hears with both and learns.

Looks only into the local cache (HF_HOME): run with `pytest -m pretrained` where it holds them.
"""

import numpy as np
import pytest
import torch
from huggingface_hub import try_to_load_from_cache

from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.data.audio_markers import user_content
from caad_ds.data.decoded_sample import Sample
from caad_ds.distill.student_objective import StudentObjective
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.language_model.tokenizer import load_tokenizer
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.encoder_folder import load_encoder
from data_prep.stage1.engines.generation_settings import GenerationSettings
from data_prep.stage1.engines.transformers import TransformersEngine

ENCODER, LLM = "openai/whisper-tiny.en", "HuggingFaceTB/SmolLM2-135M-Instruct"
pytestmark = [
    pytest.mark.pretrained,
    pytest.mark.skipif(
        not all(isinstance(try_to_load_from_cache(name, "config.json"), str) for name in (ENCODER, LLM)),
        reason=f"HF_HOME does not hold {ENCODER} and {LLM}",
    ),
]


def record(number: int) -> dict:
    return {
        "id": str(number),
        "audios": [{"path": "", "text": "The hogs were fed."}],
        "messages": [{"role": "user", "content": user_content("What is the gender of the speaker?")}],
        "seed_description": "[00:00-00:02] The hogs were fed. (Gender: female)",
        "response": "The speaker is female.",
    }


def test_a_real_llm_answers_the_seed_description():
    [answer] = TransformersEngine(LLM, GenerationSettings(max_new_tokens=32)).answers([[record(0)]], ())
    assert "female" in answer.response.lower()


def test_a_student_of_real_parts_learns():
    torch.manual_seed(0)
    encoder = load_encoder(ENCODER, [0, 1, 2, 3], 2)
    model = build(LLM, encoder, ENCODER, num_queries=8, qformer_layers=1, qformer_heads=6, keep_layers=4)
    noise = np.random.default_rng(0).standard_normal((2, 16_000), np.float32) * 0.1
    samples = [Sample(str(n), record(n), [wave]) for n, wave in enumerate(noise)]
    lm = SpeechAudioLM(model, encoder, load_tokenizer(LLM))
    batch = lm.prepare(lm.reader.collate(samples))
    module = StudentObjective(lm, ObjectiveSection(name="ce"))
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    losses = []
    for _ in range(4):
        loss = module(batch, normalizer=len(batch.targets))[0]
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.5
