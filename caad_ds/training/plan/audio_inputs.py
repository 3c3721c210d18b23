"""A model's inputs for an audio of given length: shapes of features, real masks, and number of positions."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caad_ds.data.audio.usable_audio import SAMPLE_RATE
from caad_ds.data.batch import Audio
from caad_ds.models import auto
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.families import granite_speech
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.processor_reader import PROCESSOR_FILES, WINDOWS
from caad_ds.models.transformers_lm import TransformersLM
from caad_ds.training.plan.meta_models import MetaModel
from caad_ds.training.plan.shape_run import ShapeRun
from caad_ds.utils.errors import UserError
from caad_ds.utils.model_names import is_hub_id

FRAMES = 100  # of features, per second
HOP = SAMPLE_RATE // FRAMES  # samples of a frame


def audio_inputs(model: MetaModel, seconds: float) -> tuple[Audio, int]:
    """Return the inputs of one audio, and its number of positions in the text.

    They come from the processor in the model's folder if there is one; else from the config, with the constants of the
    family's feature extractor. Of a hub id of another family the processor is downloaded; UserError if it is missing.
    """
    lm = model.lm
    if isinstance(lm, SpeechAudioLM):
        mel, window = lm.encoder.whisper.config.num_mel_bins, lm.encoder.window_seconds
        return {"features": _meta(1, mel, FRAMES * window)}, lm.module.config.num_queries
    assert isinstance(lm, TransformersLM)
    of_config = lm.family in WHISPER_LIKE or lm.family in COUNTED
    folder = model.described.folder
    if not _has_processor(folder) and not of_config and is_hub_id(model.described.name):
        folder = auto.local_folder(model.described.name, auto.PROCESSOR)
    if folder is not None and _has_processor(folder):
        reader = lm.reads.load(lm.of, folder)
        features = reader.features([np.zeros(_samples(seconds), np.float32)])
        inputs = {n: each.to("meta") if each.is_floating_point() else each for n, each in features.audio.items()}
        return inputs, features.positions[0]
    if lm.family in COUNTED:
        return COUNTED[lm.family](model.config, seconds)
    if lm.family not in WHISPER_LIKE:
        raise UserError(
            f"{model.described.name}: what the processor of a {lm.family} makes of audio is not known without it; give "
            "a folder with config.json and the processor's files (processor_config.json or preprocessor_config.json, "
            "and the tokenizer's)"
        )
    audio = WHISPER_LIKE[lm.family](model.config.audio_config, seconds)
    return audio, _positions(lm, audio)


def _has_processor(folder: Path | None) -> bool:
    if folder is None:
        return False
    return all(any(next(folder.glob(name), None) for name in names) for names in PROCESSOR_FILES.values())


def _samples(seconds: float) -> int:
    return max(1, round(seconds * SAMPLE_RATE))


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
    """Return features padded to whole seconds (omni_thinker.py), and a mask of their frames."""
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


# Each of these repeats the arithmetic of a family's feature extractor and processor in transformers, at their defaults.


def _granite_speech(config: Any, seconds: float) -> tuple[Audio, int]:
    """Return pairs of mel frames with the padding (granite_speech.py), and a mask of the projector's states."""
    samples = _samples(seconds)
    padded = max(samples, round(granite_speech.SECONDS * SAMPLE_RATE))

    def states(length: int) -> int:
        windows = math.ceil((length // HOP + 1) // 2 / config.window_size)
        return windows * (config.window_size // config.downsample_rate)

    features = _meta(1, (padded // HOP + 1) // 2, config.encoder_config.input_dim)
    mask = _mask(1, states(padded), states(samples)).bool()
    return {"input_features": features, "input_features_mask": mask}, states(samples)


def _musicflamingo(config: Any, seconds: float) -> tuple[Audio, int]:
    """Return Audio Flamingo 3's windows, except a last one without a position (musicflamingo.py)."""
    audio = _masked_windows(config.audio_config, seconds)
    mask = audio["input_features_mask"]
    last = int(mask[0, -1].sum())
    kept = mask.shape[1] - (1 if last < 3 and mask.shape[1] > 1 else 0)
    cut = {name: value[:, :kept] for name, value in audio.items() if name != WINDOWS}
    return {**cut, WINDOWS: torch.tensor([kept])}, (((int(mask.sum()) - 1) // 2 + 1) - 2) // 2 + 1


def _qwen3_asr(config: Any, seconds: float) -> tuple[Audio, int]:
    """Return frames padded to whole seconds, at least half a second of them counted as audio, and their mask."""
    own, second = max(_samples(seconds), SAMPLE_RATE // 2) // HOP, FRAMES
    frames = -(-own // second) * second
    rest = own % second
    for _ in range(3):  # convolutions of stride 2; a whole second has 13 states
        rest = (rest - 1) // 2 + 1
    features = _meta(1, config.audio_config.num_mel_bins, frames)
    return {"input_features": features, "input_features_mask": _mask(1, frames, own)}, own // second * 13 + rest


def _gemma4(config: Any, seconds: float) -> tuple[Audio, int]:
    """Return frames of up to 30 s, padded to 128 samples, and a mask of those within the audio."""
    samples = min(_samples(seconds), 30 * SAMPLE_RATE)
    window = 2 * HOP  # 20 ms; the first is centered at 0
    frames = (-(-samples // 128) * 128 + HOP - (window + 1)) // HOP + 1
    mask = _mask(1, frames, -(-(samples - HOP) // HOP)).bool()
    states = mask[0]
    for _ in range(2):  # convolutions of stride 2
        states = states[::2]
    return {"input_features": _meta(1, frames, 128), "input_features_mask": mask}, int(states.sum())


COUNTED: dict[str, Callable[[Any, float], tuple[Audio, int]]] = {
    "granite_speech": _granite_speech,
    "granite_speech_plus": _granite_speech,
    "musicflamingo": _musicflamingo,
    "qwen3_asr": _qwen3_asr,
    "gemma4": _gemma4,
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
