"""The frozen Whisper-architecture encoder; it is outside both DeepSpeed engines and runs once per batch."""

from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .audio_states import AudioStates
from .rates import POSITIONS_PER_SECOND, SAMPLE_RATE, check_window


class SpeechEncoder(nn.Module):
    """A Whisper encoder, frozen except for adapters, with its feature extractor; it outputs states of tapped layers.

    `taps` are layer indices (0 is the first transformer layer). `window_seconds` is the fixed input window; shorter
    audio is padded with silence, longer audio is refused. A window below the checkpoint's cuts the positional
    embeddings, which is cheaper and nearly the same (Whisper's positions are absolute sinusoids). `final_norm`: whether
    a tap on the last layer is read after the encoder's final LayerNorm (DeSTA's are read before it). `autocast` is the
    dtype of its matrix products, None for that of its weights; `adapters` the settings of trained adapters, if any.
    """

    def __init__(
        self, whisper: WhisperEncoder, extractor: WhisperFeatureExtractor, taps: list[int], final_norm: bool = True
    ):
        super().__init__()
        self.whisper = whisper.requires_grad_(False).eval()
        self.extractor = extractor
        self.taps = taps
        self.final_norm = final_norm
        self.autocast: torch.dtype | None = None
        self.adapters: dict | None = None

    @classmethod
    def from_config(cls, config: WhisperConfig, taps: list[int], final_norm: bool = True) -> "SpeechEncoder":
        """Build a randomly initialised encoder."""
        extractor = WhisperFeatureExtractor(
            feature_size=config.num_mel_bins, chunk_length=config.max_source_positions // POSITIONS_PER_SECOND
        )
        return cls(WhisperEncoder(config), extractor, taps, final_norm)

    @property
    def dim(self) -> int:
        """Width of the states."""
        return self.whisper.config.d_model

    @property
    def window_seconds(self) -> int:
        """Length of the input window in seconds."""
        return self.extractor.chunk_length

    def cut_window(self, seconds: int) -> None:
        """Keep the positional embeddings of the first `seconds`; ValueError if the encoder has fewer."""
        table, positions = self.whisper.embed_positions, seconds * POSITIONS_PER_SECOND
        if positions > table.num_embeddings:
            have = table.num_embeddings // POSITIONS_PER_SECOND
            raise ValueError(f"a window of {seconds} s exceeds the encoder's {have} s")
        self.whisper.embed_positions = nn.Embedding.from_pretrained(table.weight[:positions].clone(), freeze=True)
        self.whisper.config.max_source_positions = self.whisper.max_source_positions = positions

    def features(self, waveforms: list[np.ndarray]) -> Tensor:
        """Compute log-mel features float32 [A, mel, frames] of A mono 16 kHz waveforms, each padded to the window."""
        check_window([len(waveform) for waveform in waveforms], self.window_seconds)
        device = str(self.whisper.conv1.weight.device)
        extracted = self.extractor(waveforms, sampling_rate=SAMPLE_RATE, return_tensors="pt", device=device)
        return extracted.input_features.float()

    def encode(self, features: Tensor) -> AudioStates:
        """Encode features [A, mel, frames] into the tapped states [A, taps, frames / 2, D].

        It has a gradient only if adapters train; then call it in an engine's forward.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.adapters is not None):
            return self._tapped(features)

    def _tapped(self, features: Tensor) -> AudioStates:
        weight = self.whisper.conv1.weight
        unnormed: list[Tensor] = []
        hook = self.whisper.layer_norm.register_forward_pre_hook(lambda _, inputs: unnormed.extend(inputs))
        precision = nullcontext() if self.autocast is None else torch.autocast(weight.device.type, self.autocast)
        with hook, precision:
            output = self.whisper(features.to(weight.device, weight.dtype), output_hidden_states=True)
        states = list(output.hidden_states)
        if not self.final_norm:
            states[-1] = unnormed[0]
        return AudioStates(torch.stack([states[tap + 1] for tap in self.taps], dim=1))
