"""Our own family: a frozen Whisper outside the engines, a Q-Former connector and any causal LM (`whisper_qformer/`)."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from caad_ds.data.audio.usable_audio import SAMPLE_RATE
from caad_ds.data.batch import Audio, Batch, len_of
from caad_ds.models.audio_lm import AudioLM, NamedTensors
from caad_ds.models.language_model.first_layers import keep_first_layers
from caad_ds.models.prompts.prompt_encoder import PromptEncoder
from caad_ds.models.reader import Features, Reader, holds_transcripts
from caad_ds.models.speech_lm import adapters
from caad_ds.models.speech_lm import folder as folders
from caad_ds.models.speech_lm.embed import merge_audio
from caad_ds.models.speech_lm.kept_states import KeptStates
from caad_ds.models.whisper_qformer.audio_states import AudioStates
from caad_ds.models.whisper_qformer.config import SpeechLMConfig
from caad_ds.models.whisper_qformer.embedded_batch import Embedded
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.llm_forward import accepted
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.errors import UserError

FAMILY = SpeechLMConfig.model_type


class SpeechReader(Reader):
    """K positions for each audio of any length; features of the encoder's whole window, without a mask."""

    family = FAMILY

    def __init__(self, tokenizer: Any, encoder: SpeechEncoder, num_queries: int, **prompts: Any):
        super().__init__()
        self.encoder = encoder
        self.longest_seconds = encoder.window_seconds
        self.window = encoder.window_seconds * SAMPLE_RATE
        self.prompts = PromptEncoder(tokenizer, num_queries, transcripts=holds_transcripts(tokenizer), **prompts)

    def features(self, waveforms: Sequence[np.ndarray]) -> Features:
        """Compute log-mel `features` float32 [U, mel, frames], and K positions for each audio."""
        extracted = self.encoder.features(list(waveforms)).cpu()
        return Features({"features": extracted}, [self.prompts.num_queries] * len(extracted))

    def positions_of(self, seconds: float) -> int:
        """Return K."""
        return self.prompts.num_queries

    def features_identity(self) -> dict[str, Any]:
        """Return the encoder's features and window, and K."""
        return {
            "mel bins": self.encoder.extractor.feature_size,
            "window in s": self.encoder.window_seconds,
            "positions per audio": self.prompts.num_queries,
        }


class SpeechAudioLM(AudioLM):
    """A SpeechLM with the encoder that feeds it. An encoder that trains runs in the student's engine."""

    family = FAMILY
    module: SpeechLM
    reader: SpeechReader
    kept: KeptStates | None = None

    def __init__(self, model: SpeechLM, encoder: SpeechEncoder, tokenizer: Any, **prompts: Any):
        super().__init__()
        self.module = model
        self.encoder = encoder
        self.reader = SpeechReader(tokenizer, encoder, model.config.num_queries, **prompts)

    @property
    def generator(self) -> PreTrainedModel:
        """The causal LM."""
        return self.module.llm

    @property
    def decoder(self) -> PreTrainedModel:
        """The causal LM."""
        return self.module.llm

    @property
    def connector(self) -> nn.Module:
        """The Q-Former."""
        return self.module.connector

    @property
    def tower(self) -> nn.Module:
        """The Whisper encoder."""
        return self.encoder

    def encode(self, audio: Audio) -> Audio:
        """Compute the tapped `states` [U, taps, frames, D] of features, if the encoder is frozen."""
        if self.trains_tower_inside:
            return audio
        return self._tapped(audio)

    def _tapped(self, audio: Audio) -> Audio:
        if not len_of(audio):  # audio was removed
            return {}
        if "features" not in audio:
            return audio
        if self.kept is not None:
            return {"states": self.kept.encode(audio["features"])}
        return {"states": self.encoder.encode(audio["features"]).hidden}

    def with_tower_states(self, batch: Batch) -> Batch:
        """Return the batch with the states of a trainable encoder."""
        return replace(batch, audio=self._tapped(batch.audio))

    def projected(self, audio: Audio) -> Tensor:
        """Compute the connector's outputs [U, K, E] of U encoded audios."""
        if not len_of(audio):  # a batch whose audio was removed
            shape = 0, self.module.config.num_queries, self.module.connector.project.out_features
            return torch.zeros(shape, device=self.module.device)
        return self.module.project(AudioStates(audio["states"]))

    def embedded(self, batch: Batch) -> Embedded:
        """Embed a prepared batch for the causal LM."""
        return merge_audio(self.module, batch, self.projected(batch.audio)[batch.audio_index])

    def hidden(self, batch: Batch) -> Tensor:
        """Compute final hidden states [N, H] at the answer rows."""
        return self.module.hidden_states(self.embedded(batch))

    def hidden_and_path(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute the same, and a number of the connector's output."""
        audio = self.projected(batch.audio)
        return self.module.hidden_states(merge_audio(self.module, batch, audio[batch.audio_index])), audio.flatten()[0]

    def generation_inputs(self, batch: Batch) -> dict[str, Any]:
        """Return embeddings: the causal LM takes no audio."""
        return self.of_embedded(self.embedded(batch))

    def of_embedded(self, embedded: Embedded) -> dict[str, Any]:
        """Return embeddings as arguments of `generate`."""
        return {
            "inputs_embeds": embedded.inputs_embeds,
            "attention_mask": embedded.attention_mask,
            **accepted(self.module.llm, position_ids=embedded.position_ids),
        }

    def to(self, device: torch.device | str) -> "SpeechAudioLM":
        """Move model and encoder to a device, in place."""
        for part in (self.module, self.encoder):
            nn.Module.to(part, device)
        return self

    # -- what training does to it -------------------------------------------------------------------------------------

    @property
    def lora(self) -> dict[str, Any] | None:
        """The settings of adapters in its config."""
        return self.module.config.lora

    def add_adapters(self, settings: dict[str, Any]) -> None:
        """Add new adapters to the LLM, and to the encoder if configured."""
        if self.lora is None:
            adapters.add(self.module, settings)
        if settings["encoder"]:
            adapters.add_to_encoder(self.encoder, settings)
            self.module.config.encoder = None  # no hub id has the trained encoder

    def merge_adapters(self) -> None:
        """Merge only the LLM's; `rebuilt` always merges the encoder's."""
        adapters.merge(self.module)

    def keep_first_layers(self, layers: int) -> None:
        """Keep the LLM's first layers."""
        keep_first_layers(self.module.llm, [self.module.config.llm_config], layers)

    @property
    def trains_tower_inside(self) -> bool:
        """Whether the encoder has adapters, and so trains."""
        return self.encoder.adapters is not None

    def extra_modules(self) -> Mapping[str, nn.Module]:
        """Return the encoder, if it trains."""
        return {"encoder": self.encoder} if self.trains_tower_inside else {}

    def shares_encoding(self, other: AudioLM) -> bool:
        """Return whether the other's encoder gives the same states, both frozen."""
        if not isinstance(other, SpeechAudioLM) or self.trains_tower_inside or other.trains_tower_inside:
            return False
        if self.encoder is other.encoder:
            return True
        alike = (
            getattr(self.encoder, key) == getattr(other.encoder, key)
            for key in ("taps", "window_seconds", "final_norm")
        )
        ours, theirs = self.encoder.whisper.state_dict(), other.encoder.whisper.state_dict()
        return (
            all(alike)
            and ours.keys() == theirs.keys()
            and all(torch.equal(ours[k].cpu(), theirs[k].cpu()) for k in ours)
        )

    def adopt_encoding(self, other: AudioLM) -> None:
        """Use the other's encoder and its cache of states."""
        assert isinstance(other, SpeechAudioLM)  # `shares_encoding` checks it
        self.encoder = self.reader.encoder = other.encoder
        self.kept = other.kept

    def keep_encoded(self, limit: float) -> None:
        """Cache the states of distinct clips."""
        if self.trains_tower_inside:
            raise UserError("student.keep_encoded_gb: the encoder trains, so that its states change; set it to 0")
        self.kept = KeptStates(self.encoder, limit)

    def compute_outside_in(self, dtype: torch.dtype | None) -> None:
        """Set the dtype of the encoder's matrix products."""
        self.encoder.autocast = dtype

    def modules_outside(self) -> Mapping[str, nn.Module]:
        """Return the encoder."""
        return {"encoder": self.encoder}

    def tensors_outside(self) -> NamedTensors:
        """Return the encoder's weights."""
        return sorted(self.encoder.whisper.state_dict().items())

    def rebuilt(self, weights: Mapping[str, Tensor], dtype: torch.dtype) -> "SpeechAudioLM":
        """Return a new model with trained weights, its encoder's adapters merged."""
        with torch.device("meta"):  # initialized at random, a large model would take minutes and twice the memory
            model = SpeechLM(deepcopy(self.module.config))
        whole = {name: weight.to(dtype) for name, weight in weights.items() if not name.startswith("encoder.")}
        buffers = {name: buffer.cpu() for name, buffer in self.module.named_buffers()}
        model.load_state_dict(buffers | whole, strict=False, assign=True)
        model.tie_weights()
        model.llm.generation_config = deepcopy(self.module.llm.generation_config)  # its end tokens
        encoder = self.encoder
        if self.trains_tower_inside:
            part = {name: weight for name, weight in weights.items() if name.startswith("encoder.")}
            part = {name.removeprefix("encoder."): weight.to(dtype) for name, weight in part.items()}
            encoder = adapters.merged_encoder(encoder, part)
        return SpeechAudioLM(model, encoder, self.reader.tokenizer)

    def save(self, folder: Path) -> None:
        """Write a model folder."""
        folders.save(folder, self.module, self.encoder, self.reader.tokenizer)


def load_reader(folder: Path) -> SpeechReader:
    """Load the reader of a folder's model; its encoder has no weights."""
    return SpeechReader(*folders.load_reading(folder))


def load(folder: Path, dtype: torch.dtype) -> SpeechAudioLM:
    """Load the model of a folder in `dtype`, its encoder in fp32."""
    return SpeechAudioLM(*folders.load(folder, dtype))
