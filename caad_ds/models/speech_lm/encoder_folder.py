"""Load a Whisper encoder from a checkpoint or an architecture file, and save it to a folder."""

import re
from pathlib import Path
from typing import ClassVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from caad_ds.models.architecture import is_architecture, read_architecture
from caad_ds.models.pretrained import pretrained
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.utils.errors import UserError, first_line
from caad_ds.utils.files import read_json

INSIDE = "encoder.whisper."  # prefix of its weights' names among a speech model's


class EncoderInside(WhisperEncoder):
    """The encoder among a speech model's weights; the others are silently ignored."""

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^(llm|connector)\."]  # type: ignore[misc]


def load_encoder(name: str | Path, taps: list[int], window_seconds: int, final_norm: bool = True) -> SpeechEncoder:
    """Load a Whisper encoder cut to `window_seconds` (whole seconds).

    `name` is a hub id or a folder, which may be a speech model's, or an architecture file (.json) for random weights.

    Raises:
        UserError: it does not exist, or lacks these layers or that window.
    """
    if is_architecture(name):
        whisper, extractor = _random_whisper(name, window_seconds)
    else:
        whisper, extractor = _pretrained_whisper(name, window_seconds)
    layers = whisper.config.encoder_layers
    if any(not 0 <= tap < layers for tap in taps):
        raise UserError(f"{name}: taps {taps} do not fit an encoder of {layers} layers; use 0 to {layers - 1}")
    encoder = SpeechEncoder(whisper, extractor, taps, final_norm)
    try:
        encoder.cut_window(window_seconds)
    except ValueError as error:
        raise UserError(f"student.window_seconds: {error}; lower it") from error
    return encoder


def recorded_encoder(name: str) -> str | None:
    """Return the hub id that a model's config records for its encoder; None for a local one, whose weights are copied
    into the model's folder."""
    return None if Path(name).exists() else name


def unloaded_encoder(name: str | Path, taps: list[int], window_seconds: int) -> SpeechEncoder:
    """Load an encoder's feature extractor, but no weights; `name` as in `load_encoder`.

    UserError if it does not exist.
    """
    try:
        config = config_inside(name) or WhisperConfig.from_pretrained(name)
        extractor = WhisperFeatureExtractor.from_pretrained(name, chunk_length=window_seconds)
    except (OSError, ValueError, StrictDataclassError) as error:
        reason = first_line(error)
        raise UserError(f"{name}: no Whisper encoder that loads ({reason}); give a complete folder") from error
    return SpeechEncoder(WhisperEncoder(config), extractor, taps)


def config_inside(name: str | Path) -> WhisperConfig | None:
    """Return the config of the encoder among a speech model's weights in a folder; None if there is none."""
    file = Path(name) / "config.json"
    values = read_json(file, "give a complete folder") if file.is_file() else {}
    return WhisperConfig(**values["encoder_config"]) if values.get("encoder_config") else None


def save_encoder(folder: str | Path, encoder: SpeechEncoder) -> None:
    """Write the encoder as a Whisper checkpoint without decoder weights, which `load_encoder` reads."""
    no_decoder = {"decoder_layers": 0, "vocab_size": 1, "max_target_positions": 1}
    no_text = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    config = WhisperConfig(**{**encoder.whisper.config.to_dict(), **no_decoder, **no_text})
    model = WhisperModel(config).to(encoder.whisper.conv1.weight.dtype)
    for parameter in model.decoder.parameters():  # random embeddings that nothing reads
        nn.init.zeros_(parameter)
    model.encoder.load_state_dict(encoder.whisper.state_dict())
    model.save_pretrained(folder)
    encoder.extractor.save_pretrained(folder)


def _pretrained_whisper(name: str | Path, window_seconds: int) -> tuple[WhisperEncoder, WhisperFeatureExtractor]:
    if config := config_inside(name):
        ours = {rf"^{re.escape(INSIDE)}": ""}
        whisper = pretrained(
            EncoderInside, name, "Whisper encoder", dtype=torch.float32, config=config, key_mapping=ours
        )
    else:
        whisper = pretrained(WhisperModel, name, "Whisper encoder", dtype=torch.float32).get_encoder()
    try:
        return whisper, WhisperFeatureExtractor.from_pretrained(name, chunk_length=window_seconds)
    except OSError as error:
        reason = first_line(error)
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


def encoder_of(folder: Path, encoder: str | None) -> str | Path:
    """Return where a model folder's encoder weights are: among its own, or at its config's `encoder`."""
    return folder if config_inside(folder) else named_encoder(folder, encoder)


def named_encoder(folder: Path, encoder: str | None) -> str | Path:
    """Resolve `encoder` of a model folder's config: a folder, or else a hub id."""
    beside = folder / (encoder or "encoder")
    return beside if encoder is None or beside.is_dir() else encoder
