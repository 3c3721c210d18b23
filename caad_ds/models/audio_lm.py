"""An audio language model as training, decoding and evaluation see it, of whatever family."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from caad_ds.data.batch import Audio, Batch
from caad_ds.loss.head import LMHead
from caad_ds.models.language_model.llm import lm_head, position_limit
from caad_ds.models.reader import Reader
from caad_ds.utils.errors import UserError

NamedTensors = Iterable[tuple[str, Tensor]]
# How configs of transformers name tokens that stand for audio or pictures, or for where these begin and end.
PLACEHOLDER = re.compile(r"(audio|image|video|vision|boi|eoi|boa|eoa).*token_(id|index)$")


class AudioLM(ABC):
    """A model with what is done to it; no module itself: engines hold `module`, whose names checkpoints have.

    `reader` makes its batches. `decoder` is what LoRA and gradient checkpointing are about, `connector` what the paper
    trains between audio and text, `tower` what hears, which is frozen unless it has adapters.
    """

    family: str
    module: PreTrainedModel
    reader: Reader

    def __init__(self) -> None:
        self._encoded: dict[str, Audio] = {}

    @property
    @abstractmethod
    def generator(self) -> PreTrainedModel:
        """The causal LM with its head, whose `generate` writes answers."""

    @property
    @abstractmethod
    def decoder(self) -> PreTrainedModel:
        """The language model."""

    @property
    @abstractmethod
    def connector(self) -> nn.Module:
        """What turns the tower's states into the decoder's embeddings."""

    @property
    @abstractmethod
    def tower(self) -> nn.Module:
        """The audio encoder."""

    # -- what it computes ---------------------------------------------------------------------------------------------

    @abstractmethod
    def hidden(self, batch: Batch) -> Tensor:
        """Final hidden states [N, H] at the answer rows of a prepared batch, after the last norm, before the head."""

    @abstractmethod
    def hidden_and_path(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same, and a number that the connector's weights have a part in even if no answer hears audio."""

    @abstractmethod
    def generation_inputs(self, batch: Batch) -> dict[str, Any]:
        """A prepared, left-padded batch as arguments of `generate`."""

    def encode(self, audio: Audio) -> Audio:
        """Compute what of the audio lies outside the engines, once for all who share it; by default nothing."""
        return audio

    def prepare(self, batch: Batch) -> Batch:
        """The batch with its audio encoded; a constant is encoded once."""
        if not batch.constant:
            return replace(batch, audio=self.encode(batch.audio))
        if batch.constant not in self._encoded:
            self._encoded[batch.constant] = self.encode(batch.audio)
        return replace(batch, audio=self._encoded[batch.constant])

    def head(self) -> LMHead:
        """The LM head; under ZeRO-3 to be read inside a gathering scope only."""
        return lm_head(self.generator)

    @property
    def position_limit(self) -> int | None:
        """The most positions that it reads, where its config names a limit."""
        return position_limit(self.generator.config)

    @property
    def stops(self) -> Any:
        """The `eos_token_id` of its generation config."""
        return self.generator.generation_config.eos_token_id  # type: ignore[union-attr]

    @property
    def placeholders(self) -> list[int]:
        """The tokens that stand for audio or pictures, which no answer may hold, as its config names them."""
        named = vars(self.generator.config).items()
        return sorted({value for name, value in named if PLACEHOLDER.search(name) and isinstance(value, int)})

    def parts(self) -> dict[str, nn.Module]:
        """Its modules that hear and write, by what they are; none holds another."""
        return {"encoder": self.tower, "connector": self.connector, "llm": self.decoder}

    def to(self, device: torch.device | str) -> "AudioLM":
        """Move all of it to a device, in place."""
        nn.Module.to(self.module, device)
        return self

    # -- what training does to it -------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def lora(self) -> dict[str, Any] | None:
        """The settings of its adapters, if it has any."""

    @abstractmethod
    def add_adapters(self, settings: dict[str, Any]) -> None:
        """Put fresh adapters on the decoder, and on the tower where `settings` (LoraSection) ask for it."""

    @abstractmethod
    def merge_adapters(self) -> None:
        """Make the decoder's adapters part of the weights beside them."""

    @abstractmethod
    def keep_first_layers(self, layers: int) -> None:
        """Leave the decoder only its first `layers` layers; UserError where it has fewer."""

    @abstractmethod
    def rebuilt(self, weights: Mapping[str, Tensor], dtype: torch.dtype) -> "AudioLM":
        """The model made again around trained weights, in `dtype`: an engine partitions those of this one.

        `weights` has all under this one's own names; a tied head may be left out. Buffers are taken as they are.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the family's own published layout, from which `auto.load` makes the same model."""

    @property
    def trains_tower_inside(self) -> bool:
        """Whether what else lies outside the engines must run inside the student's, since it trains."""
        return False

    def heard(self, batch: Batch) -> Batch:
        """The batch with that computed."""
        return batch

    def beside(self) -> Mapping[str, nn.Module]:
        """What a student's engine holds beside `module`, by the names that checkpoints have."""
        return {}

    def shares_encoding(self, other: "AudioLM") -> bool:
        """Whether the other's `encode` gives the same, so that one run serves both."""
        return False

    def compute_outside_in(self, dtype: torch.dtype | None) -> None:
        """Let matrix products outside the engines be made in `dtype`; None: in that of the weights."""
        return

    def keep_encoded(self, limit: float) -> None:
        """Keep what the frozen encoder gives, up to `limit` bytes of host memory; UserError where it cannot."""
        raise UserError(
            f"student.keep_encoded_gb: the encoder of a {self.family} lies in the student's engine, so that its states "
            "cannot be kept; set it to 0"
        )

    def adopt_encoding(self, other: "AudioLM") -> None:
        """Use what the other computes outside the engines with in the place of one's own, which gives the same."""
        return

    def modules_outside(self) -> Mapping[str, nn.Module]:
        """What of it is no part of `module`, by name."""
        return {}

    def tensors_outside(self) -> NamedTensors:
        """The weights that are no part of `module`, in a fixed order, for the hash of what is frozen."""
        return ()

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """All weights, under the names that checkpoints have."""
        yield from self.module.named_parameters()
        for prefix, module in self.beside().items():
            yield from ((f"{prefix}.{name}", parameter) for name, parameter in module.named_parameters())

    def choose_weights(self, mode: str) -> None:
        """Let those weights train that `mode` names (`connector`, `lora` or `all`), the connector's always."""
        heard = {id(parameter) for parameter in self.tower.parameters()}
        connecting = {id(parameter) for parameter in self.connector.parameters()}
        for name, parameter in self.module.named_parameters():
            adapter = "lora_" in name and mode == "lora"
            whole = mode == "all" and id(parameter) not in heard
            parameter.requires_grad_(id(parameter) in connecting or adapter or whole)

    def freeze_running_parts(self) -> None:
        """After `train()`: leave what is frozen in evaluation, so that no dropout or statistic of it changes."""
        return

    def checkpoint_activations(self) -> None:
        """Recompute the decoder's activations in backward instead of keeping them."""
        self.decoder.activation_checkpointing_enable()

    def set_attention(self, attention: str) -> None:
        """Let the decoder compute its attention so; UserError where it cannot."""
        try:
            self.decoder.set_attn_implementation(attention)
        except ValueError as error:
            kind = type(self.decoder).__name__
            raise UserError(f"run.attention: a {kind} has no {attention} in transformers; set it to eager") from error
