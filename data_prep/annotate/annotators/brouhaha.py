"""Noise and reverberation: `brouhaha_snr_db` and `c50_db`, by Brouhaha (Lavechin et al., ASRU 2023) on pyannote.audio.

Written against the model's card and its published pipeline; it has not been run in this project's tests, which check
only how the documented output becomes metadata. The model `pyannote/brouhaha` is gated: accept its conditions on the
hub and log in (`hf auth login`). It runs on the CPU, or on a GPU where there is one; each worker holds a copy.
"""

import numpy as np

from caad_ds.data.audio.decode import SAMPLE_RATE, AudioError
from caad_ds.utils.errors import UserError
from data_prep.annotate.annotators import Measure

KEYS = ("brouhaha_snr_db", "c50_db")
NEEDS = {"pyannote.audio": "brouhaha", "brouhaha": "brouhaha"}
MODEL = "pyannote/brouhaha"
SPEECH = 0.78  # voice activity threshold of the authors' pipeline


def load() -> Measure:
    """Load the model; its measures are means over speech frames, one decimal. AudioError if there is no speech."""
    import torch
    from pyannote.audio import Inference, Model

    model = Model.from_pretrained(MODEL)
    if model is None:  # pyannote.audio returns None for a gated model without access
        raise UserError(f"{MODEL}: it cannot be fetched; accept its conditions on the hub, then `hf auth login`")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inference = Inference(model, device=device)

    def measure(waveform: np.ndarray) -> dict[str, float | str]:
        output = inference({"waveform": torch.from_numpy(waveform)[None], "sample_rate": SAMPLE_RATE})
        return from_frames(output.data)

    return measure


def from_frames(frames: np.ndarray) -> dict[str, float | str]:
    """Compute the metadata from the model's frames, float [frames, 3]: voice activity (0 to 1), SNR (dB), C50 (dB)."""
    speech = frames[frames[:, 0] >= SPEECH]
    if not len(speech):
        raise AudioError("Brouhaha hears no speech")
    _, snr, c50 = speech.mean(axis=0)
    return {"brouhaha_snr_db": round(float(snr), 1), "c50_db": round(float(c50), 1)}
