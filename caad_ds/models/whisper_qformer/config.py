"""The shape of a speech language model, as its folder's config.json has it."""

from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from .qformer import ConnectorForm


class SpeechLMConfig(PreTrainedConfig):
    """Shape of a `SpeechLM` and where its frozen encoder is.

    `encoder` is a hub id, or a folder relative to the model's own; None is its `encoder/`. `lora` holds the settings of
    the adapters on the LLM (`rank`, `alpha`, `dropout`, `targets`), if it has any.
    """

    model_type = "caad_speech_lm"
    sub_configs: ClassVar = {"llm_config": AutoConfig}

    llm_config: Any = None
    encoder: str | None = None
    encoder_dim: int = 0
    window_seconds: int = 30
    taps: list[int] | None = None
    num_queries: int = 64
    qformer_layers: int = 2
    qformer_heads: int = 8
    normalize_states: bool = False
    connector: ConnectorForm = "blip2"
    lora: dict | None = None

    def __post_init__(self, **kwargs):
        if isinstance(self.llm_config, dict):
            self.llm_config = AutoConfig.for_model(**self.llm_config)
        super().__post_init__(**kwargs)
        if self.llm_config is not None:
            self.tie_word_embeddings = getattr(self.llm_config, "tie_word_embeddings", False)
