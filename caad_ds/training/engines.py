"""Models and their DeepSpeed engines: the frozen teacher's and the student's."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import nn
from transformers.utils import is_flash_attn_2_available

from caad_ds.config.deepspeed_files import deepspeed_config, teacher_settings
from caad_ds.config.schema import Config, LoraSection, StudentSection
from caad_ds.distill.signal import OnlineTeacher, TeacherForward
from caad_ds.distill.student_objective import StudentObjective, Timed
from caad_ds.loss.implementations import fastest
from caad_ds.loss.objective import Objective
from caad_ds.models.architecture import is_architecture
from caad_ds.models.language_model.llm import check_own_vocabulary, check_vocabulary, lm_head, load_tokenizer
from caad_ds.models.negatives import Negative
from caad_ds.models.prompts.chat_template import TemplateSettings
from caad_ds.models.prompts.prompt_encoder import tokenization
from caad_ds.models.speech_lm import adapters
from caad_ds.models.speech_lm.build import build, keep_first_layers
from caad_ds.models.speech_lm.encoder_folder import load_encoder
from caad_ds.models.speech_lm.folder import load
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.training.checks.finite_weights import require_finite
from caad_ds.training.identity import weights_hash
from caad_ds.training.optimizer import adamw
from caad_ds.utils.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Student:
    """The student before it gets its engine, with all that goes with it."""

    model: SpeechLM
    encoder: SpeechEncoder
    tokenizer: Any


def loss_implementation(cfg: Config, device: torch.device, *models: SpeechLM | None) -> str:
    """What computes the run's loss, in words: the choice of `contrastive_distillation_loss`.

    UserError for logits in bfloat16 where that is not the Triton kernel, which alone can hold them.
    """
    heads = [None if model is None else lm_head(model.llm) for model in models]
    name, reason = fastest(Objective.of(cfg.objective), device.type, torch.float32, *heads)
    told = f"{name} ({reason})" if reason else name
    if cfg.objective.logits == "bfloat16" and name != "triton":
        raise UserError(f"objective.logits: bfloat16 needs the loss in Triton, here it is {told}; set it to float32")
    return told


def check_attention(cfg: Config) -> None:
    """Refuse an attention that is not installed or does not take the run's precision."""
    if cfg.run.attention != "flash_attention_2":
        return
    if not is_flash_attn_2_available():
        raise UserError("run.attention: flash_attention_2 is not installed here; install flash-attn, or set it to sdpa")
    if cfg.run.precision != "bf16":
        raise UserError("run.attention: flash_attention_2 takes no fp32; set run.precision to bf16, or it to sdpa")


def check_finite(
    student: Student, cfg: Config, teacher: SpeechLM | None, teacher_encoder: SpeechEncoder | None
) -> None:
    """Refuse models with weights that are not finite: no step would ever be applied."""
    own = cfg.student.path or cfg.student.llm
    models = {f"student {own if isinstance(own, str) else ''}".strip(): student.model, "the encoder": student.encoder}
    if teacher is not None and cfg.teacher is not None:
        models[f"teacher {cfg.teacher.path}"] = teacher
        if teacher_encoder is not None:
            models[f"teacher {cfg.teacher.path}, its encoder"] = teacher_encoder
    for name, model in models.items():
        require_finite(model.named_parameters(), name, "the file is damaged, or its training failed: use another")


def set_attention(model: SpeechLM, attention: str) -> None:
    """Let a model's LLM compute its attention so; UserError where it cannot."""
    try:
        model.llm.set_attn_implementation(attention)
    except ValueError as error:
        kind = type(model.llm).__name__
        raise UserError(f"run.attention: a {kind} has no {attention} in transformers; set it to eager") from error


def load_student(cfg: Config) -> Student:
    """The student of the config: a model folder, or an LLM with a fresh connector; seeded alike on every rank."""
    section = cfg.student
    torch.manual_seed(cfg.run.seed)
    if section.path is not None:
        model, encoder, tokenizer = load(section.path, DTYPES[cfg.run.precision])
        if section.keep_layers is not None:
            keep_first_layers(model, section.keep_layers)
    else:
        assert section.encoder is not None and section.llm is not None  # the schema refuses that
        encoder = load_encoder(
            section.encoder, section.taps, section.window_seconds, final_norm=section.connector != "desta"
        )
        # A local encoder is copied into the model's folder when saved; a hub id is recorded.
        recorded = None if Path(section.encoder).exists() else section.encoder
        model = build(
            section.llm,
            encoder,
            recorded,
            keep_layers=section.keep_layers,
            num_queries=section.num_queries,
            qformer_layers=section.qformer_layers,
            qformer_heads=section.qformer_heads,
            normalize_states=section.normalize_states,
            connector=section.connector,
            dtype=DTYPES[cfg.run.precision],
        )
        tokenizer = _tokenizer(cfg)
        check_vocabulary(model.llm, tokenizer, "student.llm")
        if isinstance(section.llm, str) and not is_architecture(section.llm):
            check_own_vocabulary(section.llm, tokenizer)
    choose_weights(model, section)
    if section.lora is not None and section.lora.encoder:
        adapters.add_to_encoder(encoder, section.lora.model_dump())
        model.config.encoder = None  # no hub id holds what this one becomes
    set_attention(model, cfg.run.attention)
    if section.gradient_checkpointing:
        model.llm.activation_checkpointing_enable()
    return Student(model, encoder, tokenizer)


def choose_weights(model: SpeechLM, section: StudentSection) -> None:
    """Let those weights train that `student.train` names; adapters are put on where they are asked for."""
    if section.train == "lora":
        asked = None if section.lora is None else section.lora.model_dump()
        if model.config.lora is None:
            adapters.add(model, asked or LoraSection().model_dump())
        elif asked not in (None, model.config.lora):
            raise UserError(
                f"student.lora: {section.path} has adapters of its own, {model.config.lora}; remove the key"
            )
    for name, parameter in model.llm.named_parameters():
        parameter.requires_grad_(section.train == "all" or (section.train == "lora" and "lora_" in name))


def _tokenizer(cfg: Config) -> Any:
    section = cfg.student
    source = section.tokenizer or (cfg.teacher.path if cfg.teacher else None)
    if source is None:
        if not isinstance(section.llm, str) or is_architecture(section.llm):
            raise UserError("student.tokenizer is missing: an architecture has no tokenizer of its own")
        source = section.llm
    template = section.template
    settings = TemplateSettings(template.date, template.merge_system, template.switches)
    return load_tokenizer(source, settings)


def check_same_text(teacher: SpeechLM, teacher_tokenizer: Any, student: Student) -> None:
    """Refuse two models that do not read the same tokens: tokenizers and queries per audio must be equal."""
    names = f"{teacher_tokenizer.name_or_path}, {student.tokenizer.name_or_path}"
    if teacher_tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise UserError(
            f"teacher and student have different tokenizers ({names}); distillation compares logits over one vocabulary"
        )
    theirs, ours = tokenization(teacher_tokenizer), tokenization(student.tokenizer)
    if differing := [part for part in ours if ours[part] != theirs[part]]:
        raise UserError(
            f"teacher and student write a prompt or an answer differently: {' and '.join(differing)} of their "
            f"tokenizers ({names}); set student.tokenizer to the teacher's folder, and leave out student.template"
        )
    if teacher.config.num_queries != student.model.config.num_queries:
        raise UserError(
            f"student.num_queries is {student.model.config.num_queries}, the teacher's {teacher.config.num_queries}: "
            "make it equal, both read one token sequence"
        )


def check_same_features(teacher: SpeechEncoder, student: SpeechEncoder) -> None:
    """Refuse two encoders that need different features: those of a batch are extracted once, for both."""
    shapes = [(e.extractor.feature_size, e.window_seconds) for e in (teacher, student)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"the teacher's encoder takes (mel bins, window in s) {shapes[0]}, the student's {shapes[1]}; "
            "choose an encoder of the same kind and the teacher's student.window_seconds"
        )


def same_encoder(first: SpeechEncoder, second: SpeechEncoder) -> bool:
    """Whether two encoders give the same states, so that one run serves both models."""
    alike = all(getattr(first, key) == getattr(second, key) for key in ("taps", "window_seconds", "final_norm"))
    return alike and weights_hash(first.whisper) == weights_hash(second.whisper)


def teacher_signal(
    cfg: Config, model: SpeechLM, encoder: SpeechEncoder, placed: str = "resident", folder: Path | None = None
) -> OnlineTeacher:
    """The teacher in a ZeRO engine without optimizer, its weights at `placed`; `folder` holds them for nvme.

    Standard KD (alpha 0) runs no negative path. A prefix is kept where no rank waits for another inside the teacher:
    its layers run twice then, and whether they do depends on the rank's samples.
    """
    assert cfg.teacher is not None
    negative = Negative.of(cfg.teacher.negative, encoder) if cfg.objective.alpha else None
    keep = cfg.teacher.keep_prefix and placed == "replicated"
    module = TeacherForward(model.requires_grad_(False).eval(), negative, keep)
    largest = max(p.numel() for p in module.parameters())
    ours = {"train_micro_batch_size_per_gpu": 1, **_precision(cfg)}
    settings = teacher_settings(cfg, placed, folder, largest, **ours)
    if folder is None:  # the swapper of NVMe has a buffer for each of a few weights, not for a layer of them
        _fetch_whole_layers(model)
    prepare(module, settings, DTYPES[cfg.run.precision])
    engine, *_ = deepspeed.initialize(model=module, config=settings)
    engine.eval()
    return OnlineTeacher(engine)


def _fetch_whole_layers(model: SpeechLM) -> None:
    """Let ZeRO-3 gather and free a decoder layer at once.

    Around every linear layer its hooks take the host longer than a GPU takes to compute it.
    """
    deepspeed.utils.set_z3_leaf_modules(model.llm, list(model.llm._no_split_modules or []), raise_if_not_found=False)


def student_engine(
    cfg: Config, student: Student, micro_batch: int, accumulation: int, part: Timed = nullcontext
) -> Any:
    """The student and its objective in a ZeRO engine with AdamW over the trainable weights."""
    encoder = student.encoder if student.encoder.adapters is not None else None
    module = StudentObjective(student.model, cfg.objective, part, encoder)
    trainable = [p for p in module.parameters() if p.requires_grad]
    settings = deepspeed_config(
        cfg.student.deepspeed,
        train_micro_batch_size_per_gpu=micro_batch,
        gradient_accumulation_steps=accumulation,
        gradient_clipping=cfg.optimizer.max_grad_norm,
        **_precision(cfg),
    )
    prepare(module, settings, DTYPES[cfg.run.precision])
    optimizer = adamw(trainable, cfg.optimizer, settings, cfg.run.precision)
    engine, *_ = deepspeed.initialize(model=module, model_parameters=trainable, optimizer=optimizer, config=settings)
    engine.train()  # a model that was loaded is in evaluation, where nothing is checkpointed
    return engine


def prepare(module: nn.Module, settings: dict, dtype: torch.dtype) -> None:
    """Cast a module's weights, and take it apart weight by weight if ZeRO-3 will.

    Buffers stay as they are: rotary frequencies in bfloat16 are wrong by a radian at position 600. Left to its engine,
    ZeRO-3 puts the whole module on the device first, wherever the weights are to lie.
    """
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    zero = settings.get("zero_optimization", {})
    if zero.get("stage") != 3:
        return
    offload = zero.get("offload_param") or {}
    device, pin = offload.get("device"), offload.get("pin_memory", False)
    deepspeed.zero.Init(module=module, config_dict_or_path=settings, dtype=dtype, remote_device=device, pin_memory=pin)
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(get_accelerator().current_device_name()))


def _precision(cfg: Config) -> dict:
    return {"bf16": {"enabled": cfg.run.precision == "bf16"}}


def full_weights(engine: Any, trainable_only: bool = False) -> dict[str, torch.Tensor]:
    """The weights of the student's engine, gathered to rank 0's memory (empty elsewhere); every rank must call it.

    Under the names of the student's model; those of an encoder that trains begin with `encoder.`.
    """
    main = torch.distributed.get_rank() == 0
    gathered = {}
    for name, parameter in engine.module.named_parameters():
        if trainable_only and not parameter.requires_grad:
            continue
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=None):
            if main:
                gathered[name.removeprefix("student.")] = parameter.detach().cpu().clone()
    return gathered
