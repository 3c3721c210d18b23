"""A user's mistake: one line that says what, where and what to do; status 2 on every rank; no hang."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from caad_ds.models.prompts.train_tokenizer import train_tokenizer
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import sole_writer
from data_prep.pack.pack import pack
from tests.training.disk import remount
from tests.training.launching import Run, refusal
from tests.training.tiny import ce, config, llama, records, start_from

OFF = {"tracking": {"enabled": False}}


GEMMA = llama(1, 500) | {"model_type": "gemma2", "head_dim": 16}


@pytest.fixture
def copied(world, tmp_path):
    """A copy of the shards that may be spoiled."""
    return shutil.copytree(world / "shards", tmp_path / "shards")


def test_a_wrong_config_and_its_traceback(made):
    line = refusal(made(objective={"alfa": 1}), ranks=2)
    assert "out.yaml: unknown key objective.alfa; did you mean objective.alpha?" in line
    run = Run(made(objective={"alfa": 1}), 1, "--debug")
    assert run.wait() == [2] and "Traceback" in run.output() and "UserError" in run.output()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": {"train": "nowhere"}}, "nowhere/index.json does not exist: name a folder that `caad-ds prep pack`"),
        ({"teacher": {"path": "nowhere"}}, "nowhere: no such folder; give the folder of a model, or a hub id"),
        ({"student": {"encoder": "nowhere/here"}}, "nowhere/here: no such folder, and no model of that id"),
        ({"student": {"tokenizer": "nowhere/here"}}, "nowhere/here: no such folder, and no model of that id"),
        ({"student": {"taps": [0, 7]}}, "taps [0, 7] do not fit an encoder of 2 layers; use 0 to 1"),
        ({"student": {"window_seconds": 2}}, "window of 2 s exceeds the encoder's 1 s"),
        ({"student": {"qformer_heads": 5}}, "is not a multiple of the number of attention heads (5)"),
        (
            {"student": {"llm": llama(1, 5)}},
            "but the embedding has 5 rows; take a tokenizer of these weights, or",
        ),
        (
            {"student": {"llm": GEMMA}},
            "run.attention: a Gemma2ForCausalLM has no sdpa in transformers; set",
        ),
        ({"student": {"deepspeed": "zero9.json"}}, "zero9.json: no such DeepSpeed config; give a path or one of "),
        ({"teacher": {"deepspeed": "student_zero2.json"}}, "stage 2 needs an optimizer, a teacher has none"),
        ({"optimizer": {"batch_size": 7, "micro_batch": 2}}, "optimizer.batch_size 7 is not a multiple of 1 ranks"),
        ({"tracking": {"enabled": True, "uri": "mlruns"}}, "tracking.uri 'mlruns' is no MLflow store"),
    ],
    ids=lambda value: next(iter(value)) + "." + next(iter(value[next(iter(value))])) if isinstance(value, dict) else "",
)
def test_what_does_not_exist_or_fit_is_named(made, changes, expected):
    assert expected in refusal(made(**changes))


def test_all_that_is_missing_is_named_before_deepspeed_starts(made):
    """A student by a hub id as well, of which there is no local copy."""
    path = made(
        data={"train": "one", "validation": "two"}, teacher={"path": "nowhere"},
        student=start_from(Path("nope/model")),
    )  # fmt: skip
    run = Run(path, 1)
    assert run.wait() == [2]
    [line] = run.output().splitlines()
    assert "one/index.json and two/index.json do not exist: name folders that `caad-ds prep pack` wrote" in line
    assert "; nowhere: no such folder; " in line and "; nope/model: no such folder, and no model of that id" in line


def test_a_batch_that_does_not_divide_by_the_ranks(made):
    assert "optimizer.batch_size 7 is not a multiple of 2 ranks" in refusal(made(optimizer={"batch_size": 7}), ranks=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"gradient_clipping": 1.0}', "gradient_clipping is the YAML's optimizer.max_grad_norm; remove it here"),
        ('{"torch_autocast": {"enabled": true}}', "torch_autocast is the YAML's run.precision; remove it here"),
        ('{"zero_optimisation": {"stage": 3}}', "zero_optimization is missing (there is zero_optimisation); add it"),
        ('{"zero_optimization": {"stage": 3,}}', "line 1: not valid JSON"),
        ('{"zero_optimization": {"stge": 3}}', "zero_optimization: stge Extra inputs are not permitted"),
        ('{"zero_optimization": {"stage": 2, "compute_grad_norm": false}}', "compute_grad_norm belongs to the norm by"),
        (
            '{"zero_optimization": {"stage": 2, "zenflow": {}}}',
            "zenflow applies parts of a step before its gradient is",
        ),
        ("[]", "expected an object of DeepSpeed settings but found list"),
    ],
)
def test_a_deepspeed_file_that_cannot_be_used(made, tmp_path, text, expected):
    path = tmp_path / "ours.json"
    path.write_text(text)
    line = refusal(made(student={"deepspeed": str(path)}))
    assert str(path) in line and expected in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there, which bfloat16 logits need")
def test_logits_that_only_a_gpu_can_hold_rounded(made):
    file = made(objective={"logits": "bfloat16"}, run={"precision": "bf16"})
    assert "objective.logits: bfloat16 needs the loss in Triton, here it is native; set it to float32" in refusal(file)


def test_different_vocabularies(made, world, tmp_path):
    train_tokenizer(["other words, otherwise cut"] * 9, 50, tmp_path / "words")
    line = refusal(made(student={"tokenizer": str(tmp_path / "words")}), ranks=2)
    names = f"teacher {world / 'teacher'} and student {tmp_path / 'words'}"
    assert f"{names} have different vocabularies of answers: " in line and " tokens have the same id in both" in line


def test_different_end_tokens(made, world, tmp_path):
    tokenizer = shutil.copytree(world / "tokenizer", tmp_path / "words")
    settings = tokenizer / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"eos_token": "<pad>"}))
    line = refusal(made(student={"tokenizer": str(tokenizer)}), ranks=2)
    assert (
        f"teacher {world / 'teacher'} and student {tokenizer} end an answer differently: '</s>' (2), '<pad>' " in line
    )
    assert "set student.tokenizer of a student.llm to the teacher's" in line


def spoil(folder, sample: int) -> str:
    """Overwrite a sample's audio in its shard without changing any length; returns its key."""
    index = json.loads((folder / "index.json").read_text())
    entry = index["shards"][0]["samples"][sample]
    shard = folder / index["shards"][0]["name"]
    data = bytearray(shard.read_bytes())
    at = data.index(b"fLaC", entry["offset"])
    data[at : at + 400] = b"x" * 400
    shard.write_bytes(data)
    return entry["key"]


def test_an_audio_that_does_not_decode_stops_both_ranks(made, copied):
    key = spoil(copied, 5)
    line = refusal(made(data={"train": str(copied)}), ranks=2)
    assert str(copied) in line and key in line and "caad-ds prep verify" in line
    assert "(rank " in line


def test_an_audio_of_the_validation_data_that_does_not_decode_stops_both_ranks(made, copied):
    key = spoil(copied, 20)  # beside others that decode, so one rank alone meets it
    file = made(data={"validation": str(copied)}, validation={"every": 2, "batch_size": 2})
    line = refusal(file, ranks=2)
    assert str(copied) in line and key in line and "(rank " in line


@pytest.mark.parametrize("section", ["train", "validation"])
def test_an_audio_longer_than_the_window_is_refused_before_training(made, world, tmp_path, section):
    rows = records(tmp_path)
    for long in (3, 5):
        soundfile.write(tmp_path / f"{long}.wav", 0.1 * np.sin(np.arange(17_600) * 0.1), 16_000)
    manifest = tmp_path / "answered.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(manifest, tmp_path / "long")
    line = refusal(made(data={section: str(tmp_path / "long")}), ranks=2)
    where = f"{tmp_path / 'long/train-000000.tar'}, sample clip-03 (2 of 24 samples have more than 1 s): "
    assert f"{where}an audio of 1.10 s exceeds the model's window of 1 s; reject or split" in line


def run_out_of_memory() -> None:
    """In a rank: reading data fails on the second rank with an unexpected error."""
    from caad_ds.data.shard_reader import IndexedReader

    read = IndexedReader.__getitem__

    def fails(self: IndexedReader, number: int):
        if os.environ["RANK"] == "1" and number == 7:
            raise MemoryError("no memory for a sample")
        return read(self, number)

    IndexedReader.__getitem__ = fails  # type: ignore[method-assign]


def test_a_rank_that_fails_alone_in_its_own_way_ends_all(made):
    run = Run(made(optimizer={"steps": 50}), 2, prepare=run_out_of_memory)
    assert run.wait(60) == [2, 2], run.output()
    assert run.output().splitlines()[-1] == "caad-ds: error: MemoryError: no memory for a sample (rank 1)"
    assert "Traceback" in run.output(1) and "no memory for a sample" in run.output(1)


def lack_the_config() -> None:
    """In a rank: the second one's node does not have the file."""
    from caad_ds.training import train_command

    load = train_command.load_config
    if os.environ["RANK"] == "1":
        train_command.load_config = lambda _, overrides: load("/nonexistent/run.yaml", overrides)  # type: ignore[assignment]


def test_a_rank_whose_node_lacks_the_config_ends_all(made):
    run = Run(made(), 2, prepare=lack_the_config)
    assert run.wait(60) == [2, 2], run.output()
    last = run.output().splitlines()[-1]
    assert last.startswith("caad-ds: error: /nonexistent/run.yaml") and last.endswith("(rank 1)")


def run_out_of_memory_in_the_teacher() -> None:
    """In a rank: the second one's third forward fails, where the first waits for its weights."""
    from caad_ds.distill.teacher_signal import TeacherForward

    forward, calls = TeacherForward.forward, []

    def fails(self: TeacherForward, *args, **kwargs):
        calls.append(1)
        if os.environ["RANK"] == "1" and len(calls) == 3:
            raise MemoryError("no memory for a layer")
        return forward(self, *args, **kwargs)

    TeacherForward.forward = fails  # type: ignore[method-assign]


def test_a_rank_that_fails_within_an_engine_leaves_no_other_waiting(made):
    run = Run(made(optimizer={"steps": 50}), 2, prepare=run_out_of_memory_in_the_teacher)
    assert run.wait(60) == [2, 2], run.output()
    last = run.output().splitlines()[-1]
    assert last.startswith("caad-ds: error: rank 0: another rank has ended (") and "Traceback" not in run.output()
    assert "no memory for a layer" in run.output(1)


def test_a_second_run_in_the_same_folder_is_refused(made):
    file = made(optimizer={"steps": 3000})
    first = Run(file, 2)
    first.wait_for("step 2/")
    folder = yaml.safe_load(file.read_text())["run"]["output_dir"]
    assert f"another process is writing {folder}: wait until it ends, or name another output" in refusal(file, ranks=2)
    first.signal(signal.SIGKILL)
    first.wait()
    again = Run(file, 2)
    again.wait_for("step 2/")  # a lock ends with its holder
    again.signal(signal.SIGKILL)
    again.wait()


def test_a_shard_that_is_cut_while_training_reads_it(made, copied):
    run = Run(made(data={"train": str(copied)}, optimizer={"steps": 3000}), 2)
    run.wait_for("step 3/")
    os.truncate(next(copied.glob("*.tar")), 20_000)
    assert run.wait(60) == [2, 2], run.output()
    last = run.output().splitlines()[-1]
    assert last.startswith("caad-ds: error: ") and "bytes too early" in last and "caad-ds prep verify" in last
    assert "error" not in run.output(1)


def test_a_shard_that_was_cut_before(made, copied):
    os.truncate(next(copied.glob("*.tar")), 20_000)
    assert "has 20000 bytes where index.json says" in refusal(made(data={"train": str(copied)}))


def test_a_mounted_folder_is_locked_from_within(disk):
    parent = disk(200)
    (out := parent / "out").mkdir()
    subprocess.run(["mount", "--bind", out, out], check=True)
    remount(parent, "bind", "ro")
    with sole_writer(out), pytest.raises(UserError, match=f"another process is writing {out}"), sole_writer(out):
        pass
    assert not list(out.iterdir())
    with pytest.raises(UserError, match="disk cannot be written"), sole_writer(parent / "other"):
        pass


def test_no_space_for_a_checkpoint(world, disk, tmp_path):
    out = disk(200) / "out"
    line = refusal(config(world, tmp_path / "out", run={"output_dir": str(out)}, **OFF), ranks=2)
    assert f"{out / 'checkpoints'}: no space for a checkpoint" in line and "free some" in line


def test_no_space_for_the_model_leaves_no_half_of_it(world, disk, tmp_path):
    out = disk(620) / "out"
    file = ce(world, tmp_path / "out", run={"output_dir": str(out)}, student={"train": "connector"}, **OFF)
    line = refusal(file, ranks=2)
    assert f"no space left for {out / 'model'}" in line and not (out / "model").exists()
    assert (out / "checkpoints/latest").exists()  # with space, the same command continues from there


def test_an_output_folder_that_cannot_be_made(made, tmp_path):
    (tmp_path / "file").touch()
    line = refusal(made(run={"output_dir": str(tmp_path / "file/out")}), ranks=2)
    assert "cannot be written" in line and str(tmp_path / "file") in line


# -- checkpoints ------------------------------------------------------------------------------------------------------
