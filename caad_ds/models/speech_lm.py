"""The speech language model: connector and causal LM; one class from the demo's size to the paper's."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    Cache,
    PreTrainedConfig,
    PreTrainedModel,
)

from caad_ds.data.batch import Batch
from caad_ds.errors import UserError
from caad_ds.files import read_json
from caad_ds.loss.head import LMHead
from caad_ds.models import lora
from caad_ds.models.architecture import is_architecture, read_architecture
from caad_ds.models.encoder import SpeechEncoder
from caad_ds.models.pretrained import pretrained
from caad_ds.models.prompt import FORM, PIECES, form_of
from caad_ds.models.qformer import ConnectorForm, QFormerConnector
from caad_ds.models.states import AudioStates, Embedded, positions
from caad_ds.models.template import TemplateSettings, freeze_template


class SpeechLMConfig(PreTrainedConfig):
    """Shape of a `SpeechLM` and where its frozen encoder is.

    `encoder` is a hub id, or a folder relative to the model's own; None is its `encoder/`. `lora` holds the settings of
    the adapters on the LLM (config.py, LoraSection), if it has any.
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
            self.tie_word_embeddings = self.llm_config.tie_word_embeddings


class SpeechLM(PreTrainedModel):
    """Connector and causal LM of a speech language model; the encoder that feeds it is a `SpeechEncoder`."""

    config_class = SpeechLMConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: SpeechLMConfig, llm: PreTrainedModel | None = None):
        super().__init__(config)
        # One that is there already is not made at random first: large models would take their memory twice.
        self.llm = AutoModelForCausalLM.from_config(config.llm_config) if llm is None else llm
        if config.lora is not None:
            lora.inject(self.llm, config.lora)
        self.connector = QFormerConnector(
            encoder_dim=config.encoder_dim,
            llm_dim=config.llm_config.hidden_size,
            taps=len(config.taps or []),
            queries=config.num_queries,
            layers=config.qformer_layers,
            heads=config.qformer_heads,
            normalize=config.normalize_states,
            form=config.connector,
        )
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """The parts come initialised by their own classes."""

    @property
    def _tied_weights_keys(self) -> dict[str, str]:  # type: ignore[override]
        return {f"llm.{k}": f"llm.{v}" for k, v in (getattr(self.llm, "_tied_weights_keys", None) or {}).items()}

    def get_input_embeddings(self) -> torch.nn.Module:
        """The LLM's token embedding."""
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        """The LLM's head."""
        return self.llm.get_output_embeddings()

    def connect(self, states: AudioStates) -> Tensor:
        """Connector outputs [A, K, H] of A audios."""
        return self.connector(states)

    def place(self, batch: Batch, audio: Tensor) -> Embedded:
        """Token embeddings of the batch with connector outputs `audio` [A, K, H] at its audio positions."""
        tokens = self.get_input_embeddings()(batch.input_ids)
        held, given = int(batch.audio_mask.sum()), audio.shape[0] * audio.shape[1]
        if held != given:
            raise UserError(
                f"batch of {batch.keys[0]}, ...: {held} audio positions in the text but {given} connector outputs; "
                "each <|AUDIO|> needs one audio and as many positions as the connector has queries"
            )
        mixed = tokens.masked_scatter(batch.audio_mask.unsqueeze(-1), audio.to(tokens.dtype))
        return Embedded(mixed, batch.attention_mask, positions(batch.attention_mask), batch.answer_rows)

    def embed(self, batch: Batch, states: AudioStates) -> Embedded:
        """The batch as the causal LM takes it, with the audio in its place; `states` holds its U different audios."""
        return self.place(batch, self.connect(states)[batch.audio_index])

    def backbone(self, embedded: Embedded, past: Cache | None = None) -> Tensor:
        """Final hidden states [N, H] at the answer rows, after the last norm, before the head.

        `past` holds the keys and values of what comes before `embedded`, or takes its own if it is empty.
        """
        output = self.llm.base_model(
            inputs_embeds=embedded.inputs_embeds,
            attention_mask=embedded.attention_mask,
            position_ids=embedded.position_ids,
            past_key_values=past,
            use_cache=past is not None,
        )
        return output.last_hidden_state.flatten(0, 1)[embedded.answer_rows]

    def add_adapters(self, settings: dict[str, Any]) -> None:
        """Put fresh adapters on the LLM, `settings` as in config.py's LoraSection."""
        lora.inject(self.llm, settings)
        self.config.lora = settings

    def merge_adapters(self) -> None:
        """Make the adapters, if there are any, part of the weights that they stand beside."""
        if self.config.lora is not None:
            lora.merge(self.llm)
            self.config.lora = None

    def head(self) -> LMHead:
        """The LM head's weight [V, H], bias and soft cap; under ZeRO-3 read it inside a gathering scope only."""
        layer = self.get_output_embeddings()
        softcap = getattr(self.config.llm_config, "final_logit_softcapping", None)
        return LMHead(layer.weight, getattr(layer, "bias", None), softcap)


def build(
    llm: str | dict,
    encoder: SpeechEncoder,
    encoder_name: str | None,
    *,
    num_queries: int,
    qformer_layers: int,
    qformer_heads: int,
    normalize_states: bool = False,
    connector: ConnectorForm = "blip2",
    keep_layers: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> SpeechLM:
    """A SpeechLM with a fresh connector in fp32 on `encoder`, around an LLM.

    `llm` is a hub id or folder (its weights are loaded in `dtype`), or an architecture: a dict or a .json file (random
    weights in fp32).
    `keep_layers` keeps only the LLM's first layers. `encoder_name` is recorded so that the model finds its encoder
    again.
    """
    if isinstance(llm, str) and is_architecture(llm):
        llm = read_architecture(llm)
    weights = None if isinstance(llm, dict) else load_llm(llm, keep_layers, dtype)
    try:
        llm_config = weights.config if weights is not None else _architecture_config(llm, keep_layers)
        config = SpeechLMConfig(
            llm_config=llm_config.to_dict(),
            encoder=encoder_name,
            encoder_dim=encoder.dim,
            taps=encoder.taps,
            window_seconds=encoder.window_seconds,
            num_queries=num_queries,
            qformer_layers=qformer_layers,
            qformer_heads=qformer_heads,
            normalize_states=normalize_states,
            connector=connector,
        )
        return SpeechLM(config, weights)
    except (ValueError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"no model can be built of the student's llm and qformer_heads: {reason}; mend them") from error


def load_llm(name: str, keep_layers: int | None, dtype: torch.dtype) -> PreTrainedModel:
    """A causal LM in `dtype` from a hub id or folder, cut to its first `keep_layers` layers if given."""
    try:
        config = AutoConfig.from_pretrained(name)
        _cut_layers(config, keep_layers, name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: no causal LM there ({reason}); give a hub id or a folder") from error
    return pretrained(AutoModelForCausalLM, name, "causal LM", config=config, dtype=dtype)


def _architecture_config(values: dict, keep_layers: int | None) -> PreTrainedConfig:
    config = AutoConfig.for_model(**values)
    config.dtype = None  # a published config names its weights' dtype; random ones are made in fp32, as loaded ones are
    _cut_layers(config, keep_layers, "student.llm")
    return config


def _cut_layers(config: PreTrainedConfig, keep_layers: int | None, name: str) -> None:
    if keep_layers is None:
        return
    if keep_layers > config.num_hidden_layers:
        raise UserError(f"{name}: keep_layers {keep_layers} exceeds its {config.num_hidden_layers} layers; lower it")
    config.num_hidden_layers = keep_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:keep_layers]


def load(folder: str | Path, dtype: torch.dtype = torch.float32) -> tuple[SpeechLM, SpeechEncoder, Any]:
    """The SpeechLM of a model folder in `dtype`, with its encoder in fp32 and its tokenizer."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        what = "give the folder of a trained SpeechLM"
        if (folder / "state.json").is_file():
            what = f"that is a checkpoint, `caad-ds export {folder}` makes a model of it"
        raise UserError(f"{folder}: no model there (config.json is missing); {what}")
    model = pretrained(SpeechLM, folder, "SpeechLM", dtype=dtype)
    config = model.config
    source = encoder_of(folder, config.encoder)
    if isinstance(source, Path):
        config.encoder = None  # a relative path means nothing to a copy of this model: it gets the weights
    encoder = SpeechEncoder.from_pretrained(
        source, config.taps, config.window_seconds, final_norm=config.connector != "desta"
    )
    return model, encoder, load_tokenizer(folder)


def encoder_of(folder: Path, encoder: str | None) -> str | Path:
    """Where the encoder of a model folder is that its config calls `encoder`: a folder, or else a hub id."""
    beside = folder / (encoder or "encoder")
    return beside if encoder is None or beside.is_dir() else encoder


def load_tokenizer(name: str | Path, settings: TemplateSettings | None = None) -> Any:
    """The tokenizer of a hub id or folder, its chat template frozen with `settings`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: no tokenizer there ({reason}); give a hub id or a folder") from error
    config = Path(name) / "config.json"
    if config.is_file() and read_json(config, "give a whole folder").get("model_type") == SpeechLMConfig.model_type:
        tokenizer.init_kwargs.setdefault(FORM, PIECES)  # saved before models said how their ids are made
    return freeze_template(tokenizer, settings)


def keep_first_layers(model: SpeechLM, layers: int) -> None:
    """Leave the model only its LLM's first `layers` layers, and its connector.

    A student that starts here keeps the teacher's ears and embedding space, and learns anew what the other layers did.
    """
    have = model.config.llm_config.num_hidden_layers
    for config in {id(c): c for c in (model.config.llm_config, model.llm.config)}.values():
        _cut_layers(config, layers, "student.path")
    decoder = model.llm.get_decoder()  # of OPT a part of the base model
    lists = {name: child for name, child in decoder.named_children() if isinstance(child, torch.nn.ModuleList)}
    per_layer = {name: child for name, child in lists.items() if len(child) == have}
    if not per_layer:
        raise UserError(f"student.keep_layers: no layers found in {type(decoder).__name__}; build a student from llm")
    for name, child in per_layer.items():
        setattr(decoder, name, child[:layers])


def save(folder: str | Path, model: SpeechLM, encoder: SpeechEncoder, tokenizer: Any) -> None:
    """Write a model folder that `load` reads; the encoder's weights only if the config names no hub id for it."""
    model.save_pretrained(folder)
    tokenizer.init_kwargs[FORM] = form_of(tokenizer)
    tokenizer.save_pretrained(folder)
    if model.config.encoder is None:
        encoder.save_pretrained(Path(folder) / "encoder")


AutoConfig.register(SpeechLMConfig.model_type, SpeechLMConfig)
AutoModel.register(SpeechLMConfig, SpeechLM)
