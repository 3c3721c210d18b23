"""vLLM answers an exported model with our own greedy tokens."""

import os
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from caad_ds.models import auto
from tests.models.families import tiny, vllm_answers
from tests.models.families.conftest import sample

pytestmark = [pytest.mark.peers, pytest.mark.slow]

VARIABLE = "CAAD_VLLM_PYTHON"
PYTHON = os.environ.get(VARIABLE)
# The smallest that vLLM takes, by family.
SIZES = {"qwen2_audio": {"hidden": 128, "seconds": 30}}
ENDS_AFTER = 5


@pytest.mark.skipif(PYTHON is None, reason=f"{VARIABLE} does not name the python of an environment with vLLM")
@pytest.mark.parametrize("family", SIZES)
def test_vllm_answers_as_we_do(family, tmp_path):
    """Prompts of one, several and no clips; an answer that ends at a token of the generation config."""
    made = import_module(f"{tiny.__name__}.{family}")
    folder = made.write(tmp_path / "made", **SIZES[family])
    lm = auto.load(folder)
    several = (1.3, 0.25, 0.4)[: lm.reader.most_audios or 3]
    samples = [sample("a", 0.5), sample("b", *several, question="Is it low?"), sample("c", 5.0), sample("d")]
    whole = vllm_answers.write(folder, tmp_path / "first", samples)
    assert len({tuple(each) for each in whole}) == len(samples)  # audio decides: three have the same question
    end = whole[0][ENDS_AFTER - 1]
    lm.module.generation_config.eos_token_id = [end]
    lm.save(tmp_path / "export")
    cut = vllm_answers.write(tmp_path / "export", tmp_path / "asked", samples)
    assert len(cut[0]) <= ENDS_AFTER and cut[0][-1] == end and max(map(len, cut)) > ENDS_AFTER
    script = Path(vllm_answers.__file__)
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run([PYTHON, script, tmp_path / "asked"], env=bare, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
