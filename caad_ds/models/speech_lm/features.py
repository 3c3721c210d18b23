"""The audio of a batch, as the encoder takes it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from caad_ds.data.audio.decoded import Sample
from caad_ds.data.batch import Batch
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.utils.errors import UserError


def check_length(encoder: SpeechEncoder, waveforms: Sequence[np.ndarray], where: str) -> None:
    """Raise UserError, beginning with `where`, for a mono 16 kHz waveform that is longer than the encoder's window."""
    try:
        encoder.check_window(waveforms)
    except ValueError as error:
        raise UserError(
            f"{where}{error}; reject or split such clips at ingest (--max-seconds {encoder.window_seconds})"
        ) from error


def with_features(batch: Batch, samples: Sequence[Sample], encoder: SpeechEncoder) -> Batch:
    """The batch of these samples with the features of their audios; an audio that several share is there once."""
    for sample in samples:
        check_length(encoder, sample.waveforms, f"sample {sample.key}: ")
    waveforms = [waveform for sample in samples for waveform in sample.waveforms]
    different: dict[bytes, int] = {}
    index = [different.setdefault(waveform.tobytes(), len(different)) for waveform in waveforms]
    features = encoder.features([np.frombuffer(waveform, np.float32) for waveform in different])
    return replace(batch, features=features.cpu(), audio_index=torch.tensor(index))
