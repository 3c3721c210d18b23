"""The modelling is copied into a model's folder and runs there without this package."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from caad_ds.models import whisper_qformer
from caad_ds.models.whisper_qformer.config import SpeechLMConfig
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from tests.models.whisper_qformer import tiny_logits


def test_a_copy_of_the_folder_computes_the_same_logits_without_the_package(tmp_path):
    shutil.copytree(
        Path(whisper_qformer.__file__).parent, tmp_path / "shipped", ignore=shutil.ignore_patterns("__pycache__")
    )
    script = [sys.executable, tiny_logits.__file__, "shipped", str(tmp_path / "logits.pt")]
    env = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    ran = subprocess.run(script, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    ours, theirs = tiny_logits.logits(whisper_qformer.__name__), torch.load(tmp_path / "logits.pt")
    assert ours.shape == (10, 50) and ours.std() > 0.01
    assert torch.equal(ours, theirs)


def test_it_imports_pytorch_transformers_and_numpy_alone():
    """What whoever loads the model folder has: transformers needs NumPy itself."""
    allowed = {*sys.stdlib_module_names, "torch", "transformers", "numpy"}
    found = set()
    for file in Path(whisper_qformer.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    assert {"torch", "transformers"} <= found <= allowed


def test_adapters_are_refused_where_there_is_nothing_to_add_them_with(monkeypatch):
    monkeypatch.setattr(SpeechLM, "inject_adapters", None)
    config = SpeechLMConfig(llm_config=tiny_logits.LLM, lora={"rank": 2})
    with pytest.raises(ValueError, match=r"adapters are not merged .* without --keep-adapters"):
        SpeechLM(config)
