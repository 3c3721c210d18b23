"""Models and their DeepSpeed engines: the frozen teacher's and the student's."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import nn
from transformers import PreTrainedModel

from caad_ds.config.deepspeed_settings import deepspeed_config, teacher_settings
from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.config.schema import Config, LoraSection, StudentSection
from caad_ds.distill.student_objective import StudentObjective, Timed
from caad_ds.distill.teacher_signal import OnlineTeacher, TeacherForward
from caad_ds.loss.choose_implementation import fastest
from caad_ds.loss.head import LMHead
from caad_ds.loss.objective import Objective
from caad_ds.models import auto
from caad_ds.models.architecture import is_architecture
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.language_model.llm_checks import check_vocabulary
from caad_ds.models.language_model.tokenizer import check_own_vocabulary, load_tokenizer
from caad_ds.models.prompts.chat_template import TemplateSettings
from caad_ds.models.shared_vocabulary import SharedVocabulary
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.encoder_folder import load_encoder, recorded_encoder
from caad_ds.training.optimizer import adamw
from caad_ds.utils.device import DTYPES
from caad_ds.utils.errors import UserError


def loss_implementation(cfg: Config, device: torch.device, *heads: LMHead | None) -> str:
    """Describe which implementation `contrastive_distillation_loss` chooses for the run.

    UserError for logits in bfloat16 without the Triton kernel, which alone supports them.
    """
    choice = _implementation(cfg.objective, device, *heads)
    if not cfg.objective.draws:
        return choice
    return f"{choice}; on drawn answers {_implementation(cfg.objective.on_drawn_answers, device, *heads)}"


def _implementation(objective: ObjectiveSection, device: torch.device, *heads: LMHead | None) -> str:
    name, reason = fastest(Objective.of(objective), device.type, torch.float32, *heads)
    choice = f"{name} ({reason})" if reason else name
    if objective.logits == "bfloat16" and name != "triton":
        raise UserError(f"objective.logits: bfloat16 needs the loss in Triton, here it is {choice}; set it to float32")
    return choice


def load_teacher(cfg: Config) -> AudioLM:
    """Load the teacher of the config; an architecture file uses the student's tokenizer or processor."""
    assert cfg.teacher is not None
    section = cfg.teacher
    torch.manual_seed(
        cfg.run.seed + 1
    )  # random weights: alike on every rank, unlike those of a student of the same shape
    teacher = _model(section.path, cfg.student.tokenizer, cfg, "student.tokenizer")
    teacher.reader.set_transcript(section.transcript)
    teacher.set_attention(cfg.run.attention)
    return teacher


def load_student(cfg: Config) -> AudioLM:
    """Load the student of the config, or an LLM with a fresh connector; seeded the same on all ranks."""
    section = cfg.student
    torch.manual_seed(cfg.run.seed)
    if section.path is not None:
        processor = section.tokenizer or (cfg.teacher.path if cfg.teacher else None)
        student = _model(section.path, processor, cfg, "student.tokenizer")
        if section.keep_layers is not None:
            student.keep_first_layers(section.keep_layers)
    else:
        student = _fresh(cfg)
    student.reader.set_transcript(section.transcript)
    choose_weights(student, section)
    student.set_attention(cfg.run.attention)
    if section.gradient_checkpointing:
        student.checkpoint_activations()
    return student


def _model(name: str, processor: str | None, cfg: Config, key: str) -> AudioLM:
    """Load a model, or build one with random weights from an architecture file and an existing processor."""
    if not is_architecture(name):
        return auto.load(name, DTYPES[cfg.run.precision])
    if processor is None or is_architecture(processor):
        raise UserError(f"{key} is missing: {name} is an architecture, which has no processor of its own")
    return auto.build(name, processor)


def _fresh(cfg: Config) -> SpeechAudioLM:
    section = cfg.student
    assert section.encoder is not None and section.llm is not None  # the schema refuses that
    final_norm = section.connector != "desta"
    encoder = load_encoder(section.encoder, section.taps, section.window_seconds, final_norm=final_norm)
    model = build(
        section.llm,
        encoder,
        recorded_encoder(section.encoder),
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
    return SpeechAudioLM(model, encoder, tokenizer)


def choose_weights(student: AudioLM, section: StudentSection) -> None:
    """Make the weights that `student.train` names trainable, and add LoRA adapters if configured."""
    if section.train == "lora":
        configured = None if section.lora is None else section.lora.model_dump()
        own = student.lora
        if own is not None and configured not in (None, own):
            raise UserError(f"student.lora: {section.path} has adapters of its own, {own}; remove the key")
        if own is None or configured is not None:  # folders have an encoder's adapters merged: add new ones
            student.add_adapters(configured or LoraSection().model_dump())
    student.choose_weights(section.train)


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


def teacher_signal(
    cfg: Config,
    teacher: AudioLM,
    placed: str = "resident",
    folder: Path | None = None,
    shares: bool = False,
    part: Timed = nullcontext,
) -> OnlineTeacher:
    """Put the teacher in a ZeRO engine without optimizer, its weights at `placed`; `folder` holds them for nvme.

    `shares`: whether teacher and student share the modules outside the engines; `part` times these. The prefix is
    cached only if no rank waits for another inside the teacher: its layers then run twice, depending on the rank's
    samples.
    """
    assert cfg.teacher is not None
    if cfg.teacher.keep_prefix and not isinstance(teacher, SpeechAudioLM):
        raise UserError(f"teacher.keep_prefix: not for models of type {teacher.family}; set it to false")
    keep = cfg.teacher.keep_prefix and placed == "replicated"
    teacher.module.requires_grad_(False).eval()
    module = TeacherForward(teacher, keep)
    largest = max(p.numel() for p in module.parameters())
    ours = {"train_micro_batch_size_per_gpu": 1, **_precision(cfg)}
    settings = teacher_settings(cfg, placed, folder, largest, **ours)
    if folder is None:  # the NVMe swapper has buffers for a few weights, not for a whole layer
        _fetch_whole_layers(teacher.decoder)
    prepare(module, settings, DTYPES[cfg.run.precision])
    engine, *_ = deepspeed.initialize(model=module, config=settings)
    engine.eval()
    return OnlineTeacher(engine, shares, part)


def _fetch_whole_layers(decoder: PreTrainedModel) -> None:
    """Let ZeRO-3 gather and free a decoder layer as a whole.

    Its hooks around every linear layer take longer on the host than the layer takes on a GPU.
    """
    deepspeed.utils.set_z3_leaf_modules(decoder, list(decoder._no_split_modules or []), raise_if_not_found=False)


def student_engine(
    cfg: Config,
    student: AudioLM,
    micro_batch: int,
    accumulation: int,
    part: Timed = nullcontext,
    shared: SharedVocabulary | None = None,
    teacher_width: int | None = None,
) -> Any:
    """Put the student and its objective in a ZeRO engine with AdamW over the trainable weights."""
    module = StudentObjective(student, cfg.objective, part, shared, teacher_width, cfg.run.seed)
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
    for parameter in student.generator.get_output_embeddings().parameters():
        if hasattr(parameter, "ds_id"):
            # It is read outside its layer. If it happens to be gathered, as after a resume, ZeRO-3 would notice only
            # later, and its recorded trace would be wrong.
            deepspeed.zero.register_external_parameter(engine.module, parameter)
    engine.train()  # a loaded model is in evaluation mode, which checkpoints no activations
    return engine


def prepare(module: nn.Module, settings: dict, dtype: torch.dtype) -> None:
    """Cast a module's weights, and partition them one by one under ZeRO-3.

    Buffers stay as they are: rotary frequencies in bfloat16 are wrong by a radian at position 600. The engine itself
    would put the whole module on the device first, wherever the weights are placed.
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
    """Gather the weights of the student's engine in rank 0's memory (empty elsewhere); every rank must call it.

    Names are those of the student's model; those of a trained encoder begin with `encoder.`. The projection of hidden
    states to the teacher's width is not part of the student.
    """
    main = torch.distributed.get_rank() == 0
    gathered = {}
    for name, parameter in engine.module.named_parameters():
        if (trainable_only and not parameter.requires_grad) or name.startswith("width_map."):
            continue
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=None):
            if main:
                gathered[name.removeprefix("student.")] = parameter.detach().cpu().clone()
    return gathered
