"""The settings of a run that checkpoints without an identity version hashed: every key of that time."""

from collections.abc import Sequence
from typing import Any

KEYS = {  # in the original order, on which the hash depends
    "data": ("train", "reader", "shuffle_buffer", "skip_broken", "group_by_audio", "max_answer_tokens"),
    "student": (
        "path", "llm", "keep_layers", "encoder", "taps", "window_seconds", "num_queries", "qformer_layers",
        "qformer_heads", "normalize_states", "connector", "tokenizer", "template", "train", "lora", "deepspeed",
    ),
    "optimizer": (
        "lr", "betas", "weight_decay", "warmup_steps", "steps", "epochs", "batch_size", "batch_tokens", "micro_tokens",
        "bucket_window", "max_grad_norm",
    ),
    "teacher": ("path", "negative"),
    "objective": (
        "name", "alpha", "temperature", "kd_weight", "plausibility", "divergence", "mix", "sharpen", "reduction",
        "logits", "audio_dropout", "dropout_negative",
    ),
    "template": ("date", "merge_system", "switches"),
    "lora": ("rank", "alpha", "dropout", "targets", "encoder"),
}  # fmt: skip
RUN = ("seed", "precision", "encoder_precision", "attention")
STREAM_ONLY = ("reader", "shuffle_buffer")


def unversioned_settings(course: dict[str, Any]) -> tuple[dict, list]:
    """Return what was hashed of the settings that decide the course of training, given with their defaults.

    Keys that were added later are left out. The comparison with the run's config.yaml has already ensured that they
    are at their defaults.
    """
    settings = _only(course, ("data", "student", "optimizer", "teacher", "objective"))
    if settings["data"]["reader"] == "indexed":
        settings["data"] = {key: value for key, value in settings["data"].items() if key not in STREAM_ONLY}
    return settings, [course["run"][key] for key in RUN]


def _only(values: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: _only(values[key], KEYS[key]) if key in KEYS and values[key] else values[key] for key in keys}
