"""What a run is known by when it is started again: the settings, weights and data that decide its course."""

import hashlib
from typing import Any

from caad_ds.config.deepspeed_files import deepspeed_config
from caad_ds.config.reading import load_config
from caad_ds.config.schema import STREAM_ONLY, Config
from caad_ds.utils.errors import UserError

COURSE = {"data", "teacher", "student", "objective", "optimizer"}  # sections that decide the course of training
COURSE_OF_RUN = ("seed", "precision", "encoder_precision", "attention")
NOT_COURSE = {  # of these, what decides the speed alone
    "teacher": {"placement", "nvme_path", "batch", "keep_prefix", "deepspeed"},
    "optimizer": {"micro_batch", "max_skipped"},
    "student": {"gradient_checkpointing"},
    "data": {"validation"},
}


def identity(
    cfg: Config, teacher: list[str], student: tuple[str, str], data: str, prompts: dict[str, Any]
) -> dict[str, str]:
    """A hash of each part that decides the course of training.

    Where it logs and how often it saves may change on resume; a path that holds other weights or shards may not:
    `teacher` and `student` are hashes of their weights, `data` is the reader's identity, `prompts` is what the ids of
    a record depend on.
    """
    settings = cfg.model_dump(mode="json", include=COURSE, exclude=NOT_COURSE)
    if cfg.data.reader == "indexed":  # a run that began before there was another goes on
        settings["data"] = {k: v for k, v in settings["data"].items() if k not in ("reader", *STREAM_ONLY)}
    parts = {
        "settings": (settings, [getattr(cfg.run, key) for key in COURSE_OF_RUN]),
        "teacher": teacher,
        "student": student,
        "data": data,
        "prompts": prompts,
        # How checkpoints are cut.
        "student.deepspeed": deepspeed_config(cfg.student.deepspeed).get("zero_optimization"),
    }
    return {part: part_hash(value) for part, value in parts.items()}


def part_hash(value: object) -> str:
    """The hash of a part of an identity."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def check_same_config(cfg: Config) -> None:
    """Refuse to go on with other settings than the run began with, by name, before anything is loaded."""
    path = cfg.run.output_dir / "config.yaml"
    if not path.is_file():
        return
    began, now = (
        flatten(each.model_dump(mode="json", include=COURSE, exclude=NOT_COURSE))
        | {f"run.{key}": getattr(each.run, key) for key in COURSE_OF_RUN}
        for each in (load_config(path), cfg)
    )
    changed = [f"{key} {began.get(key)} -> {now.get(key)}" for key in began | now if began.get(key) != now.get(key)]
    if changed:
        raise UserError(
            f"{cfg.run.output_dir} was begun with another config ({', '.join(changed)}); use another run.output_dir, "
            f"or remove that folder to start over; to end the run here, `caad-ds export {cfg.run.output_dir} --out DIR`"
            " writes its newest checkpoint as a model"
        )


def flatten(values: dict, prefix: str = "") -> dict:
    """Nested sections as `a.b` keys."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
