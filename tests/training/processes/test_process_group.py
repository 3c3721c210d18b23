"""DeepSpeed's CPU op as a run starts: no compiler, no place for it, and what killed builds leave."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import deepspeed
import pytest
from torch.utils.cpp_extension import get_default_build_root

from caad_ds.training.processes import process_group
from caad_ds.utils.progress import Heartbeat
from tests.training.disk import remount
from tests.training.launching import LAUNCH, Run, refusal

BUILT = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())


def test_a_process_alone_is_no_rank_of_a_launch_afterwards(monkeypatch):
    """A notebook that trains and then submits a job, which inherits the environment."""
    for name in LAUNCH:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_SIZE", "1")  # of the user
    process_group.start(Heartbeat(enabled=False))
    assert os.environ["RANK"] == "0"
    process_group.stop()
    assert {name for name in LAUNCH if name in os.environ} == {"LOCAL_SIZE"}


def lack_a_compiler() -> None:
    """In a rank: the second one is the first of a node without one, and the other has not come yet."""
    if os.environ["RANK"] == "0":
        os._exit(0)
    os.environ.update(LOCAL_RANK="0", CXX="/nonexistent/g++")


def test_a_node_without_a_compiler_says_so_though_the_main_rank_is_elsewhere(made):
    run = Run(made(), 2, prepare=lack_a_compiler)
    assert run.wait(60) == [0, 2]
    assert "caad-ds: error: no C++ compiler (/nonexistent/g++) for DeepSpeed's CPU op" in run.output(1)


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
    assert f"CPU op cannot be compiled with {compiler} (x.cpp:1: error: no such thing); fix that compiler" in line
    line = refusal(made(), ranks=ranks, env={**environment, "CXX": "/bin/false"})
    assert "cannot be compiled with /bin/false (" in line


def test_a_lock_that_a_killed_build_left(made, tmp_path):
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    os.utime(lock, (time.time() - 3600,) * 2)
    line = refusal(made(), env={"TORCH_EXTENSIONS_DIR": str(tmp_path)})
    assert f"{lock}: left 60 minutes ago by a build that was killed; remove that file" in line


def test_the_op_of_another_environment_is_said_to_be_compiled_again(made, tmp_path):
    """Two environments that share the folder would otherwise compile in turns, silently."""
    shutil.copytree(BUILT, tmp_path / "extensions", ignore=shutil.ignore_patterns("*.lock", "lock"))
    [commands] = (tmp_path / "extensions").glob("**/deepspeed_shm_comm/build.ninja")
    commands.write_text(commands.read_text().replace(str(Path(deepspeed.__file__).parent), "/other/deepspeed"))
    env = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"), "CXX": "/bin/false"}
    run = Run(made(), 1, env=env)
    assert run.wait(60) == [2]
    assert f"another environment's is in {tmp_path / 'extensions'} (give each a TORCH_EXTENSIONS_DIR" in run.output()
    assert "CPU op cannot be compiled with /bin/false" in run.output()


def die_in_the_op() -> None:
    """In a rank: it is killed while it loads DeepSpeed's CPU op, which leaves torch's lock."""

    def dies() -> None:
        process_group._torch_locks()[0].touch()
        os.kill(os.getpid(), signal.SIGKILL)

    process_group.build_shm_op = dies


def test_a_rank_killed_as_it_loads_the_op_holds_up_no_other(made, tmp_path):
    shutil.copytree(BUILT, tmp_path / "extensions", ignore=shutil.ignore_patterns("*.lock", "lock"))
    env = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    assert Run(made(), 1, env=env, prepare=die_in_the_op).wait(60) == [-signal.SIGKILL]
    assert list((tmp_path / "extensions").glob("**/lock"))
    again = Run(made(), 2, env=env)
    assert again.wait(60) == [0, 0], again.output()


def test_a_folder_for_the_op_that_is_full_or_cannot_be_written(made, disk):
    full = disk(4000)
    subprocess.run(["cp", "-a", *BUILT.glob("**/deepspeed_shm_comm"), full], check=True)  # with times, or it is rebuilt
    subprocess.run(["dd", "if=/dev/zero", f"of={full}/fill", "bs=1k"], capture_output=True, check=False)
    env = {"TORCH_EXTENSIONS_DIR": str(full)}
    train_on_it = Run(made(), env=env)
    assert train_on_it.wait(60) == [0], train_on_it.output()
    remount(full, "ro")
    line = refusal(made(), env=env)
    assert f"{full} cannot be written (Read-only file system)" in line and "set TORCH_EXTENSIONS_DIR to" in line
