"""A user's mistake: one line that says what, where and what to do; status 2 on every rank; no hang."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from torch.utils.cpp_extension import get_default_build_root

from caad_ds.errors import UserError
from caad_ds.files import sole_writer
from caad_ds.models.tokenizer import train_tokenizer
from caad_ds.training.checkpoint import verify
from data_prep.pack import pack
from tests.training.launching import Run, train
from tests.training.tiny import ce, config, llama, records

OFF = {"tracking": {"enabled": False}}


@pytest.fixture
def made(world, tmp_path):
    """`config` of the tiny world in a folder of this test, without tracking."""
    return lambda **changes: config(world, tmp_path / "out", **(OFF | changes))


GEMMA = llama(1, 500) | {"model_type": "gemma2", "head_dim": 16}


@pytest.fixture
def copied(world, tmp_path):
    """A copy of the shards that may be spoiled."""
    return shutil.copytree(world / "shards", tmp_path / "shards")


def refusal(file, *arguments: str, ranks: int = 1, env: dict | None = None) -> str:
    """The one line that the main rank prints as it refuses, beside the lines of progress."""
    run = Run(file, ranks, *arguments, env=env)
    assert run.wait(60) == [2] * ranks, run.output()
    told = [line for rank in range(ranks) for line in run.output(rank).splitlines() if "error" in line.lower()]
    assert "Traceback" not in run.output() and len(told) == 1, run.output()
    assert told[0].startswith("caad-ds: error: ") and run.output().splitlines()[-1] == told[0]
    return told[0]


def test_a_wrong_config_and_its_traceback(made):
    line = refusal(made(objective={"alfa": 1}), ranks=2)
    assert "out.yaml: unknown key objective.alfa; did you mean alpha?" in line
    run = Run(made(objective={"alfa": 1}), 1, "--debug")
    assert run.wait() == [2] and "Traceback" in run.output() and "UserError" in run.output()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": {"train": "nowhere"}}, "nowhere/index.json does not exist: name a folder that `caad-ds prep pack`"),
        ({"teacher": {"path": "nowhere"}}, "nowhere: no model there (config.json is missing); give the folder"),
        ({"student": {"encoder": "nowhere/here"}}, "nowhere/here: no Whisper encoder that loads"),
        ({"student": {"tokenizer": "nowhere/here"}}, "nowhere/here: no tokenizer there"),
        ({"student": {"taps": [0, 7]}}, "taps [0, 7] do not fit an encoder of 2 layers; use 0 to 1"),
        ({"student": {"window_seconds": 2}}, "window of 2 s exceeds the encoder's 1 s"),
        ({"student": {"qformer_heads": 5}}, "is not a multiple of the number of attention heads (5)"),
        ({"student": {"num_queries": 5}}, "student.num_queries is 5, the teacher's 4: make it equal"),
        ({"student": {"llm": llama(1, 5)}}, "student.llm: vocab_size 5 is below the tokenizer's"),
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
    assert "objective.logits: bfloat16 needs an NVIDIA GPU and Triton; set it to float32" in refusal(file)


def test_different_tokenizers(made, tmp_path):
    train_tokenizer(["other words, otherwise cut"] * 9, 50, tmp_path / "words")
    line = refusal(made(student={"tokenizer": str(tmp_path / "words")}))
    assert "teacher and student have different tokenizers" in line and str(tmp_path / "words") in line


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
        soundfile.write(tmp_path / f"{long}.wav", np.full(17_600, 0.1), 16_000)
    manifest = tmp_path / "answered.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(manifest, tmp_path / "long")
    line = refusal(made(data={section: str(tmp_path / "long")}), ranks=2)
    where = f"{tmp_path / 'long/train-000000.tar'}, sample clip-03 (2 of 24 samples have more than 1 s): "
    assert f"{where}an audio of 1.10 s exceeds the encoder's window of 1 s; reject or split" in line


def run_out_of_memory() -> None:
    """In a rank: what reads the data fails on the second one, as nobody foresaw."""
    from caad_ds.data.reader import IndexedReader

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
    from caad_ds import train

    load = train.load_config
    if os.environ["RANK"] == "1":
        train.load_config = lambda _, overrides: load("/nonexistent/run.yaml", overrides)  # type: ignore[assignment]


def test_a_rank_whose_node_lacks_the_config_ends_all(made):
    run = Run(made(), 2, prepare=lack_the_config)
    assert run.wait(60) == [2, 2], run.output()
    last = run.output().splitlines()[-1]
    assert last.startswith("caad-ds: error: /nonexistent/run.yaml") and last.endswith("(rank 1)")


def lack_a_compiler() -> None:
    """In a rank: the second one is the first of a node without one, and the other has not come yet."""
    if os.environ["RANK"] == "0":
        os._exit(0)
    os.environ.update(LOCAL_RANK="0", CXX="/nonexistent/g++")


def test_a_node_without_a_compiler_says_so_though_the_main_rank_is_elsewhere(made):
    run = Run(made(), 2, prepare=lack_a_compiler)
    assert run.wait(60) == [0, 2]
    assert "caad-ds: error: no C++ compiler (/nonexistent/g++) for DeepSpeed's CPU op" in run.output(1)


def run_out_of_memory_in_the_teacher() -> None:
    """In a rank: the second one's third forward fails, where the first waits for its weights."""
    from caad_ds.distill.signal import TeacherForward

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


def test_no_compiler(made):
    line = refusal(made(), env={"CXX": "/nonexistent/g++"})
    assert "no C++ compiler (/nonexistent/g++) for DeepSpeed's CPU op; install g++" in line
    assert "no C++ compiler (c++)" in refusal(made(), ranks=2, env={"CXX": "", "PATH": "/nonexistent"})


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_compiler_that_fails(made, tmp_path, ranks):
    compiler = tmp_path / "c++"
    compiler.write_text(
        '#!/bin/sh\ncase "$*" in *-c*) echo "x.cpp:1: error: no such thing" >&2; exit 1;; esac\nexec g++ "$@"'
    )
    compiler.chmod(0o755)
    environment = {"CXX": str(compiler), "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    line = refusal(made(), ranks=ranks, env=environment)
    assert f"CPU op cannot be compiled with {compiler} (x.cpp:1: error: no such thing); mend that compiler" in line
    line = refusal(made(), ranks=ranks, env={**environment, "CXX": "/bin/false"})
    assert "cannot be compiled with /bin/false (" in line


def test_a_lock_that_a_killed_build_left(made, tmp_path):
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    os.utime(lock, (time.time() - 3600,) * 2)
    line = refusal(made(), env={"TORCH_EXTENSIONS_DIR": str(tmp_path)})
    assert f"{lock}: left 60 minutes ago by a build that was killed; remove that file" in line


def die_in_the_op() -> None:
    """In a rank: it is killed while it loads DeepSpeed's CPU op, which leaves torch's lock."""
    from caad_ds.training import distributed

    def dies() -> None:
        distributed._torch_locks()[0].touch()
        os.kill(os.getpid(), signal.SIGKILL)

    distributed.build_shm_op = dies


def test_a_rank_killed_as_it_loads_the_op_holds_up_no_other(made, tmp_path):
    built = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    shutil.copytree(built, tmp_path / "extensions", ignore=shutil.ignore_patterns("*.lock", "lock"))
    env = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    assert Run(made(), 1, env=env, prepare=die_in_the_op).wait(60) == [-signal.SIGKILL]
    assert list((tmp_path / "extensions").glob("**/lock"))
    again = Run(made(), 2, env=env)
    assert again.wait(60) == [0, 0], again.output()


@pytest.fixture
def disk(tmp_path):
    """Mount a file system of so many kB."""
    folder = tmp_path / "disk"

    def mount(kilobytes: int):
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            folder.rmdir()
            pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
        return folder

    yield mount
    if folder.exists():
        subprocess.run(["umount", "--recursive", folder], check=True)


def remount(folder, *options: str) -> None:
    subprocess.run(["mount", "-o", ",".join(["remount", *options]), folder], check=True)


def test_a_folder_for_the_op_that_is_full_or_cannot_be_written(made, disk):
    built = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    full = disk(4000)
    subprocess.run(["cp", "-a", *built.glob("**/deepspeed_shm_comm"), full], check=True)  # with times, or it is rebuilt
    subprocess.run(["dd", "if=/dev/zero", f"of={full}/fill", "bs=1k"], capture_output=True, check=False)
    env = {"TORCH_EXTENSIONS_DIR": str(full)}
    train_on_it = Run(made(), env=env)
    assert train_on_it.wait(60) == [0], train_on_it.output()
    remount(full, "ro")
    line = refusal(made(), env=env)
    assert f"{full} cannot be written (Read-only file system)" in line and "set TORCH_EXTENSIONS_DIR to" in line


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
    assert (out / "checkpoints/latest").exists()  # with space, the same command goes on from there


def test_an_output_folder_that_cannot_be_made(made, tmp_path):
    (tmp_path / "file").touch()
    line = refusal(made(run={"output_dir": str(tmp_path / "file/out")}), ranks=2)
    assert "cannot be written" in line and str(tmp_path / "file") in line


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpointed(world, tmp_path_factory):
    """The config of a run that has checkpoints of steps 2 and 4 and no model yet."""
    out = tmp_path_factory.mktemp("checkpointed") / "out"
    file = config(world, out, optimizer={"steps": 4}, checkpoint={"every": 2}, **OFF)
    train(file)
    shutil.rmtree(out / "model")
    return file


@pytest.fixture
def resumable(checkpointed, tmp_path):
    """A copy of that run, to spoil."""
    shutil.copytree(checkpointed.with_suffix(""), tmp_path / "out")
    values = yaml.safe_load(checkpointed.read_text())
    values["run"]["output_dir"] = str(tmp_path / "out")
    file = tmp_path / "out.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def test_a_run_begun_with_another_config_names_what_changed(resumable):
    line = refusal(resumable, "--set", "objective.alpha=0.5", "--set", "run.seed=3")
    assert "was begun with another config (objective.alpha 1.0 -> 0.5, run.seed 0 -> 3); use another" in line


def test_a_checkpoint_of_other_weights_or_data(resumable):
    state = resumable.with_suffix("") / "checkpoints/step-00000004/state.json"
    recorded = json.loads(state.read_text())
    now, since_replaced = recorded["state"]["identity"]["teacher"], "0123456789abcdef"
    recorded["state"]["identity"]["teacher"] = since_replaced
    state.write_text(json.dumps(recorded))
    line = refusal(resumable)
    changed = f"holds other things now (teacher, hash {since_replaced} -> {now}); bring that back, use another"
    assert "step-00000004: what it was made from " + changed in line


def damage(path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["trainable.safetensors", "random-0.pt", "deepspeed/*optim*", "state.json", "missing"])
def test_a_damaged_checkpoint_is_passed_over_and_replaced(resumable, name):
    checkpoints = resumable.with_suffix("") / "checkpoints"
    newest, before = checkpoints / "step-00000004", checkpoints / "step-00000002"
    path = newest / "random-0.pt" if name == "missing" else next(newest.glob(name))
    if name == "missing":
        path.unlink()
    elif name == "state.json":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        damage(path)
    said = train(resumable)
    [line] = [line for line in said.splitlines() if line.endswith("; trying step-00000002")]
    assert line.startswith(f"{path}: damaged")
    assert f"resumed from {before} at step 2" in said and "step 3/4" in said
    assert verify(newest).step == 4  # written anew


def test_a_damaged_file_that_one_of_two_ranks_finds(world, tmp_path):
    file = config(world, tmp_path / "out", optimizer={"steps": 4}, checkpoint={"every": 2}, **OFF)
    train(file, 2)
    damage(tmp_path / "out/checkpoints/step-00000004/random-1.pt")
    said = train(file, 2)
    assert "random-1.pt: damaged or missing (rank " in said and "at step 2" in said


def test_no_checkpoint_is_whole(resumable):
    checkpoints = resumable.with_suffix("") / "checkpoints"
    for folder in checkpoints.glob("step-*"):
        damage(folder / "trainable.safetensors")
    line = refusal(resumable)
    assert f"{checkpoints / 'step-00000004/trainable.safetensors'}: damaged" in line
    assert f"no older checkpoint is whole: remove {checkpoints} to start over" in line


def test_a_pointer_to_nothing_and_none(resumable):
    pointer = resumable.with_suffix("") / "checkpoints/latest"
    pointer.write_text("step-00000003")
    said = train(resumable)
    assert "step-00000003/state.json: damaged or missing" in said and "at step 2" in said
    pointer.unlink()
    assert "already finished at step 4" in train(resumable)


def test_a_user_goes_back_to_an_older_checkpoint(resumable):
    (resumable.with_suffix("") / "checkpoints/latest").write_text("step-00000002\n")
    assert "at step 2" in train(resumable)
