"""The identity of a run, checked on resume: the settings, weights and data that decide its course."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caad_ds.config.deepspeed_settings import deepspeed_config
from caad_ds.config.reading import load_config
from caad_ds.config.schema import Config
from caad_ds.models.prompts.prompt_encoder import tokenization
from caad_ds.models.reader import AFTER_AUDIO, Reader
from caad_ds.models.whisper_qformer.config import SpeechLMConfig
from caad_ds.training.checkpoints.unversioned_settings import unversioned_settings
from caad_ds.utils.errors import UserError

# Settings at their default are not hashed, so a new key orphans no checkpoint. A change of a default that decides the
# course of training must add 1 here: a key that a checkpoint leaves out then means another value.
# tests/training/test_run_identity.py holds the defaults of this version.
IDENTITY_VERSION = 1
VERSION = "version"  # its key among the parts of an identity

COURSE: dict[str, Any] = {  # sections, or keys of them, that decide the course of training
    **dict.fromkeys(("data", "teacher", "student", "objective", "optimizer"), True),
    "run": {"seed", "precision", "encoder_precision", "attention"},
}
NOT_COURSE: dict[str, Any] = {  # keys of these that affect only the speed
    "teacher": {
        **dict.fromkeys(("placement", "nvme_path", "batch", "keep_prefix", "deepspeed"), True),
        "cache": {"path", "fill", "when_full"},
    },
    "optimizer": {"micro_batch", "max_skipped"},
    "student": {"gradient_checkpointing"},
    "data": {"validation", "workers"},
}
OLDER = "resume it with the version of caad-ds that wrote it, or use another run.output_dir to start over"


@dataclass(frozen=True)
class Identity:
    """What decides the course of a run.

    Args:
        parts: The version and a hash of each part, as checkpoints store them.
        unversioned: The same as older checkpoints stored it, without a version.
    """

    parts: Mapping[str, str]
    unversioned: Mapping[str, str]

    def check(self, stored: Mapping[str, str], folder: Path) -> None:
        """Refuse the checkpoint in a folder if its stored parts differ from this run's; the error names them."""
        if "prompts" not in stored:
            raise UserError(
                f"{folder}: it holds no hash of prompts: a version of caad-ds wrote it that made other token ids of a "
                f"record; {OLDER}"
            )
        now = self.parts if VERSION in stored else self.unversioned
        if stored.get(VERSION) != now.get(VERSION):
            raise UserError(
                f"{folder}: defaults of settings that it does not name have changed since it was written "
                f"({VERSION} {stored.get(VERSION)} -> {now.get(VERSION)}); {OLDER}"
            )
        parts = [part for part in {**stored, **now} if stored.get(part) != now.get(part)]
        if parts:
            changed = ", ".join(f"{part}, hash {stored.get(part)} -> {now.get(part)}" for part in parts)
            raise UserError(
                f"{folder}: teacher, student, data or settings differ from this checkpoint's ({changed}); restore "
                "them, use another run.output_dir, or remove the folder to start over"
            )


def identity(
    cfg: Config,
    teacher: list[str],
    student: tuple[str, str],
    data: str,
    prompts: dict[str, Any],
    teacher_reading: dict[str, Any] | None = None,
) -> Identity:
    """Hash each part that decides the course of training.

    Where the run logs and how often it saves may change on resume; weights or shards at a path may not. `teacher` and
    `student` are hashes of their weights, `data` is the reader's identity, `prompts` is what the token ids of a record
    depend on, `teacher_reading` what the teacher's batches depend on if it reads samples differently.
    """
    parts = {
        "teacher": teacher,
        "student": student,
        "data": data,
        "prompts": prompts,
        # How checkpoints are split.
        "student.deepspeed": deepspeed_config(cfg.student.deepspeed).get("zero_optimization"),
    }
    if teacher_reading is not None:
        parts["teacher's reading"] = teacher_reading
    hashes = {part: part_hash(value) for part, value in parts.items()}
    settings = json.dumps(course(cfg, exclude_defaults=True), sort_keys=True)
    return Identity(
        {VERSION: str(IDENTITY_VERSION), "settings": part_hash(settings)} | hashes,
        {"settings": part_hash(unversioned_settings(course(cfg)))} | hashes,
    )


def prompts_identity(reader: Reader) -> dict[str, Any]:
    """Return what the token ids of a record depend on; unchanged for a SpeechLM, whose checkpoints must resume."""
    if reader.family == SpeechLMConfig.model_type and reader.transcript == AFTER_AUDIO:
        return tokenization(reader.tokenizer)
    return reader.identity()


def course(cfg: Config, exclude_defaults: bool = False) -> dict[str, Any]:
    """Return the settings that decide the course of training, by section."""
    values = cfg.model_dump(mode="json", include=COURSE, exclude=NOT_COURSE, exclude_defaults=exclude_defaults)
    if "keep_encoded_gb" in values["student"]:  # being set changes how clips are encoded, its size only how often
        values["student"]["keep_encoded_gb"] = bool(values["student"]["keep_encoded_gb"])
    return values


def part_hash(value: object) -> str:
    """Hash a part of an identity."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def check_same_config(cfg: Config) -> None:
    """Refuse to resume with changed settings, before anything is loaded; the error names them."""
    path = cfg.run.output_dir / "config.yaml"
    if not path.is_file():
        return
    began, now = (flatten(course(each)) for each in (load_config(path), cfg))
    changed = [
        f"{key} {began.get(key)} -> {now.get(key)}" for key in sorted(began | now) if began.get(key) != now.get(key)
    ]
    if changed:
        raise UserError(
            f"{cfg.run.output_dir} was begun with another config ({', '.join(changed)}); use another run.output_dir, "
            f"or remove that folder to start over; to end the run here, `caad-ds export {cfg.run.output_dir} --out DIR`"
            " writes its newest checkpoint as a model"
        )


def flatten(values: dict, prefix: str = "") -> dict:
    """Flatten nested sections to `a.b` keys."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
