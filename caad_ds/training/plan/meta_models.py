"""Build teacher and student of a run on the meta device, from architectures: no weights, tokenizer or processor."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from caad_ds.config.reading import load_config
from caad_ds.config.schema import Config, LoraSection, StudentSection
from caad_ds.models import auto
from caad_ds.models.architecture import is_architecture, read_architecture
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.language_model.head_form import HeadForm
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.encoder_folder import encoder_of
from caad_ds.models.transformers_lm import TransformersLM, check_names, random_model
from caad_ds.models.whisper_qformer.config import SpeechLMConfig
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.rates import POSITIONS_PER_SECOND
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.device import DTYPES
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json
from caad_ds.utils.model_names import is_hub_id

# Published config.json files of some hub ids, beside the configs that name them.
SHIPPED = Path(__file__).resolve().parents[3] / "configs"


@dataclass(frozen=True)
class Described:
    """A model's config.json: its `values`, the `name` it was requested by, and its folder if it has one."""

    values: dict[str, Any]
    name: str
    folder: Path | None = None

    @property
    def kind(self) -> str:
        """Its `model_type`."""
        return str(self.values.get("model_type"))


def describe(name: str) -> Described:
    """Read the architecture in a .json file, in a folder's config.json, or of a hub id, of which some are shipped.

    UserError if there is none. Only the config.json of a hub id is downloaded.
    """
    if is_architecture(name):
        return Described(read_architecture(name), name)
    if is_hub_id(name):
        shipped = next(SHIPPED.glob(f"*/architectures/{name.rpartition('/')[2]}.json"), None)
        if shipped is not None:
            return Described(read_architecture(shipped), name)
        folder = auto.local_folder(name, ("config.json",))
    else:
        folder = Path(name)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{name}: no model there yet; name a folder or an architecture that is there, by --set or --teacher"
            )
    return Described(read_json(folder / "config.json", "give the folder of a model"), name, folder)


@dataclass
class MetaModel:
    """A model on the meta device, and its description."""

    lm: AudioLM
    described: Described

    @property
    def config(self) -> Any:
        """The config of the class with the head."""
        return self.lm.module.config


def student_of(cfg: Config, teacher: Described | None) -> MetaModel:
    """Build the student of a config, with its trainable weights chosen and its dtype set.

    `teacher` replaces the model that `student.path` names if `teacher.path` names the same.
    """
    section = cfg.student
    if section.path is None:
        lm: AudioLM = _fresh(section, _text(describe(section.llm) if isinstance(section.llm, str) else section.llm))
        model = MetaModel(lm, Described({"model_type": SpeechLMConfig.model_type}, "student"))
    else:
        same = teacher is not None and cfg.teacher is not None and section.path == cfg.teacher.path
        described = teacher if same and teacher is not None else describe(section.path)
        model = MetaModel(_of(described, section), described)
        if section.keep_layers is not None:
            model.lm.keep_first_layers(section.keep_layers)
    _choose_weights(model.lm, section)
    if section.gradient_checkpointing:
        model.lm.checkpoint_activations()
    return _finished(model, cfg)


def teacher_described(cfg: Config, architecture: str | None) -> Described | None:
    """Describe the teacher: by `architecture` if given (a .json, a folder, or the YAML that trains it).

    None if the run has none, or the YAML describes it (see `teacher_of`).
    """
    if cfg.teacher is None:
        return None
    if architecture is not None and architecture.endswith((".yaml", ".yml")):
        section = load_config(architecture).student
        values = {"model_type": SpeechLMConfig.model_type, "section": section}
        return describe(section.path) if section.path is not None else Described(values, architecture)
    if architecture is None and not is_architecture(cfg.teacher.path) and not is_hub_id(cfg.teacher.path):
        if not Path(cfg.teacher.path).is_dir():
            raise UserError(
                f"teacher.path {cfg.teacher.path} is not there yet; give --teacher: an architecture's .json, a model's "
                "folder, or the YAML of the run that trains it"
            )
    return describe(architecture or cfg.teacher.path)


def teacher_of(cfg: Config, described: Described) -> MetaModel:
    """Build the frozen teacher; around a causal LM, our own family with the student's connector."""
    model = _finished(MetaModel(_of(described, cfg.student), described), cfg)
    model.lm.module.requires_grad_(False)
    return model


def shares_encoding(student: MetaModel, teacher: MetaModel) -> bool:
    """Return whether both models can share an encoding: in our own family, with encoders of one architecture.

    Their weights may differ; a run compares those.
    """
    ours, theirs = student.lm, teacher.lm
    if not isinstance(ours, SpeechAudioLM) or not isinstance(theirs, SpeechAudioLM) or ours.trains_tower_inside:
        return False
    same = (getattr(ours.encoder, key) == getattr(theirs.encoder, key) for key in ("taps", "final_norm"))
    shapes = ours.encoder.whisper.config, theirs.encoder.whisper.config
    keys = ("d_model", "encoder_layers", "encoder_ffn_dim", "max_source_positions", "num_mel_bins")
    return all(same) and all(getattr(shapes[0], key) == getattr(shapes[1], key) for key in keys)


def _of(described: Described, section: StudentSection) -> AudioLM:
    """Build the model of a config.json; for a causal LM, the model that `section` puts around it."""
    given = described.values.get("section")
    if isinstance(given, StudentSection):
        return _fresh(given, _text(describe(given.llm) if isinstance(given.llm, str) else given.llm))
    kind = described.kind
    if kind == SpeechLMConfig.model_type:
        return _speech_lm(described)
    if kind in auto.supported():
        return _of_transformers(described)
    # Transformers also has a causal LM of Whisper's decoder.
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or any(part in kind for part in auto.UNFIT):
        auto.family(kind, described.name)  # raises, with the reason
    if section.llm is None:
        raise UserError(
            f"{described.name}: the architecture of an LLM alone, and the config builds no connector that a teacher "
            "could share; give the YAML of the run that trains the teacher, or a speech model's architecture"
        )
    return _fresh(section, _text(described), keep_layers=None)


def _text(llm: Described | dict | None) -> dict[str, Any]:
    assert llm is not None  # the schema refuses that
    return deepcopy(llm.values if isinstance(llm, Described) else llm)


def _fresh(section: StudentSection, llm: dict[str, Any], **changes: Any) -> SpeechAudioLM:
    """Build a model of our own family: an LLM behind the encoder and the connector of a section."""
    assert section.encoder is not None
    encoder = _encoder(describe(section.encoder), section.taps, section.window_seconds, section.connector != "desta")
    keep_layers = changes.get("keep_layers", section.keep_layers)
    with torch.device("meta"):
        model = build(
            llm, encoder, None, keep_layers=keep_layers, num_queries=section.num_queries,
            qformer_layers=section.qformer_layers, qformer_heads=section.qformer_heads,
            normalize_states=section.normalize_states, connector=section.connector,
        )  # fmt: skip
    return _speech(model, encoder)


def _speech_lm(described: Described) -> SpeechAudioLM:
    """Build the model of a folder of our own family."""
    config = SpeechLMConfig(**deepcopy(described.values))
    source = encoder_of(described.folder or Path(), config.encoder)
    encoder = _encoder(describe(str(source)), config.taps or [], config.window_seconds, config.final_norm)
    with torch.device("meta"):
        return _speech(SpeechLM(config), encoder)


def _speech(model: SpeechLM, encoder: SpeechEncoder) -> SpeechAudioLM:
    lm = object.__new__(SpeechAudioLM)  # its reader needs a tokenizer, and is not used here
    AudioLM.__init__(lm)
    lm.module, lm.encoder = model, encoder
    return _measured(lm)


def _encoder(described: Described, taps: list[int], seconds: int, final_norm: bool) -> SpeechEncoder:
    if inside := described.values.get("encoder_config"):  # a speech model with its encoder
        described = Described(inside, described.name)
    if described.kind != "whisper":
        raise UserError(f"{described.name}: its model_type is {described.kind}; an encoder's must be whisper")
    config = WhisperConfig(**described.values)
    if any(not 0 <= tap < config.encoder_layers for tap in taps):
        raise UserError(f"{described.name}: taps {taps} do not fit an encoder of {config.encoder_layers} layers")
    if seconds * POSITIONS_PER_SECOND > config.max_source_positions:
        have = config.max_source_positions // POSITIONS_PER_SECOND
        raise UserError(f"student.window_seconds: a window of {seconds} s exceeds the encoder's {have} s; lower it")
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=seconds)
    with torch.device("meta"):
        encoder = SpeechEncoder(WhisperEncoder(config), extractor, taps, final_norm)
        encoder.cut_window(seconds)
    return encoder


def _of_transformers(described: Described) -> TransformersLM:
    """Build a model of a transformers family."""
    family = auto.family(described.kind, described.name)
    kind = family.build.keywords.get("lm", TransformersLM)
    with torch.device("meta"):
        _, model = random_model(family.FAMILY, deepcopy(described.values), described.name)
    if hasattr(model.config, "has_lora_adapter"):
        model.config.has_lora_adapter = False  # adapters of a folder are merged
    check_names(family.FAMILY, model)
    lm: Any = object.__new__(kind)  # a family's own __init__ needs weights or a processor
    TransformersLM.__init__(lm, family.FAMILY, model, kind.reads)
    return _measured(lm)


def _measured(lm: Any) -> Any:
    """Set the form of the model's head, which is measured on the weights of a real model.

    Configs have a soft cap under this one name.
    """
    text = lm.generator.config.get_text_config(decoder=True)
    lm.generator._caad_head = HeadForm(softcap=getattr(text, "final_logit_softcapping", None))
    return lm


def _choose_weights(student: AudioLM, section: StudentSection) -> None:
    """Do as engines.choose_weights, without comparing a folder's adapters with the configured ones."""
    if section.train == "lora" and student.lora is None:
        with torch.device("meta"):
            student.add_adapters((section.lora or LoraSection()).model_dump())
    student.choose_weights(section.train)


def _finished(model: MetaModel, cfg: Config) -> MetaModel:
    """Set the run's dtype, and its attention where that changes the shapes."""
    nn.Module.to(model.lm.module, DTYPES[cfg.run.precision])
    for name, module in model.lm.modules_outside().items():
        inside = name in model.lm.extra_modules()  # it trains in the student's engine, which casts it
        module.to(DTYPES[cfg.run.precision if inside else cfg.run.encoder_precision])
    model.lm.set_attention("eager" if cfg.run.attention == "eager" else "sdpa")
    return model


def numel(module: nn.Module | None, trained: bool = False) -> int:
    """Count a module's weights, or only the trainable ones; a tied weight counts once."""
    if module is None:
        return 0
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def parts_of(model: MetaModel, trained: bool = False) -> dict[str, float]:
    """Count weights by part; a tied head counts as embedding; `other` is neither encoder, connector, LLM nor head."""
    lm = model.lm
    layer = lm.generator.get_output_embeddings()
    tied = layer.weight is lm.generator.get_input_embeddings().weight
    head = 0 if tied else numel(layer, trained)
    connector = numel(lm.connector, trained)
    inside = any(part is lm.connector for part in lm.tower.modules())
    encoder = numel(lm.tower, trained) - (connector if inside else 0)
    own = any(part is layer for part in lm.decoder.modules())
    llm = numel(lm.decoder, trained) - (head if own else 0)
    total = numel(lm.module, trained) + sum(numel(part, trained) for part in lm.modules_outside().values())
    parts: dict[str, float] = {"encoder": encoder, "connector": connector, "llm": llm, "head": head}
    return parts | {"other": total - sum(parts.values()), "total": total}
