"""Suggest configuration keys for an unknown one, by spelling and by other frameworks' names."""

import difflib
from typing import get_args

from caad_ds.config.schema import Config
from caad_ds.config.section import Section

SYNONYMS = {
    "optimizer.lr": ("learning_rate", "lr_max", "max_lr", "peak_lr", "base_lr"),
    "optimizer.betas": ("adam_betas", "adam_beta1", "adam_beta2", "beta1", "beta2"),
    "optimizer.weight_decay": ("wd", "decay"),
    "optimizer.warmup_steps": ("warmup", "num_warmup_steps", "warmup_ratio", "lr_warmup"),
    "optimizer.steps": ("max_steps", "num_steps", "total_steps", "train_steps", "max_train_steps", "iterations"),
    "optimizer.epochs": ("num_epochs", "num_train_epochs", "max_epochs", "n_epochs"),
    "optimizer.batch_size": ("train_batch_size", "global_batch_size", "bs"),
    "optimizer.micro_batch": (
        "micro_batch_size", "per_device_train_batch_size", "train_micro_batch_size_per_gpu", "per_gpu_batch_size",
        "gradient_accumulation_steps", "accumulation", "grad_accum",
    ),
    "optimizer.batch_tokens": ("max_tokens", "tokens_per_batch"),
    "optimizer.max_grad_norm": ("grad_clip", "clip_grad", "clip_grad_norm", "gradient_clipping", "max_norm"),
    "objective.temperature": ("tau", "kd_temperature", "distill_temperature", "t"),
    "objective.kd_weight": ("lambda", "lambda_kd", "kd_lambda", "kd_ratio"),
    "objective.alpha": ("contrast_alpha", "cd_alpha", "contrast"),
    "objective.plausibility": ("beta", "cutoff"),
    "objective.divergence": ("kl", "kl_type"),
    "objective.name": ("loss", "loss_type", "type"),
    "run.output_dir": ("output", "out", "outdir", "out_dir", "output_path", "save_dir", "work_dir", "exp_dir"),
    "run.name": ("run_name", "exp_name"),
    "run.seed": ("random_seed",),
    "run.precision": ("dtype", "torch_dtype", "bf16", "fp16", "mixed_precision", "amp"),
    "run.attention": ("attn_implementation", "attn", "flash_attention", "use_flash_attention"),
    "run.log_every": ("logging_steps", "log_steps", "log_interval", "log_every_n_steps"),
    "checkpoint.every": ("save_steps", "save_every", "save_interval", "checkpoint_every"),
    "checkpoint.keep": ("save_total_limit", "keep_last", "max_checkpoints"),
    "checkpoint.best_metric": ("metric_for_best_model", "monitor"),
    "validation.every": ("eval_steps", "eval_every", "eval_interval", "val_every", "validate_every"),
    "validation.batch_size": ("eval_batch_size", "per_device_eval_batch_size", "val_batch_size"),
    "data.train": ("train_data", "train_shards", "shards", "dataset", "train_dataset"),
    "data.validation": ("val", "valid", "eval", "dev", "val_data", "eval_data", "validation_data"),
    "data.shuffle_buffer": ("buffer_size", "shuffle"),
    "data.max_answer_tokens": ("max_length", "max_seq_length", "max_target_length"),
    "teacher.path": ("teacher_model", "teacher_path", "teacher_model_name_or_path"),
    "teacher.placement": ("offload", "cpu_offload"),
    "student.path": ("student_model", "student_path", "model", "model_path", "model_name_or_path"),
    "student.llm": ("llm_path", "base_model", "language_model", "decoder"),
    "student.encoder": ("audio_encoder", "speech_encoder", "whisper"),
    "student.keep_layers": ("num_layers", "n_layers", "num_hidden_layers"),
    "student.num_queries": ("queries", "n_queries", "num_query_tokens"),
    "student.lora.rank": ("lora_r", "lora_rank", "r"),
    "student.lora.alpha": ("lora_alpha",),
    "student.lora.dropout": ("lora_dropout",),
    "student.lora.targets": ("target_modules", "lora_targets", "lora_target_modules"),
    "student.deepspeed": ("deepspeed_config", "ds_config", "zero_stage"),
    "tracking.uri": ("tracking_uri", "mlflow_uri", "mlflow"),
    "tracking.experiment": ("experiment_name", "project"),
}  # fmt: skip


def unknown_key(location: tuple) -> str:
    """Word the error for an unknown key at a location (its sections, then its name), with suggestions."""
    *within, name = map(str, location)
    meant = _by_meaning(name)
    near = [f"{section}.{name}" for section in Config.model_fields if name in _keys_of((section,))] + meant
    if not meant and (within or not near):
        near += [".".join([*within, key]) for key in _near(name, tuple(within))]
    hint = f"did you mean {' or '.join(near)}?" if near else "`caad-ds config` lists the keys"
    return f"unknown key {'.'.join([*within, name])}; {hint}"


def section_at(location: tuple) -> type[Section] | None:
    """Return the section at a location, such as `("student", "lora")`; None if it is a value or does not exist."""
    section: type[Section] | None = Config
    for part in location:
        field = section.model_fields.get(part) if section else None
        section = section_of(field.annotation) if field else None
    return section


def section_of(annotation: object) -> type[Section] | None:
    """Return the section class of a key's type, None for a value."""
    options = get_args(annotation) or (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, Section)), None)


def _keys_of(location: tuple) -> list[str]:
    section = section_at(location)
    return list(section.model_fields) if section else []


def _near(name: str, location: tuple) -> list[str]:
    return difflib.get_close_matches(name, _keys_of(location), n=1, cutoff=0.4)


def _by_meaning(name: str) -> list[str]:
    """Return the keys, with their sections, that other frameworks call `name`."""
    name = name.lower().replace("-", "_")
    return [key for key, others in SYNONYMS.items() if name in others]
