"""Voxtral: a Whisper tower over whole windows of 30 s without a mask, a projector of four frames each, Llama."""

import base64
import io
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from transformers import VoxtralProcessor

from caad_ds.data.audio.levels import SAMPLE_RATE
from caad_ds.data.markers import user_content
from caad_ds.models import transformers_lm
from caad_ds.models.family import Family
from caad_ds.models.processor_reader import ProcessorReader, check_packages
from caad_ds.models.prompts.tekken import AUDIO, NO_SYSTEM_BESIDE_AUDIO, TEMPLATE, tekken_tokenizer
from caad_ds.models.reader import TRANSCRIPT, Features
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json

MOST_WINDOWS = 80  # the 40 minutes that its makers name for questions about audio: 30,000 positions
WHOLE = "give a whole folder"
SYSTEM_BESIDE_AUDIO = 13  # the version from which mistral-common takes both in one conversation
SETTINGS = "tokenizer_config.json"  # where every family keeps what a run chose; mistral-common ignores it


class TekkenProcessor:
    """A processor whose tokenizer is mistral-common's, as readers take one: with a tokenizer of transformers.

    `own` is the family's. What is saved is the published layout, and beside it what a run chose.
    """

    audio_token = AUDIO

    def __init__(self, own: VoxtralProcessor, folder: Path):
        self.own, self.feature_extractor = own, own.feature_extractor
        self._tekken = (folder / "tekken.json").read_bytes()  # the folder may be gone when a trained model is saved
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
        """As many windows as the family takes."""
        return MOST_WINDOWS * self.window / SAMPLE_RATE

    @property
    def encoder(self) -> Any:
        """What mistral-common encodes audio with."""
        return self.own.tokenizer.tokenizer.instruct_tokenizer.audio_encoder

    @property
    def version(self) -> int:
        """Of mistral-common's rules for conversations, such as 7."""
        return int(self.own.tokenizer.tokenizer.instruct_tokenizer.tokenizer.version.value.removeprefix("v"))

    def ids(self, chat: Sequence[dict[str, Any]], waveform: np.ndarray) -> list[int]:
        """mistral-common's own tokens of a conversation in which a waveform stands for each audio."""
        file = io.BytesIO()
        soundfile.write(file, waveform, SAMPLE_RATE, format="WAV", subtype="FLOAT")
        heard = {"type": "audio", "base64": base64.b64encode(file.getvalue()).decode()}
        filled = [
            {**each, "content": each["content"] if isinstance(each["content"], str) else
             [heard if part["type"] == "audio" else part for part in each["content"]]}
            for each in chat
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


class VoxtralReader(ProcessorReader):
    """Audio in whole windows, each of as many positions; the levels of all windows of an audio go together."""

    processor: TekkenProcessor

    def __init__(self, processor: TekkenProcessor, *args: Any, **kwargs: Any):
        self._per_window = processor.encoder.audio_config.num_audio_tokens(processor.window)
        super().__init__(processor, *args, **kwargs)

    @classmethod
    def load(cls, family: Family, folder: str | Path, **reading: Any) -> "VoxtralReader":
        """Make it of a folder's files; UserError where one is missing or broken, or its prompts would be others."""
        check_packages(family, str(folder))
        reader = cls(load_processor(Path(folder)), family, **reading)
        reader.check_prompts(str(folder))
        return reader

    def extracted(self, waveforms: Sequence[np.ndarray]) -> Features:
        """The windows of all of them, one after another."""
        mels = [self._mel(waveform) for waveform in waveforms]
        return Features({"input_features": torch.cat(mels)}, [len(mel) * self._per_window for mel in mels])

    def _mel(self, waveform: np.ndarray) -> Tensor:
        """The log-mel windows [W, mel, frames] of one audio."""
        extractor = self.processor.feature_extractor
        settings = {"sampling_rate": SAMPLE_RATE, "truncation": False, "pad_to_multiple_of": self.processor.window}
        made = extractor(waveform, padding=True, return_tensors="pt", **settings)["input_features"]
        return made.reshape(extractor.feature_size, -1, extractor.nb_max_frames).transpose(0, 1).contiguous()

    def positions_of(self, seconds: float) -> int:
        """Those of its windows, the last one whole."""
        return math.ceil(round(seconds * SAMPLE_RATE) / self.processor.window) * self._per_window

    def features_identity(self) -> dict[str, Any]:
        """The feature extractor, the placeholder, and how many positions a window has."""
        return super().features_identity() | {"positions per window": self._per_window}

    def check_prompts(self, name: str) -> None:
        """Refuse a tekken.json of which mistral-common writes other prompts than the template here."""
        clip, turns = np.zeros(self.processor.window + 1, np.float32), ["Hello", "Good day.", "What is it?"]
        chat: list[dict[str, Any]] = [
            {"role": role, "content": text} for role, text in zip(["user", "assistant", "user"], turns, strict=True)
        ]
        record: Any = {"id": "", "audios": [{"path": ""}], "messages": [dict(each) for each in chat]}
        record["messages"][2]["content"] = user_content(turns[2], audios=1)
        chat[2]["content"] = [{"type": "audio"}, {"type": "text", "text": turns[2]}]
        count = self.positions_of(len(clip) / SAMPLE_RATE)
        found = self.prompts.encode(record, with_answer=False, positions=[count]).prompt
        if found != self.processor.ids(chat, clip):
            raise UserError(
                f"{name}: mistral-common writes other prompts of its tekken.json (version {self.processor.version}) "
                "than are known here; take the tekken.json of a Voxtral of 2507"
            )


def load_processor(folder: Path) -> TekkenProcessor:
    """The processor of a folder; UserError where one of its files is missing, broken, or of another model."""
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
    except Exception as error:  # whatever mistral-common raises on a file that is none of its own
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UserError(f"{folder}: no processor there that loads ({reason}); {WHOLE}") from error


class VoxtralLM(transformers_lm.TransformersLM):
    """With the reader of its own."""

    reads = VoxtralReader


FAMILY = Family(
    model_type="voxtral",
    model="VoxtralForConditionalGeneration",
    tower="audio_tower",
    connector="multi_modal_projector",
    longest_seconds=lambda processor: processor.longest_seconds,
    windows=True,
    packages=("mistral_common",),
)

load = partial(transformers_lm.load, FAMILY, lm=VoxtralLM)
build = partial(transformers_lm.build, FAMILY, lm=VoxtralLM)
