"""Wrap a processor whose tokenizer is mistral-common's, with a transformers tokenizer for readers."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from transformers import VoxtralProcessor

from caad_ds.data.audio.usable_audio import SAMPLE_RATE
from caad_ds.models.prompts.tekken import AUDIO, NO_SYSTEM_BESIDE_AUDIO, TEMPLATE, tekken_tokenizer
from caad_ds.models.reader import TRANSCRIPT
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json

MOST_WINDOWS = 80  # 40 minutes, its makers' limit for questions about audio; the LLM's positions end sooner
WHOLE = "give a complete folder"
SYSTEM_BESIDE_AUDIO = 13  # the version from which mistral-common takes both in one conversation
SETTINGS = "tokenizer_config.json"  # has a trained model's settings in all families; not a file of mistral-common


class TekkenProcessor:
    """A processor for readers, with a transformers tokenizer in place of mistral-common's.

    `own` is the family's. It saves the published layout, and beside it a run's settings.
    """

    audio_token = AUDIO

    def __init__(self, own: VoxtralProcessor, folder: Path):
        self.own, self.feature_extractor = own, own.feature_extractor
        self._tekken = (folder / "tekken.json").read_bytes()  # the folder may be gone when a model is saved
        self._usual = TEMPLATE if self.version >= SYSTEM_BESIDE_AUDIO else NO_SYSTEM_BESIDE_AUDIO + TEMPLATE
        settings = folder / SETTINGS
        kept = read_json(settings, WHOLE) if settings.is_file() else {}
        self.chat_template = kept.get("chat_template", self._usual)
        self.tokenizer = tekken_tokenizer(folder / "tekken.json", self.chat_template)
        if TRANSCRIPT in kept:
            self.tokenizer.init_kwargs[TRANSCRIPT] = kept[TRANSCRIPT]

    @property
    def window(self) -> int:
        """The number of samples in a window."""
        return self.feature_extractor.n_samples

    @property
    def longest_seconds(self) -> float:
        """Length of the most windows that the family takes."""
        return MOST_WINDOWS * self.window / SAMPLE_RATE

    @property
    def encoder(self) -> Any:
        """mistral-common's audio encoder."""
        return self.own.tokenizer.tokenizer.instruct_tokenizer.audio_encoder

    @property
    def version(self) -> int:
        """Version of mistral-common's rules for conversations, such as 7."""
        return int(self.own.tokenizer.tokenizer.instruct_tokenizer.tokenizer.version.value.removeprefix("v"))

    def ids(self, chat: Sequence[dict[str, Any]], waveform: np.ndarray) -> list[int]:
        """Return mistral-common's tokens of a conversation, with `waveform` as each audio."""
        file = io.BytesIO()
        soundfile.write(file, waveform, SAMPLE_RATE, format="WAV", subtype="FLOAT")
        clip = {"type": "audio", "base64": base64.b64encode(file.getvalue()).decode()}
        filled = [
            {**message, "content": message["content"] if isinstance(message["content"], str) else
             [clip if part["type"] == "audio" else part for part in message["content"]]}
            for message in chat
        ]  # fmt: skip
        return self.own.tokenizer.apply_chat_template(filled, tokenize=True, return_dict=True)["input_ids"]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files that VoxtralProcessor reads, and the settings that differ from the published ones."""
        folder = Path(folder)
        self.feature_extractor.save_pretrained(folder)
        (folder / "tekken.json").write_bytes(self._tekken)
        kept = {name: value for name, value in self.tokenizer.init_kwargs.items() if name == TRANSCRIPT}
        if self.tokenizer.chat_template != self._usual:
            kept["chat_template"] = self.tokenizer.chat_template
        if kept:
            (folder / SETTINGS).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def load_processor(folder: Path) -> TekkenProcessor:
    """Load the processor of a folder; UserError if a file is missing, broken, or of another model."""
    if not (folder / "tekken.json").is_file():
        raise UserError(f"{folder}: its processor lacks a tokenizer (tekken.json); {WHOLE}")
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise UserError(f"{folder}: its processor lacks a feature extractor (preprocessor_config.json); {WHOLE}")
    try:
        own = VoxtralProcessor.from_pretrained(folder)
        encoder = own.tokenizer.tokenizer.instruct_tokenizer.audio_encoder
        if encoder is None:
            raise UserError(f"{folder}: its tekken.json has no audio section; take that of a Voxtral")
        config, extractor = encoder.audio_config, own.feature_extractor
        if (config.sampling_rate, config.chunk_length_s) != (extractor.sampling_rate, extractor.chunk_length):
            raise UserError(
                f"{folder}: its tekken.json has windows of {config.chunk_length_s} s at {config.sampling_rate} Hz, its "
                f"feature extractor of {extractor.chunk_length} s at {extractor.sampling_rate} Hz; take those of one "
                "model"
            )
        return TekkenProcessor(own, folder)
    except UserError:
        raise
    except Exception as error:  # mistral-common may raise anything on other files
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UserError(f"{folder}: no processor there that loads ({reason}); {WHOLE}") from error
