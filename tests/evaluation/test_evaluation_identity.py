"""What makes an evaluation another one: the bytes of the model, of its encoder and of the clips."""

import json
import shutil

import soundfile
from safetensors.torch import load_file, save_file

from caad_ds.evaluation.benchmarks.benchmark_kinds import load
from caad_ds.evaluation.evaluation_identity import fingerprint
from caad_ds.models.model_hashes import model_hash
from tests.root import ROOT


def change(file):
    """One bit, and not the size."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def test_the_hash_of_a_model_has_its_encoder_in_it_wherever_it_stands(model_folder, tmp_path):
    """The encoder is among the model's weights, or for old folders in a subfolder or on the hub."""
    own = shutil.copytree(model_folder, tmp_path / "own")
    assert model_hash(own) == model_hash(model_folder)
    weights = load_file(own / "model.safetensors")
    weights["encoder.whisper.conv1.bias"][0] += 1
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    assert model_hash(own) != model_hash(model_folder)
    old = shutil.copytree(ROOT / "examples/demo/teacher_model", tmp_path / "old")
    twin = old / "twin"
    config = json.loads((twin / "config.json").read_text())
    assert config["encoder"] == "../encoder"
    before = model_hash(old), model_hash(twin)
    change(old / "encoder" / "model.safetensors")
    after = model_hash(old), model_hash(twin)
    assert before[0] != after[0] and before[1] != after[1]
    (twin / "config.json").write_text(json.dumps({**config, "encoder": "openai/whisper-small"}))
    assert model_hash(twin) not in (before[1], after[1])


def test_the_hash_of_a_model_has_its_end_tokens_in_it(model_folder, tmp_path):
    own = shutil.copytree(model_folder, tmp_path / "own")
    file = own / "generation_config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"temperature": 0.5}))
    assert model_hash(own) == model_hash(model_folder), "it is not followed"
    file.write_text(json.dumps(values | {"eos_token_id": [0, 7]}))
    assert model_hash(own) != model_hash(model_folder)


def test_the_fingerprint_of_a_benchmark_has_the_clips_bytes_in_it(conflicts):
    before = fingerprint(load(conflicts))
    assert fingerprint(load(conflicts)) == before
    clip = conflicts / "gender" / "audio" / "1.wav"
    change(clip)
    assert soundfile.info(clip).frames == 8000 and fingerprint(load(conflicts)) != before
