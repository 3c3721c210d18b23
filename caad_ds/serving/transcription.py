"""Transcribe recordings with an ASR model of transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, pipeline

from caad_ds.data.audio.decode import SAMPLE_RATE
from caad_ds.generation.question import Recording
from caad_ds.models import auto
from caad_ds.models.speech_lm.encoder_folder import encoder_of, named_encoder
from caad_ds.models.whisper_qformer.config import SpeechLMConfig
from caad_ds.utils.errors import UserError, first_line
from caad_ds.utils.files import read_json
from caad_ds.utils.model_names import check_hub_or_folder

NAME_ONE = "name an ASR model (--transcribe=MODEL)"
WHISPER_WINDOW = 30  # seconds; longer audio is transcribed with timestamps


def whisper_of(model: Path) -> str:
    """Return the hub id or folder of the Whisper that a model's encoder comes from; UserError if it has no decoder."""
    folder = auto.local_folder(model)
    config = read_json(folder / "config.json", "give the folder of a model")
    if (kind := config.get("model_type")) != SpeechLMConfig.model_type:
        raise UserError(f"--transcribe: the encoder of {model}, a {kind}, has no decoder that transcribes; {NAME_ONE}")
    named = config.get("encoder")
    source = named_encoder(folder, named) if named else encoder_of(folder, None)
    if isinstance(source, Path):  # the encoder's weights alone
        source = _of_run(folder) or source
    try:
        whisper = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--transcribe: {source}: no Whisper that loads ({_reason(error)}); {NAME_ONE}") from error
    if not getattr(whisper, "decoder_layers", 0):
        raise UserError(f"--transcribe: the encoder of {model} is kept without Whisper's decoder; {NAME_ONE}")
    return str(source)


def _of_run(folder: Path) -> str | None:
    """Return the folder that a model's run read the encoder from, if it still exists."""
    config = folder.parent / "config.yaml"
    if not config.is_file():
        return None
    from caad_ds.config.reading import load_config  # it takes a moment to import

    encoder = load_config(config).student.encoder
    return encoder if encoder and Path(encoder).is_dir() else None


def transcriptions(asr: str, clips: Sequence[Recording], device: torch.device) -> list[str]:
    """Transcribe each clip with an ASR model, a folder or hub id, which is freed afterwards.

    Raises UserError if it does not load, or fails on a clip.
    """
    check_hub_or_folder(asr, "ASR model")
    try:
        # Whatever transformers raises for a folder without a model, or a model of another kind.
        listen: Any = pipeline(
            "automatic-speech-recognition", model=asr, device=device, dtype=torch.float32, trust_remote_code=False
        )
    except Exception as error:
        raise UserError(f"--transcribe {asr}: no ASR model that loads ({_reason(error)}); name another") from error
    said = []
    for clip in clips:
        waveform, _ = clip.measured()
        long = listen.type == "seq2seq_whisper" and len(waveform) > WHISPER_WINDOW * SAMPLE_RATE
        options = {"return_timestamps": True} if long else {}
        try:
            heard = listen({"raw": waveform, "sampling_rate": SAMPLE_RATE}, **options)
        except Exception as error:
            raise UserError(f"--transcribe {asr}: it fails on {clip} ({_reason(error)}); name another") from error
        said.append(heard["text"].strip())
    return said


def _reason(error: Exception) -> str:
    return first_line(error)[:200]
