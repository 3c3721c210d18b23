"""The interface of audio language models of all families for training, decoding and evaluation."""

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
from caad_ds.models.language_model.load_llm import lm_head, position_limit
from caad_ds.models.reader import Reader
from caad_ds.utils.errors import UserError

NamedTensors = Iterable[tuple[str, Tensor]]
# Names in transformers configs of placeholder tokens for audio or images, and of their begin and end tokens.
PLACEHOLDER = re.compile(r"(audio|image|video|vision|boi|eoi|boa|eoa).*token_(id|index)$")


class AudioLM(ABC):
    """An audio language model. It is not a module itself: engines hold `module`, whose names checkpoints use.

    `reader` makes its batches. LoRA and gradient checkpointing apply to `decoder`; `connector` is what the paper trains
    between audio and text; `tower` is the audio encoder, frozen unless it has adapters.
    """

    family: str
    module: PreTrainedModel
    reader: Reader

    def __init__(self) -> None:
        self._encoded: dict[str, Audio] = {}

    @property
    @abstractmethod
    def generator(self) -> PreTrainedModel:
        """The causal LM with its head, whose `generate` decodes answers."""

    @property
    @abstractmethod
    def decoder(self) -> PreTrainedModel:
        """The language model."""

    @property
    @abstractmethod
    def connector(self) -> nn.Module:
        """The projection of the tower's states to the decoder's embeddings."""

    @property
    @abstractmethod
    def tower(self) -> nn.Module:
        """The audio encoder."""

    # -- what it computes ---------------------------------------------------------------------------------------------

    @abstractmethod
    def hidden(self, batch: Batch) -> Tensor:
        """Compute final hidden states [N, H] at the answer rows of a prepared batch (after the last norm)."""

    @abstractmethod
    def hidden_and_path(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute the same, and a number that depends on the connector's weights even if no sample has audio."""

    @abstractmethod
    def generation_inputs(self, batch: Batch) -> dict[str, Any]:
        """Return a prepared, left-padded batch as arguments of `generate`."""

    def encode(self, audio: Audio) -> Audio:
        """Run the modules outside the engines on audio; by default there are none."""
        return audio

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with its audio encoded; a constant is encoded once."""
        if not batch.constant:
            return replace(batch, audio=self.encode(batch.audio))
        if batch.constant not in self._encoded:
            self._encoded[batch.constant] = self.encode(batch.audio)
        return replace(batch, audio=self._encoded[batch.constant])

    def forget_constants(self) -> None:
        """Encode constants again when they are next used."""
        self._encoded.clear()

    def head(self) -> LMHead:
        """Return the LM head; under ZeRO-3 read it only inside a gathering context."""
        return lm_head(self.generator)

    @property
    def position_limit(self) -> int | None:
        """The most positions that it reads, if its config has a limit."""
        return position_limit(self.generator.config)

    @property
    def stops(self) -> Any:
        """The `eos_token_id` of its generation config."""
        return self.generator.generation_config.eos_token_id  # type: ignore[union-attr]

    @property
    def placeholders(self) -> list[int]:
        """The placeholder tokens of audio and images in its config, which no answer may contain."""
        named = vars(self.generator.config).items()
        return sorted({value for name, value in named if PLACEHOLDER.search(name) and isinstance(value, int)})

    def parts(self) -> dict[str, nn.Module]:
        """Return tower, connector and decoder by name; none contains another."""
        return {"encoder": self.tower, "connector": self.connector, "llm": self.decoder}

    def to(self, device: torch.device | str) -> "AudioLM":
        """Move all of the model to a device, in place."""
        nn.Module.to(self.module, device)
        return self

    # -- what training does to it -------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def lora(self) -> dict[str, Any] | None:
        """The settings of its LoRA adapters, if it has any."""

    @abstractmethod
    def add_adapters(self, settings: dict[str, Any]) -> None:
        """Add new adapters to the decoder, and to the tower if `settings` (LoraSection) say so."""

    @abstractmethod
    def merge_adapters(self) -> None:
        """Merge the decoder's adapters into its weights."""

    @abstractmethod
    def keep_first_layers(self, layers: int) -> None:
        """Keep only the decoder's first `layers` layers; UserError if it has fewer."""

    @abstractmethod
    def rebuilt(self, weights: Mapping[str, Tensor], dtype: torch.dtype) -> "AudioLM":
        """Return a new model with trained weights, in `dtype`: an engine partitions the weights of this one.

        `weights` has all weights under this model's names; a tied head may be left out. Buffers are copied.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the family's published layout, from which `auto.load` loads the same model."""

    @property
    def trains_tower_inside(self) -> bool:
        """Whether the tower, otherwise outside the engines, must run in the student's engine, since it trains."""
        return False

    def with_tower_states(self, batch: Batch) -> Batch:
        """Return the batch with its audio encoded by that tower."""
        return batch

    def extra_modules(self) -> Mapping[str, nn.Module]:
        """Return the modules of a student's engine besides `module`, by their names in checkpoints."""
        return {}

    def shares_encoding(self, other: "AudioLM") -> bool:
        """Return whether the other's `encode` has the same result, so one run serves both."""
        return False

    def compute_outside_in(self, dtype: torch.dtype | None) -> None:
        """Set the dtype of matrix products outside the engines; None: that of the weights."""
        return

    def keep_encoded(self, limit: float) -> None:
        """Cache the frozen encoder's outputs, up to `limit` bytes of host memory; UserError if it cannot."""
        raise UserError(
            f"student.keep_encoded_gb: the encoder of a {self.family} lies in the student's engine, so that its states "
            "cannot be kept; set it to 0"
        )

    def adopt_encoding(self, other: "AudioLM") -> None:
        """Replace the modules outside the engines by the other's, which compute the same."""
        return

    def modules_outside(self) -> Mapping[str, nn.Module]:
        """Return the modules that are not part of `module`, by name."""
        return {}

    def tensors_outside(self) -> NamedTensors:
        """Return the weights that are not part of `module`, in a fixed order, for the hash of frozen weights."""
        return ()

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Yield all weights, under their names in checkpoints."""
        yield from self.module.named_parameters()
        for prefix, module in self.extra_modules().items():
            yield from ((f"{prefix}.{name}", parameter) for name, parameter in module.named_parameters())

    def choose_weights(self, mode: str) -> None:
        """Make weights trainable by `mode` (`connector`, `lora` or `all`); the connector's always are."""
        in_tower = {id(parameter) for parameter in self.tower.parameters()}
        connecting = {id(parameter) for parameter in self.connector.parameters()}
        for name, parameter in self.module.named_parameters():
            adapter = "lora_" in name and mode == "lora"
            whole = mode == "all" and id(parameter) not in in_tower
            parameter.requires_grad_(id(parameter) in connecting or adapter or whole)

    def freeze_running_parts(self) -> None:
        """After `train()`: keep frozen parts in evaluation mode, without dropout or changes of statistics."""
        return

    def checkpoint_activations(self) -> None:
        """Recompute the decoder's activations in backward instead of keeping them."""
        self.decoder.activation_checkpointing_enable()

    def set_attention(self, attention: str) -> None:
        """Set the decoder's attention implementation; UserError if it is not supported."""
        try:
            self.decoder.set_attn_implementation(attention)
        except ValueError as error:
            kind = type(self.decoder).__name__
            raise UserError(f"run.attention: a {kind} has no {attention} in transformers; set it to eager") from error
