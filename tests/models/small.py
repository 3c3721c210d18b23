"""A small random model and records for it."""

import numpy as np

from caad_ds.data.audio_markers import user_content
from caad_ds.data.decoded_sample import Sample
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from tests.training.tiny import amplify, llama

QUERIES = 4
POSITIONS = 100  # more than there are tokens in a batch, or frames in a window


def make_model(tokenizer, speech_encoder, tied: bool = True) -> SpeechLM:
    """Return a random model whose states depend on the audio."""
    model = build(
        llama(2, len(tokenizer), tied=tied),
        speech_encoder,
        None,
        num_queries=QUERIES,
        qformer_layers=1,
        qformer_heads=2,
    )
    amplify(model.connector)
    amplify(model.llm.model.layers)
    return model.eval()


def sample(key: str, audios: int = 1, text: str = "beep", response: str = "It is low.") -> Sample:
    """A record with noise as its audio."""
    rng = np.random.default_rng(list(key.encode()))
    waveforms = [rng.standard_normal(8000).astype(np.float32) for _ in range(audios)]
    record = {
        "id": key, "audios": [{"path": "", "text": text}] * audios, "response": response,
        "messages": [{"role": "user", "content": user_content("Is the tone high or low?", audios=audios)}],
    }  # fmt: skip
    return Sample(key, record, waveforms)
