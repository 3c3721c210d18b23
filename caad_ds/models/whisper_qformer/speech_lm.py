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
    Cache,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from caad_ds.data.batch import Batch
from caad_ds.loss.head import LMHead
from caad_ds.models.architecture import is_architecture, read_architecture
from caad_ds.models.language_model import lora
from caad_ds.models.language_model.llm import (
    SPEECH_LM,
    build_llm,
    check_llm,
    check_vocabulary,
    cut_layers,
    lm_head,
    load_llm,
    load_tokenizer,
)
from caad_ds.models.pretrained import pretrained
from caad_ds.models.prompts.prompt_encoder import FORM, form_of
from caad_ds.models.whisper_qformer.audio_states import AudioStates
from caad_ds.models.whisper_qformer.causal_lm import embedding_width, hidden_states
from caad_ds.models.whisper_qformer.embedded_batch import Embedded, positions
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.qformer import ConnectorForm, QFormerConnector
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import follow_umask
from caad_ds.utils.paths import check_model_folder


class SpeechLMConfig(PreTrainedConfig):
    """Shape of a `SpeechLM` and where its frozen encoder is.

    `encoder` is a hub id, or a folder relative to the model's own; None is its `encoder/`. `lora` holds the settings of
    the adapters on the LLM (config.py, LoraSection), if it has any.
    """

    model_type = SPEECH_LM
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


class SpeechLM(PreTrainedModel):
    """Connector and causal LM of a speech language model; the encoder that feeds it is a `SpeechEncoder`."""

    config: SpeechLMConfig
    llm: PreTrainedModel
    connector: QFormerConnector

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

    def project(self, states: AudioStates) -> Tensor:
        """Connector outputs [A, K, H] of A audios."""
        return self.connector(states)

    def merge_audio(self, batch: Batch, audio: Tensor) -> Embedded:
        """Token embeddings of the batch with connector outputs `audio` [A, K, H] at its audio positions."""
        tokens = self.get_input_embeddings()(batch.input_ids)
        held, given = int(batch.audio_mask.sum()), audio.shape[0] * audio.shape[1]
        if held != given:
            raise UserError(
                f"batch of {batch.keys[0]}, ...: {held} audio positions in the text but {given} connector outputs; "
                "each <|AUDIO|> needs one audio and as many positions as the connector has queries"
            )
        if audio.shape[-1] != tokens.shape[-1]:
            raise UserError(
                f"batch of {batch.keys[0]}, ...: connector outputs are {audio.shape[-1]} wide, the LLM's embeddings "
                f"{tokens.shape[-1]}; the model's connector is not one for this LLM"
            )
        mixed = tokens.masked_scatter(batch.audio_mask.unsqueeze(-1), audio.to(tokens.dtype))
        return Embedded(mixed, batch.attention_mask, positions(batch.attention_mask), batch.answer_rows)

    def embed(self, batch: Batch, states: AudioStates) -> Embedded:
        """The batch as the causal LM takes it, with the audio in its place; `states` holds its U different audios."""
        return self.merge_audio(batch, self.project(states)[batch.audio_index])

    def hidden_states(self, embedded: Embedded, past: Cache | None = None) -> Tensor:
        """Final hidden states [N, H] at the answer rows, after the last norm, before the head.

        `past` holds the keys and values of what comes before `embedded`, or takes its own if it is empty.
        """
        arguments = (embedded.inputs_embeds, embedded.attention_mask, embedded.position_ids)
        return hidden_states(self.llm, *arguments, past).flatten(0, 1)[embedded.answer_rows]

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
        """The LM head of weight [V, H]; under ZeRO-3 read it inside a gathering scope only."""
        return lm_head(self.llm)


def build(
    llm: str | dict | PreTrainedModel,
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

    `llm` is a hub id or folder (its weights are loaded in `dtype`), an architecture: a dict or a .json file (random
    weights in fp32), or a causal LM that `load_llm` gave.
    `keep_layers` keeps only the LLM's first layers. `encoder_name` is recorded so that the model finds its encoder
    again.
    """
    if isinstance(llm, str):
        if is_architecture(llm):
            llm = build_llm(read_architecture(llm), llm, keep_layers)
        else:
            llm = load_llm(llm, dtype, keep_layers)
    elif isinstance(llm, dict):
        llm = build_llm(llm, "student.llm", keep_layers)
    try:
        config = SpeechLMConfig(
            llm_config=llm.config.to_dict(),
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
        return SpeechLM(config, llm)
    except (ValueError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"no model can be built of the student's llm and qformer_heads: {reason}; fix them") from error


def load(folder: str | Path, dtype: torch.dtype = torch.float32) -> tuple[SpeechLM, SpeechEncoder, Any]:
    """The SpeechLM of a model folder in `dtype`, with its encoder in fp32 and its tokenizer."""
    folder = Path(folder)
    check_model_folder(folder)
    model: SpeechLM = pretrained(SpeechLM, folder, "SpeechLM", dtype=dtype)
    config = model.config
    source = encoder_of(folder, config.encoder)
    if isinstance(source, Path):
        config.encoder = None  # a relative path means nothing to a copy of this model: it gets the weights
    encoder = SpeechEncoder.from_pretrained(
        source, config.taps or [], config.window_seconds, final_norm=config.connector != "desta"
    )
    generation = folder / "generation_config.json"
    if generation.is_file():
        model.llm.generation_config = GenerationConfig.from_pretrained(folder)
    check_llm(model.llm, str(folder))
    tokenizer = load_tokenizer(folder)
    check_vocabulary(model.llm, tokenizer, str(folder))
    return model, encoder, tokenizer


def encoder_of(folder: Path, encoder: str | None) -> str | Path:
    """Where the encoder of a model folder is that its config calls `encoder`: a folder, or else a hub id."""
    beside = folder / (encoder or "encoder")
    return beside if encoder is None or beside.is_dir() else encoder


def keep_first_layers(model: SpeechLM, layers: int) -> None:
    """Leave the model only its LLM's first `layers` layers, and its connector.

    A student that starts here keeps the teacher's ears and embedding space, and learns anew what the other layers did.
    """
    have = model.config.llm_config.num_hidden_layers
    for config in {id(c): c for c in (model.config.llm_config, model.llm.config)}.values():
        cut_layers(config, layers, "student.path")
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
    # By hand: transformers refuses to write settings of sampling that it reads, and SpeechLM itself has no such file.
    text = model.llm.generation_config.to_json_string()
    (Path(folder) / "generation_config.json").write_text(text, encoding="utf-8")
    tokenizer.save_pretrained(folder)
    if model.config.encoder is None:
        encoder.save_pretrained(Path(folder) / "encoder")
    follow_umask(Path(folder))


AutoConfig.register(SpeechLMConfig.model_type, SpeechLMConfig)
AutoModel.register(SpeechLMConfig, SpeechLM)
