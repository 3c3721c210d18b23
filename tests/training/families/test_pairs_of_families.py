"""A teacher of one family of transformers, a student of another, or of another shape, that write the same tokens."""

import json
import shutil

import pytest
import torch

from caad_ds.models import auto
from tests.training.families.every import FAMILIES, distilled, loud_head, tiny_family, write_model, write_shards
from tests.training.families.test_equal_to_plain import assert_plain_losses
from tests.training.families.traces import watch_traces
from tests.training.launching import Run
from tests.training.tiny import amplify

PAIRS = [
    ("qwen2_audio", "audioflamingo3"),
    ("audioflamingo3", "qwen2_audio"),
    ("qwen2_audio", "qwen2_5_omni"),
    ("qwen2_5_omni", "audioflamingo3"),
]
SEVEN, THREE = {"hidden": 32, "layers": 3}, {"hidden": 16, "layers": 2}
STEPS = {"optimizer": {"steps": 6, "lr": 5e-3}}


@pytest.fixture
def distil(world, tmp_path):
    """Train `student/` of the test's folder by its `teacher/` as in plain PyTorch.

    The ids that stand for one token or none in both, the rows of both heads, and the losses.
    """

    def distil(mode):
        readers = [auto.load(tmp_path / name).reader for name in ("teacher", "student")]
        longest = min(reader.longest_seconds for reader in readers)
        write_shards(tmp_path, longest, all(reader.most_audios != 1 for reader in readers))
        theirs, ours = ({n: token for token, n in reader.tokenizer.get_vocab().items()} for reader in readers)
        rows = [len(auto.load(tmp_path / name).head().weight) for name in ("teacher", "student")]
        common = torch.tensor([n for n in range(min(rows)) if ours.get(n) == theirs.get(n)])
        file = distilled(world, tmp_path, tmp_path / "out", mode, **STEPS)
        run = Run(file, 2, prepare=watch_traces)
        assert run.wait(240) == [0, 0], run.output()
        assert f"vocabulary: {len(common)} tokens in common, of {rows[0]} and {rows[1]} rows" in run.output()
        return common, rows, assert_plain_losses(file, tmp_path / "out", common)

    return distil


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "student"), PAIRS, ids=lambda name: name)
def test_families_that_differ(distil, tmp_path, teacher, student):
    """Each reads its own prompt; the loss is over the tokens in common, between which others may lie."""
    if missing := {teacher, student} - {*FAMILIES}:
        pytest.skip(f"no tiny {missing.pop()}")
    loud_head(write_model(tiny_family(teacher), tmp_path / "teacher"))
    write_model(tiny_family(student), tmp_path / "student", hidden=16, seed=1)
    common, rows, found = distil("all")
    assert 256 < len(common) < min(rows)
    assert found[-1] < max(found) - 0.1, found


def shaped(family: str, folder, rows: int, seed: int, **shape: int) -> None:
    """Write a model of a family whose head has so many rows more than its tokenizer has tokens, as published ones."""
    base = write_model(tiny_family(family), folder.with_name(f"{folder.name}-base"), **shape)
    values = json.loads((base / "config.json").read_text())
    architecture = folder.with_suffix(".json")
    found = [values]
    while found:  # that of the text lies in a part of the config, in some families in a part of a part
        part = found.pop()
        if "vocab_size" in part and "num_hidden_layers" in part and part is not values.get("talker_config"):
            part["vocab_size"] += rows
        found += [each for each in part.values() if isinstance(each, dict)]
    architecture.write_text(json.dumps(values))
    torch.manual_seed(seed)
    lm = auto.build(str(architecture), base)
    amplify(lm.module.base_model)
    lm.save(folder)
    shutil.rmtree(base)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name in ("qwen2_5_omni", "qwen2_audio")])
@pytest.mark.parametrize("mode", ["connector", "all"])
def test_two_sizes_of_one_family(distil, tmp_path, family, mode):
    """As Omni's 7B and 3B: one tokenizer, and heads whose rows were padded to other numbers."""
    shaped(family, tmp_path / "teacher", rows=19, seed=0, **SEVEN)
    loud_head(tmp_path / "teacher")
    shaped(family, tmp_path / "student", rows=7, seed=1, **THREE)
    common, rows, _ = distil(mode)
    assert rows == [len(common) + 12, len(common)]
