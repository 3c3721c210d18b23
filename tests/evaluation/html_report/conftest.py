"""Finished run folders whose answers are known, with texts that a page must not take for its own."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from caad_ds.evaluation.asked_items import write_items
from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.benchmarks.items import Clip, Item
from caad_ds.evaluation.scoring.matching import RULES, VERSION

ITEMS = 40
NASTY = "</script><script>hacked = 1</script> <!-- \"it's\" & <img src=x onerror='hacked = 1'> \u2028 \u202e$x"
SYSTEMS = {"teacher": [0], NASTY: [1], "caad": [2, 3]}  # the seeds of each


@dataclass(frozen=True)
class World:
    """Run folders in `root`, and what each answered: right[folder] is bool [conditions, items]."""

    root: Path
    right: dict[str, np.ndarray]
    items: list[Item]

    @property
    def runs(self) -> list[str]:
        return [str(self.root / name) for name in self.right]


def make_items(root: Path, conditions=CONDITIONS, count: int = ITEMS) -> list[Item]:
    """Items of two subsets; the first two share a clip."""
    (root / "audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    items = []
    for k in range(count):
        clip = root / "audio" / f"{max(k, 1)} é#?.wav"
        if k:
            soundfile.write(clip, 0.1 * rng.standard_normal(8000), 16000)
        subset = "gender" if k < count // 2 else "noise"
        for condition in conditions:
            hint = None if condition in (None, "neutral") else f"hint {condition} {k} {NASTY}"
            name = f"{subset}/{k}"
            items.append(
                Item(name, subset, condition, (Clip(clip),), (), f"question {k} {NASTY}", f"gold {k % 3}", hint)
            )
    return items


def write_run(folder: Path, name: str, items: list[Item], right: np.ndarray, benchmark: str = "mcr-bench") -> None:
    """A finished run that is right where `right` says so; `strict` nowhere, `lenient` as `right` but for the first."""
    rows = list(dict.fromkeys(item.id for item in items))
    conditions = list(dict.fromkeys(item.condition for item in items))
    lines = []
    for item in items:
        k, c = rows.index(item.id), conditions.index(item.condition)
        is_right = bool(right[c, k])
        verdicts = dict.fromkeys(RULES, False) | {"right": is_right, "lenient": is_right and k > 0}
        said = f"{item.gt if is_right else 'other'} says {name} {NASTY}"
        lines.append({"id": item.id, "condition": item.condition, "subset": item.subset, "gt": item.gt,
                      "prediction": said, "clips": [item.clips[0].path.name], **verdicts})  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_items(folder, items)
    setup = {"name": name, "benchmark": benchmark, "benchmark_sha256": "b", "model_sha256": folder.name}
    counts = {subset: {"items": sum(name.startswith(subset) for name in rows)} for subset in ("gender", "noise")}
    scored = {"groups": {"all": {"items": len(rows)}}} if benchmark == "mcr-bench" else {"instances": counts}
    scores = {"name": name, "rejected": [], "matching": VERSION, "setup": setup, **scored}
    (folder / "scores.json").write_text(json.dumps(scores))


def make_world(root: Path) -> World:
    """A teacher, a system of one run and one of two seeds."""
    items = make_items(root)
    right = {}
    for name, seeds in SYSTEMS.items():
        for seed in seeds:
            rng = np.random.default_rng(seed)
            answers = rng.random((len(CONDITIONS), ITEMS)) < 0.7
            right[f"run{seed}"] = answers
            write_run(root / f"run{seed}", name, items, answers)
    return World(root, right, items)


@pytest.fixture
def world(tmp_path) -> World:
    return make_world(tmp_path / "world")


def write_tokens(folder: Path, item: Item) -> None:
    """What `explain` writes about an item."""
    tokens = [{"id": 5, "text": f" {NASTY}", "p_pos": 0.25, "p_neg": 0.125, "target": 0.75},
              {"id": 6, "text": "never", "p_pos": 0.001, "p_neg": 0.0, "target": 0.0}]  # fmt: skip
    setting = {"answer": "gt", "contrast_alpha": 1.0, "negative": "zero_mel", "plausibility": None, "temperature": 1.0}
    content = {
        "id": item.id, "condition": item.condition, "question": item.question, "hint": item.hint,
        "gt": item.gt, "model": "runs/teacher/model", "teacher": None,
        "setting": setting, "answer": "word",
        "signals": ["p_pos", "p_neg", "target"], "positions": [{"id": 5, "text": " word", "tokens": tokens}],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{item.id.replace('/', '_')}.json").write_text(json.dumps(content))
