"""Read DeepSpeed's JSON files, check them, and complete them with values of the YAML and the model."""

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch.distributed as dist
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from pydantic import ValidationError

from caad_ds.config.schema import Config, TeacherSection
from caad_ds.utils.errors import UserError
from caad_ds.utils.text import read_text

OURS = {  # keys that belong in the YAML, and their names there
    "train_batch_size": "optimizer.batch_size",
    "train_micro_batch_size_per_gpu": "optimizer.micro_batch",
    "gradient_accumulation_steps": "optimizer.batch_size over its micro_batch",
    "gradient_clipping": "optimizer.max_grad_norm",
    "optimizer": "optimizer.lr, betas and weight_decay",
    "scheduler": "optimizer.lr and warmup_steps",
    "fp16": "run.precision",
    "bf16": "run.precision",
    "amp": "run.precision",
    "torch_autocast": "run.precision",
}
UNGUARDED = {  # with these, a step with a non-finite gradient would be applied, in whole or in part
    "compute_grad_norm": "belongs to the norm by which steps are clipped and checked, which is always computed",
    "zenflow": "applies parts of a step before its gradient is known to be finite",
}


def deepspeed_config(name: str, **ours: Any) -> dict:
    """Read a DeepSpeed JSON (a path, or a file of ds_configs/), and add the values `ours` from the YAML."""
    path = Path(name)
    if not path.is_file():
        shipped = resources.files("ds_configs") / name
        if not shipped.is_file():
            known = ", ".join(
                sorted(p.name for p in resources.files("ds_configs").iterdir() if p.name.endswith(".json"))
            )
            raise UserError(f"{name}: no such DeepSpeed config; give a path or one of {known}")
        path = Path(str(shipped))
    try:
        values = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); correct that line") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected an object of DeepSpeed settings but found {type(values).__name__}")
    if doubled := [f"{key} is the YAML's {OURS[key]}" for key in sorted(set(values) & set(OURS))]:
        raise UserError(f"{path}: {'; '.join(doubled)}; remove it here")
    if "zero_optimization" not in values:  # DeepSpeed ignores a misspelt one
        raise UserError(f"{path}: zero_optimization is missing (there is {', '.join(values) or 'nothing'}); add it")
    if unresolved := sorted(_autos(values)):
        raise UserError(f'{path}: {", ".join(unresolved)} is "auto", which nothing resolves here; give a value')
    try:
        DeepSpeedZeroConfig(**values.get("zero_optimization", {}))
    except (ValidationError, TypeError) as error:
        first = " ".join(str(error).split("[type=")[0].splitlines()[1:]) or str(error)
        raise UserError(f"{path}: zero_optimization: {' '.join(first.split())}; fix that key") from None
    for key, reason in UNGUARDED.items():
        if key in values["zero_optimization"]:
            raise UserError(f"{path}: zero_optimization.{key} {reason}; remove it")
    fixed = {"steps_per_print": 10**12, "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    return values | ours | fixed


def offloaded(zero: Mapping[str, Any], what: str) -> str | None:
    """Return where a zero_optimization section puts the `param` or the `optimizer`: cpu, nvme, or None (the device)."""
    device = (zero.get(f"offload_{what}") or {}).get("device")
    return device if device in ("cpu", "nvme") else None


def teacher_file(teacher: TeacherSection, placed: str) -> str:
    """Return the DeepSpeed JSON of a teacher placed `replicated`, `resident`, `cpu` or `nvme`."""
    return teacher.deepspeed or f"teacher_{placed}.json"


def teacher_settings(cfg: Config, placed: str, folder: Path | None, largest: int, **ours: Any) -> dict:
    """Return the teacher's DeepSpeed settings; `folder` is for weights on NVMe, `largest` the largest weight's size.

    A buffer must fit a rank's share of the largest weight, so its size depends on the model, not on the file.
    """
    assert cfg.teacher is not None
    settings = deepspeed_config(teacher_file(cfg.teacher, placed), **ours)
    if folder is not None:
        share = -(-largest // dist.get_world_size())
        settings["zero_optimization"]["offload_param"] |= {"nvme_path": str(folder), "buffer_size": share}
    return settings


def check_deepspeed(cfg: Config) -> None:
    """Refuse DeepSpeed files that an engine would refuse later, with a worse message."""
    ours = deepspeed_config(cfg.student.deepspeed).get("zero_optimization", {})
    if cfg.objective.draws and offloaded(ours, "param") == "nvme":
        raise UserError(
            f"student.deepspeed {cfg.student.deepspeed}: objective.on_policy gathers the student's weights at once, "
            "which DeepSpeed cannot do from NVMe; offload them to cpu, or not at all"
        )
    if cfg.teacher is None:
        return
    for placed in ("replicated", "resident", "cpu", "nvme"):
        file = teacher_file(cfg.teacher, placed)
        zero = deepspeed_config(file).get("zero_optimization", {})
        if (stage := zero.get("stage", 0)) in (1, 2):
            raise UserError(
                f"teacher.deepspeed {file}: stage {stage} needs an optimizer, a teacher has none; use stage 3 or 0"
            )


def _autos(values: dict, prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _autos(value, f"{prefix}{key}.")
        elif value == "auto":
            yield f"{prefix}{key}"
