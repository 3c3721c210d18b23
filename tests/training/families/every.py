"""A teacher, a narrower student, and data for each family of which the tests have a tiny model."""

import json
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file, save_file

from caad_ds.data.audio_markers import user_content
from caad_ds.models import families
from data_prep.pack import pack
from tests.command import run_command
from tests.models.families import tiny
from tests.training.families.qwen import foreign

FAMILIES = sorted(module.name for module in iter_modules(tiny.__path__) if module.name != "text")
SAMPLES = 16


def tiny_family(name: str) -> ModuleType:
    """The tests' module of a family; the test is skipped where its processor's packages are not installed."""
    for package in import_module(f"{families.__name__}.{name}").FAMILY.packages:
        pytest.importorskip(package, reason=f"{name} needs {package}")
    return import_module(f"{tiny.__name__}.{name}")


def write_models(folder: Path, made: ModuleType) -> None:
    """`teacher/`, and `student/` of half its width."""
    loud_head(write_model(made, folder / "teacher"))
    write_model(made, folder / "student", hidden=16, seed=1)


def write_model(made: ModuleType, folder: Path, **shape: int) -> Path:
    """A model of a family in a new folder."""
    folder.mkdir()  # one whose processor reads a file of it writes there before its weights
    return made.write(folder, **shape)


def loud_head(model: Path) -> None:
    """Multiply a model's logits: of fresh weights the target would be as good as uniform.

    By its head, or where that is the table of embeddings by its last norm.
    """
    file = model / "model.safetensors"
    tensors = load_file(file)
    heads = [name for name in tensors if name.endswith("lm_head.weight")]
    norms = [name for name in tensors if name.endswith((".model.norm.weight", ".language_model.norm.weight"))]
    [name] = heads or norms
    tensors[name] *= 20
    save_file(tensors, file, {"format": "pt"})


def write_shards(folder: Path, longest: float, several: bool) -> None:
    """`shards/` of tones up to the longest that a family takes; one sample has perhaps two."""
    (folder / "audio").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(SAMPLES):
        word = ("low", "high")[number % 2]
        count = 2 if several and number == 5 else 1
        audios = []
        for place in range(count):
            seconds = longest if number == 2 else 0.4 + 0.6 * longest * ((number + place) % 7) / 7
            time = np.arange(int(seconds * 16_000)) / 16_000
            wave = 0.3 * np.sin(2 * np.pi * (200, 800)[number % 2] * time) + 0.01 * rng.standard_normal(len(time))
            file = f"audio/{number}-{place}.wav"
            soundfile.write(folder / file, wave.astype(np.float32), 16_000)
            audios.append({"path": file, "text": "", "duration": seconds})
        question = user_content("Is the tone high or low?", audios=count)
        rows.append({
            "id": f"clip-{number:02d}", "audios": audios, "messages": [{"role": "user", "content": question}],
            "metadata": {"tone": word}, "seed_description": f"(Tone: {word})",
            "response": f"The tone is {word}." if number % 3 else f"It is {word}.", "source": "tones",
        })  # fmt: skip
    manifest = folder / "answered.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_command(pack, "--manifest", manifest, "--out", folder / "shards") == 0


def distilled(world: Path, folder: Path, out: Path, mode: str, **changes: dict | None) -> Path:
    """Write a config that distils `teacher/` of a folder into its `student/` on its shards, a sample at a time."""
    sections: dict[str, dict | None] = {
        "teacher": {"path": str(folder / "teacher"), "batch": 1},
        "data": {"train": str(folder / "shards")},
        "optimizer": {"steps": 4, "micro_batch": 1},
    }
    for section, keys in changes.items():
        sections[section] = None if keys is None else (sections.get(section) or {}) | keys
    return foreign(world, out, mode, str(folder / "student"), **sections)
