"""The frozen Whisper-architecture encoder; it lives outside both DeepSpeed engines and runs once a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from caad_ds.data.audio.decoded import Sample
from caad_ds.data.batch import Batch
from caad_ds.models.architecture import is_architecture, read_architecture
from caad_ds.models.language_model import lora
from caad_ds.models.pretrained import pretrained
from caad_ds.models.whisper_qformer.audio_states import AudioStates
from caad_ds.models.whisper_qformer.rates import POSITIONS_PER_SECOND, SAMPLE_RATE
from caad_ds.utils.errors import UserError


class SpeechEncoder(nn.Module):
    """A Whisper encoder, frozen but for adapters, with its feature extractor, giving the states of the tapped layers.

    `taps` are layer indices (0 is the first transformer layer). `window_seconds` is the fixed input window; shorter
    audio is padded with silence, longer audio is refused. A window below the checkpoint's cuts the positional
    embeddings, which is cheaper and nearly the same (Whisper's positions are absolute sinusoids). `final_norm` says
    whether a tap on the last layer is read after the encoder's final LayerNorm (DeSTA's are read before it).
    `autocast` is the dtype of its matrix products, None for that of its weights; `adapters` the settings of those that
    train, if there are any.
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

    def add_adapters(self, settings: dict) -> None:
        """Put fresh adapters on all linear layers, `settings` as in config.py's LoraSection; they alone train."""
        self.adapters = settings | {"targets": "all-linear"}
        lora.inject(self.whisper, self.adapters)

    def rebuilt(self, weights: Mapping[str, Tensor]) -> "SpeechEncoder":
        """This encoder made anew of `weights`, under its own names, with its adapters merged."""
        made = SpeechEncoder(WhisperEncoder(self.whisper.config), self.extractor, self.taps, self.final_norm)
        if self.adapters is not None:
            made.add_adapters(self.adapters)
        made.load_state_dict(weights)
        lora.merge(made.whisper)
        return made

    @classmethod
    def from_pretrained(
        cls, name: str | Path, taps: list[int], window_seconds: int, final_norm: bool = True
    ) -> "SpeechEncoder":
        """Load a Whisper encoder cut to `window_seconds` (whole seconds).

        `name` is a hub id or a folder, or an architecture file (.json) for one with random weights.
        """
        if is_architecture(name):
            whisper, extractor = _random_whisper(name, window_seconds)
        else:
            whisper, extractor = _pretrained_whisper(name, window_seconds)
        layers = whisper.config.encoder_layers
        if any(not 0 <= tap < layers for tap in taps):
            raise UserError(f"{name}: taps {taps} do not fit an encoder of {layers} layers; use 0 to {layers - 1}")
        _cut_window(whisper, window_seconds * POSITIONS_PER_SECOND)
        return cls(whisper, extractor, taps, final_norm)

    @classmethod
    def from_config(cls, config: WhisperConfig, taps: list[int]) -> "SpeechEncoder":
        """A randomly initialised encoder, for training one and for tests."""
        extractor = WhisperFeatureExtractor(
            feature_size=config.num_mel_bins, chunk_length=config.max_source_positions // POSITIONS_PER_SECOND
        )
        return cls(WhisperEncoder(config), extractor, taps)

    @property
    def dim(self) -> int:
        """Width of the states."""
        return self.whisper.config.d_model

    @property
    def window_seconds(self) -> int:
        """Length of the input window in seconds."""
        return self.extractor.chunk_length

    def check_window(self, waveforms: Sequence[np.ndarray], where: str = "") -> None:
        """Raise UserError, beginning with `where`, for a mono 16 kHz waveform that is longer than the window."""
        seconds = max(map(len, waveforms), default=0) / SAMPLE_RATE
        if seconds > self.window_seconds:
            raise UserError(
                f"{where}an audio of {seconds:.2f} s exceeds the encoder's window of {self.window_seconds} s; "
                f"reject or split such clips at ingest (--max-seconds {self.window_seconds})"
            )

    def features(self, waveforms: list[np.ndarray]) -> Tensor:
        """Log-mel features float32 [A, mel, frames] of A mono 16 kHz waveforms, each padded to the window."""
        self.check_window(waveforms)
        device = str(self.whisper.conv1.weight.device)
        extracted = self.extractor(waveforms, sampling_rate=SAMPLE_RATE, return_tensors="pt", device=device)
        return extracted.input_features.float()

    def encode(self, features: Tensor) -> AudioStates:
        """Encode features [A, mel, frames] into the tapped states [A, taps, frames / 2, D].

        With a gradient only where adapters train; then it belongs into an engine's forward.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.adapters is not None):
            return self._perceive(features)

    def _perceive(self, features: Tensor) -> AudioStates:
        weight = self.whisper.conv1.weight
        unnormed: list[Tensor] = []
        hook = self.whisper.layer_norm.register_forward_pre_hook(lambda _, inputs: unnormed.extend(inputs))
        with hook, torch.autocast(weight.device.type, self.autocast, enabled=self.autocast is not None):
            output = self.whisper(features.to(weight.device, weight.dtype), output_hidden_states=True)
        states = list(output.hidden_states)
        if not self.final_norm:
            states[-1] = unnormed[0]
        return AudioStates(torch.stack([states[tap + 1] for tap in self.taps], dim=1))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the encoder as a Whisper checkpoint without a decoder, loadable by `from_pretrained`."""
        no_decoder = {"decoder_layers": 0, "vocab_size": 1, "max_target_positions": 1}
        no_text = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
        config = WhisperConfig(**{**self.whisper.config.to_dict(), **no_decoder, **no_text})
        model = WhisperModel(config).to(self.whisper.conv1.weight.dtype)
        for parameter in model.decoder.parameters():  # random embeddings, though nothing reads them
            nn.init.zeros_(parameter)
        model.encoder.load_state_dict(self.whisper.state_dict())
        model.save_pretrained(folder)
        self.extractor.save_pretrained(folder)


def with_features(batch: Batch, samples: Sequence[Sample], encoder: SpeechEncoder) -> Batch:
    """The batch of these samples with the features of their audios; an audio that several share is there once."""
    for sample in samples:
        encoder.check_window(sample.waveforms, f"sample {sample.key}: ")
    waveforms = [waveform for sample in samples for waveform in sample.waveforms]
    different: dict[bytes, int] = {}
    index = [different.setdefault(waveform.tobytes(), len(different)) for waveform in waveforms]
    features = encoder.features([np.frombuffer(waveform, np.float32) for waveform in different])
    return replace(batch, features=features.cpu(), audio_index=torch.tensor(index))


def _pretrained_whisper(name: str | Path, window_seconds: int) -> tuple[WhisperEncoder, WhisperFeatureExtractor]:
    whisper = pretrained(WhisperModel, name, "Whisper encoder", dtype=torch.float32).get_encoder()
    try:
        return whisper, WhisperFeatureExtractor.from_pretrained(name, chunk_length=window_seconds)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: no feature extractor there ({reason}); give a hub id or a folder") from error


def _random_whisper(path: str | Path, window_seconds: int) -> tuple[WhisperEncoder, WhisperFeatureExtractor]:
    values = read_architecture(path)
    if values["model_type"] != "whisper":
        raise UserError(f"{path}: its model_type is {values['model_type']}; an encoder's must be whisper")
    try:
        config = WhisperConfig(**values)
        whisper = WhisperEncoder(config)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise UserError(f"{path}: no encoder can be built of it: {' '.join(str(error).split())[:200]}") from error
    return whisper, WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=window_seconds)


def _cut_window(whisper: WhisperEncoder, positions: int) -> None:
    table = whisper.embed_positions
    if positions > table.num_embeddings:
        have = table.num_embeddings // POSITIONS_PER_SECOND
        asked = positions // POSITIONS_PER_SECOND
        raise UserError(f"student.window_seconds: a window of {asked} s exceeds the encoder's {have} s; lower it")
    whisper.embed_positions = nn.Embedding.from_pretrained(table.weight[:positions].clone(), freeze=True)
    whisper.config.max_source_positions = whisper.max_source_positions = positions
