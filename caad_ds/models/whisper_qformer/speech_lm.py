"""The speech language model: connector and causal LM, from the demo's size to the paper's."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Cache, PreTrainedModel

from .audio_states import AudioStates
from .config import SpeechLMConfig
from .embedded_batch import Embedded
from .llm_forward import embedding_width, hidden_states
from .qformer import QFormerConnector


class SpeechLM(PreTrainedModel):
    """Connector and causal LM of a speech language model; the encoder that feeds it is a `SpeechEncoder`.

    Training's engines hold this module, and checkpoints use its names; `SpeechLMForConditionalGeneration` adds the
    encoder.
    """

    config: SpeechLMConfig
    llm: PreTrainedModel
    connector: QFormerConnector

    config_class = SpeechLMConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    # A model folder also has the encoder's weights.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^encoder\."]  # type: ignore[misc]
    # PEFT's adapters need PEFT: caad_ds sets this when it loads model folders.
    inject_adapters: ClassVar[Callable[[PreTrainedModel, dict[str, Any]], None] | None] = None

    def __init__(self, config: SpeechLMConfig, llm: PreTrainedModel | None = None):
        super().__init__(config)
        # An existing LLM is not initialized at random first: a large model would take its memory twice.
        self.llm = AutoModelForCausalLM.from_config(config.llm_config) if llm is None else llm
        if config.lora is not None:
            inject = type(self).inject_adapters
            if inject is None:
                raise ValueError(
                    "the model's adapters are not merged into its weights; export it without --keep-adapters"
                )
            inject(self.llm, config.lora)
        self.connector = QFormerConnector(
            encoder_dim=config.encoder_dim,
            llm_dim=embedding_width(self.llm),
            taps=len(config.taps or []),
            queries=config.num_queries,
            layers=config.qformer_layers,
            heads=config.qformer_heads,
            normalize=config.normalize_states,
            form=config.connector,
        )
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Do nothing: the parts are initialised by their own classes."""

    @property
    def _tied_weights_keys(self) -> dict[str, str]:  # type: ignore[override]
        return {f"llm.{k}": f"llm.{v}" for k, v in (getattr(self.llm, "_tied_weights_keys", None) or {}).items()}

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the LLM's token embedding."""
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        """Return the LLM's head."""
        return self.llm.get_output_embeddings()

    def project(self, states: AudioStates) -> Tensor:
        """Compute connector outputs [A, K, H] of A audios."""
        return self.connector(states)

    def merge_audio(self, input_ids: Tensor, audio_mask: Tensor, audio: Tensor) -> Tensor:
        """Embed tokens int64 [B, S] as [B, S, H], with connector outputs `audio` [A, K, H] where the mask is true.

        ValueError if the outputs do not fit the mask or the LLM's embeddings.
        """
        tokens = self.get_input_embeddings()(input_ids)
        held, given = int(audio_mask.sum()), audio.shape[0] * audio.shape[1]
        if held != given:
            raise ValueError(
                f"{held} audio positions in the text but {given} connector outputs; "
                "each <|AUDIO|> needs one audio and as many positions as the connector has queries"
            )
        if audio.shape[-1] != tokens.shape[-1]:
            raise ValueError(
                f"connector outputs are {audio.shape[-1]} wide, the LLM's embeddings "
                f"{tokens.shape[-1]}; the model's connector is not one for this LLM"
            )
        return tokens.masked_scatter(audio_mask.unsqueeze(-1), audio.to(tokens.dtype))

    def hidden_states(self, embedded: Embedded, past: Cache | None = None) -> Tensor:
        """Compute final hidden states [N, H] at the answer rows, after the last norm, before the head.

        `past` holds the keys and values of a prefix of `embedded`; if it is empty, it is filled.
        """
        arguments = (embedded.inputs_embeds, embedded.attention_mask, embedded.position_ids)
        return hidden_states(self.llm, *arguments, past).flatten(0, 1)[embedded.answer_rows]
