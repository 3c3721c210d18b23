"""Emotion: `emotion` and `emotion_score`, by emotion2vec+ large (Ma et al., ACL Findings 2024) through FunASR.

Written against FunASR's published code and the model's card; it has not been run in this project's tests, which check
only how the documented output becomes metadata. The model (0.3 B parameters, with its own licence) is downloaded from
FunASR's model hub at first use. It runs on a GPU if there is one; each worker holds a copy.
"""

import numpy as np

from caad_ds.data.audio.decode import AudioError
from data_prep.annotate.annotators import Measure

KEYS = ("emotion", "emotion_score")
NEEDS = {"funasr": "emotion"}
MODEL = "iic/emotion2vec_plus_large"
NO_EMOTION = ("other", "<unk>", "")


def load() -> Measure:
    """Load the model; the measure is the most likely emotion, in English, and its probability.

    AudioError if the most likely label is not an emotion.
    """
    from funasr import AutoModel

    model = AutoModel(model=MODEL, disable_update=True, disable_pbar=True)

    def measure(waveform: np.ndarray) -> dict[str, float | str]:
        (row,) = model.generate(waveform, granularity="utterance", extract_embedding=False)
        return from_output(row)

    return measure


def from_output(row: dict) -> dict[str, float | str]:
    """Convert FunASR's `{"labels": ["生气/angry", ..., "<unk>"], "scores": [0.1, ...]}` to metadata."""
    score, label = max(zip(row["scores"], row["labels"], strict=True))
    emotion = label.rpartition("/")[2]
    if emotion in NO_EMOTION:
        raise AudioError(f"emotion2vec's likeliest label is {label!r}, which is no emotion")
    return {"emotion": emotion, "emotion_score": round(float(score), 3)}
