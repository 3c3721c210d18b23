"""A model's inputs for an audio of given length: shapes of features, real masks, and number of positions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caad_ds.data.audio.levels import SAMPLE_RATE
from caad_ds.data.batch import Audio
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.processor_reader import PROCESSOR_FILES, WINDOWS
from caad_ds.models.transformers_lm import TransformersLM
from caad_ds.training.plan.meta_models import MetaModel
from caad_ds.training.plan.shape_run import ShapeRun
from caad_ds.utils.errors import UserError

FRAMES = 100  # of Whisper's features, per second


def audio_inputs(model: MetaModel, seconds: float) -> tuple[Audio, int]:
    """Return the inputs of one audio, and its number of positions in the text.

    They come from the processor in the model's folder if there is one. UserError if the family needs its processor and
    it is missing.
    """
    lm = model.lm
    if isinstance(lm, SpeechAudioLM):
        mel, window = lm.encoder.whisper.config.num_mel_bins, lm.encoder.window_seconds
        return {"features": _meta(1, mel, FRAMES * window)}, lm.module.config.num_queries
    assert isinstance(lm, TransformersLM)
    folder = model.described.folder
    if folder is not None and all(any(folder.glob(n) for n in names) for names in PROCESSOR_FILES.values()):
        reader = lm.reads.load(lm.of, folder)
        features = reader.features([np.zeros(max(1, round(seconds * SAMPLE_RATE)), np.float32)])
        inputs = {n: each.to("meta") if each.is_floating_point() else each for n, each in features.audio.items()}
        return inputs, features.positions[0]
    if lm.family not in WHISPER_LIKE:
        raise UserError(
            f"{model.described.name}: what the processor of a {lm.family} makes of audio is not known without it; give "
            "the folder of a model, with its processor's files"
        )
    audio = WHISPER_LIKE[lm.family](model.config.audio_config, seconds)
    return audio, _positions(lm, audio)


def _positions(lm: TransformersLM, audio: Audio) -> int:
    """Count the embeddings that the tower and the projector output."""
    body = lm.module.base_model
    if not hasattr(body, "get_audio_features"):  # Qwen2-Audio, whose tower computes it from its mask
        return int(lm.tower._get_feat_extract_output_lengths(audio["feature_attention_mask"].sum(-1))[1])  # type: ignore[operator]
    given = lm.reads.inputs({name: value[torch.tensor([0])] for name, value in audio.items()})
    dtype = lm.dtype
    with torch.no_grad(), ShapeRun(lm.module.parameters()):
        output = body.get_audio_features(  # type: ignore[operator]
            **{name: each.to(dtype) if each.is_floating_point() else each for name, each in given.items()}
        )
    states: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return states.flatten(0, -2).shape[0]


def _whole_window(config: Any, seconds: float) -> Audio:
    """Return features padded to one window, and a mask of their frames."""
    frames = 2 * config.max_source_positions
    return {
        "input_features": _meta(1, config.num_mel_bins, frames),
        "feature_attention_mask": _mask(1, frames, round(seconds * FRAMES)),
    }


def _whole_seconds(config: Any, seconds: float) -> Audio:
    """Return features padded to whole seconds (thinker_lm.py), and a mask of their frames."""
    frames = FRAMES * (int(seconds + 400 / SAMPLE_RATE) + 1)
    return {
        "input_features": _meta(1, config.num_mel_bins, frames),
        "feature_attention_mask": _mask(1, frames, round(seconds * FRAMES)),
    }


def _windows(config: Any, seconds: float) -> Audio:
    """Return whole windows without a mask."""
    frames = 2 * config.max_source_positions
    windows = max(1, -(-round(seconds * FRAMES) // frames))
    features = _meta(1, windows, config.num_mel_bins, frames)
    return {"input_features": features, WINDOWS: torch.tensor([windows])}


def _masked_windows(config: Any, seconds: float) -> Audio:
    """Return whole windows, with a mask of their frames."""
    positions = getattr(config, "max_source_positions", None) or config.max_position_embeddings
    frames = 2 * positions
    windows = max(1, -(-round(seconds * FRAMES) // frames))
    mask = _mask(1, windows * frames, round(seconds * FRAMES)).view(1, windows, frames)
    features = _meta(1, windows, config.num_mel_bins, frames)
    return {"input_features": features, "input_features_mask": mask, WINDOWS: torch.tensor([windows])}


WHISPER_LIKE: dict[str, Callable[[Any, float], Audio]] = {
    "qwen2_audio": _whole_window,
    "qwen2_5_omni": _whole_seconds,
    "voxtral": _windows,
    "audioflamingo3": _masked_windows,
    "glmasr": _masked_windows,
}


def placeholder(lm: AudioLM) -> int:
    """Return the placeholder id of audio; our own family has none, and accepts any."""
    config = lm.module.config
    names = ("audio_token_id", "audio_token_index")
    return next((int(getattr(config, name)) for name in names if getattr(config, name, None) is not None), 1)


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _mask(rows: int, length: int, own: int) -> Tensor:
    mask = torch.zeros(rows, length, dtype=torch.long)
    mask[:, : max(1, min(own, length))] = 1
    return mask
