"""A plan of small models: an encoder and LLMs of a layer, as architectures alone."""

import json
from pathlib import Path
from typing import Any

from caad_ds.config.schema import Config
from caad_ds.training.plan.plan import Plan, plan
from tests.training.tiny import llama

WHISPER = {
    "model_type": "whisper", "d_model": 32, "encoder_layers": 1, "decoder_layers": 0, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64, "num_mel_bins": 80, "max_source_positions": 50,
}  # fmt: skip
GIVEN: dict[str, Any] = {"device": "rtx4090", "samples": 1000, "tokens": 40, "answer_tokens": 24, "seconds": 1.0}
QUERIES = 10  # positions of an audio


def config(folder: Path, layers: int = 1, **sections: dict[str, Any] | None) -> Config:
    """A distillation between two random models of a layer (the student: `layers`), with keys of `sections`."""
    models = {"whisper": WHISPER, "student": llama(layers, 64), "teacher": llama(1, 64, hidden=64)}
    for name, values in models.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    student = {
        "llm": str(folder / "student.json"), "encoder": str(folder / "whisper.json"), "taps": [0], "tokenizer": "x",
        "window_seconds": 1, "num_queries": QUERIES, "qformer_heads": 2, "qformer_layers": 1,
        "deepspeed": "student_zero2.json",
    }  # fmt: skip
    values = {
        "run": {"output_dir": "unused"}, "data": {"train": "absent"}, "student": student,
        "teacher": {"path": str(folder / "teacher.json")}, "optimizer": {"epochs": 1},
    }  # fmt: skip
    for name, section in sections.items():
        values[name] = None if section is None else values.get(name, {}) | section
    return Config.model_validate({name: section for name, section in values.items() if section is not None})


def planned(folder: Path, arguments: dict[str, Any] | None = None, **sections: dict[str, Any] | None) -> Plan:
    """Its plan, with `arguments` of `plan` beside those of `GIVEN`."""
    return plan(config(folder, **sections), **GIVEN | (arguments or {}))
