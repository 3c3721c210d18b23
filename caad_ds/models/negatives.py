"""The teacher's second path: what stands in the audio's place (docs/method.md, Negatives)."""

import zlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from caad_ds.config.schema import NEGATIVES
from caad_ds.data.audio.levels import SAMPLE_RATE
from caad_ds.data.batch import Batch
from caad_ds.models.speech_lm.embed import embed, merge_audio
from caad_ds.models.whisper_qformer.audio_states import AudioStates
from caad_ds.models.whisper_qformer.embedded_batch import Embedded
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.errors import UserError

NOISE_AMPLITUDE = 0.1


@dataclass(frozen=True)
class Negative:
    """A negative by name: `features` [1, mel, frames] stand in the audio's place and are heard as `states`.

    zero_mel: a zero feature tensor (the authors'). silence: a zero waveform, whose features are about -1.5 (AAD).
    noise: white noise. text_only: the audio span is removed, both are None. The window is fixed, so each encoding
    [1, taps, frames, D] is a constant.
    """

    name: str
    features: Tensor | None
    states: AudioStates | None

    @classmethod
    def of(cls, name: str, encoder: SpeechEncoder) -> "Negative":
        """The negative `name` (one of config.NEGATIVES) as `encoder` hears it; UserError for another name."""
        if name not in NEGATIVES:
            raise UserError(f"negative {name!r}: not known; use one of {', '.join(NEGATIVES)}")
        if name == "text_only":
            return cls(name, None, None)
        features = _features(name, encoder)
        return cls(name, features, encoder.encode(features))


def _features(name: str, encoder: SpeechEncoder) -> Tensor:
    samples = encoder.window_seconds * SAMPLE_RATE
    if name == "noise":
        noise = np.random.default_rng(0).standard_normal(samples) * NOISE_AMPLITUDE
        return encoder.features([noise.astype(np.float32)])
    silence = encoder.features([np.zeros(samples, np.float32)])
    return torch.zeros_like(silence) if name == "zero_mel" else silence


def embed_without_audio(model: SpeechLM, batch: Batch, negative: Negative) -> Embedded:
    """The batch as the model takes it on the negative path alone."""
    if negative.states is None:
        removed = batch.without_audio()
        if len(removed.answer_rows) != len(batch.answer_rows):
            raise UserError(
                f"batch of {batch.keys[0]}, ...: without its audio nothing comes before an answer; "
                "choose another negative than text_only, or write a prompt"
            )
        nothing = torch.zeros(0, model.config.num_queries, model.connector.project.out_features)
        return merge_audio(model, removed, nothing.to(batch.input_ids.device))
    audios = int(batch.audio_mask.sum()) // model.config.num_queries
    return merge_audio(model, batch, model.project(negative.states).expand(audios, -1, -1))


def embed_both(model: SpeechLM, batch: Batch, states: AudioStates, negative: Negative) -> Embedded:
    """Both paths as one batch of 2B: with audio, then without; the connector runs once over U + 1 audios."""
    if negative.states is None:
        return Embedded.cat(embed(model, batch, states), embed_without_audio(model, batch, negative))
    audio = model.project(AudioStates.cat([states, negative.states]))
    heard = audio[batch.audio_index]
    return Embedded.cat(merge_audio(model, batch, heard), merge_audio(model, batch, audio[-1:].expand_as(heard)))


class AudioDropout:
    """Exchanges the audio of a share of the samples for a negative, or leaves all batches alone (share 0).

    The draw depends on seed, step and sample alone, not on who holds the sample.
    """

    def __init__(self, share: float, name: str, encoder: SpeechEncoder, seed: int):
        self.share = share
        self.negative = Negative.of(name, encoder) if share else None
        self.seed = seed

    def __call__(self, step: int, batch: Batch) -> Batch:
        """The batch as a step takes it."""
        if self.negative is None:
            return batch
        drawn = [zlib.crc32(f"{self.seed}:{step}:{key}".encode()) / 2**32 for key in batch.keys]
        return drop_audio(batch, torch.tensor(drawn) < self.share, self.negative)


def drop_audio(batch: Batch, dropped: Tensor, negative: Negative) -> Batch:
    """The batch with the audio of the samples in `dropped` (bool [B]) exchanged for the negative (audio dropout)."""
    if negative.features is None:
        return batch.without_audio(dropped)
    # Audios lie in the order of their samples: count each sample's to find whose is whose.
    queries = int(batch.audio_mask.sum()) // len(batch.audio_index)
    of_audio = dropped.repeat_interleave(batch.audio_mask.sum(1) // queries)
    index = batch.audio_index.masked_fill(of_audio, len(batch.features))
    return replace(batch, features=torch.cat([batch.features, negative.features.cpu()]), audio_index=index)
