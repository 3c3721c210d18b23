"""The shape of a speech language model, stored in its folder's config.json."""

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig, WhisperConfig

from .qformer import ConnectorForm


class SpeechLMConfig(PreTrainedConfig):
    """Shape of a `SpeechLM` and of the frozen encoder that feeds it.

    `encoder_config` is the encoder's, whose weights are then among the model's; in older folders without it they are in
    `encoder`, a hub id or a folder relative to the model's, None being its `encoder/`. `audio_token_id` marks the
    positions of audio in a prompt, `num_queries` for each; it may be outside the LLM's vocabulary. `lora` holds the
    settings of the adapters on the LLM (`rank`, `alpha`, `dropout`, `targets`), if it has any.
    """

    model_type = "caad_speech_lm"
    sub_configs: ClassVar = {"llm_config": AutoConfig, "encoder_config": WhisperConfig}

    llm_config: Any = None
    encoder_config: Any = None
    encoder: str | None = None
    encoder_dim: int = 0
    window_seconds: int = 30
    taps: list[int] | None = None
    num_queries: int = 64
    qformer_layers: int = 2
    qformer_heads: int = 8
    normalize_states: bool = False
    connector: ConnectorForm = "blip2"
    audio_token_id: int | None = None
    lora: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.llm_config, dict):
            self.llm_config = AutoConfig.for_model(**self.llm_config)
        if isinstance(self.encoder_config, dict):
            self.encoder_config = WhisperConfig(**self.encoder_config)
        super().__post_init__(**kwargs)
        if self.llm_config is not None:
            self.tie_word_embeddings = getattr(self.llm_config, "tie_word_embeddings", False)

    @property
    def final_norm(self) -> bool:
        """Whether a tap on the encoder's last layer is read after its final LayerNorm; DeSTA's are read before it."""
        return self.connector != "desta"

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Return the LLM's config."""
        return self if self.llm_config is None else self.llm_config.get_text_config(decoder=decoder, encoder=encoder)
