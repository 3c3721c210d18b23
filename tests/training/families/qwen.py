"""Configurations of runs whose teacher or student is Qwen2-Audio."""

from pathlib import Path

from tests.training.tiny import config, start_from

STEPS = 20
MODES = {"connector": {}, "lora": {"lora": {"rank": 4, "alpha": 8}}, "all": {}}


def foreign(world: Path, out: Path, mode: str = "connector", name: str = "narrow", **changes: dict | None) -> Path:
    """Write a config that distils the tiny Qwen2-Audio into the model folder of a name.

    `changes` replace keys of sections as those of `config` do.
    """
    student = start_from(world / name) | {"train": mode} | MODES[mode]
    optimizer = {"steps": STEPS, "micro_batch": 2, "lr": 5e-3}
    sections = {"student": student, "teacher": {"path": str(world / "qwen2_audio")}, "optimizer": optimizer}
    for section, keys in changes.items():
        sections[section] = None if keys is None else sections.get(section, {}) | keys
    return config(world, out, **sections)
