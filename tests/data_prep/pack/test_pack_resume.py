"""Packing that is killed at any moment resumes, and gives the same bytes as an uninterrupted run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caad_ds.cli import main
from caad_ds.utils.errors import UserError
from data_prep.common.manifest import load_manifest, write_manifest
from data_prep.pack.pack import pack
from tests.data.tones import contents, record, tone

SMALL = 16_000


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> Path:
    """A manifest of 240 clips that takes some shards and a while, with a rejected record here and there."""
    folder = tmp_path_factory.mktemp("long")
    for number in range(8):
        tone(folder / f"{number}.wav", 200 + 30 * number, 2.0, 44_100)
    (folder / "broken.wav").write_bytes(b"no audio")
    paths = [folder / ("broken.wav" if number % 17 == 3 else f"{number % 8}.wav") for number in range(240)]
    write_manifest(folder / "m.jsonl", [record(f"r{number}", path) for number, path in enumerate(paths)])
    return folder / "m.jsonl"


def kill_and_go_on(manifest: Path, folder: Path, kills: int, workers: int) -> None:
    """Pack in processes that are killed after a random while, `kills` times; then once to the end."""
    draw = random.Random(kills)
    command = [sys.executable, "-m", "caad_ds.cli", "prep", "pack", "--manifest", manifest, "--out", folder]
    command = [str(part) for part in [*command, "--shard-bytes", 400_000, "--workers", workers]]
    seen = set()
    for kill in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if kill % 2 == 0:  # in the midst, after some of the work, not only in the start
            wanted = len(list(folder.glob("train-*.tar"))) + 1
            while process.poll() is None and len(list(folder.glob("train-*.tar"))) < wanted:
                time.sleep(0.0005)
            time.sleep(draw.uniform(0, 0.003))
        else:
            time.sleep(draw.uniform(0.1, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.add(len(list(folder.glob("train-*.tar"))))
    assert len(seen) > 1, "no kill came in the midst of the work"
    assert subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def without_locks(folder: Path) -> dict[str, bytes]:
    """The files of a folder but for locks, of which a kill after the last rename leaves one that nobody holds."""
    return {name: data for name, data in contents(folder).items() if not name.endswith(".lock")}


def test_kills_change_no_byte(long, tmp_path):
    pack(long, tmp_path / "whole", 400_000)
    kill_and_go_on(long, tmp_path / "killed", 5, workers=1)
    assert without_locks(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_twenty_kills_change_no_byte(long, tmp_path, workers):
    pack(long, tmp_path / "whole", 400_000)
    kill_and_go_on(long, tmp_path / "killed", 20, workers)
    assert without_locks(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_killed_run_leaves_no_process_behind(long, tmp_path):
    command = [sys.executable, "-m", "caad_ds.cli", "prep", "pack", "--manifest", str(long), "--workers", "2"]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "out")], stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(workers := children.read_text().split()) < 3:  # two workers and multiprocessing's resource tracker
        time.sleep(0.01)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{worker}") and not zombie(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def zombie(pid: str) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def interrupted(manifest: Path, folder: Path, monkeypatch, after: int) -> None:
    """Pack until `after` shards are there, and leave the files as after a kill."""
    from data_prep.pack import pack as module

    class Killed(BaseException):
        pass

    appended = 0

    def append(self, value):
        nonlocal appended
        original(self, value)
        appended += "shard" in value
        if appended == after:
            raise Killed

    original = module.Journal.append
    with monkeypatch.context() as patch:
        patch.setattr(module.Journal, "append", append)
        with pytest.raises(Killed):
            pack(manifest, folder, SMALL)


def test_finished_shards_are_not_encoded_again(manifest, tmp_path, monkeypatch):
    pack(manifest, tmp_path / "whole", SMALL)
    out = tmp_path / "out"
    interrupted(manifest, out, monkeypatch, 2)
    before = {path.name: path.stat().st_ino for path in out.glob("train-*.tar")}
    for entry in load_manifest(manifest)[2]["audios"]:
        Path(entry["path"]).unlink()  # it is in a finished shard: nobody asks for it any more
    pack(manifest, out, SMALL)
    assert len(before) == 2 and all((out / name).stat().st_ino == inode for name, inode in before.items())
    assert contents(out) == contents(tmp_path / "whole")


def test_a_shard_that_was_lost_is_made_again(manifest, tmp_path, monkeypatch):
    pack(manifest, tmp_path / "whole", SMALL)
    for damage in (Path.unlink, lambda path: os.truncate(path, 100)):
        out = tmp_path / damage.__name__
        interrupted(manifest, out, monkeypatch, 3)
        damage(out / "train-000001.tar")
        pack(manifest, out, SMALL)
        assert contents(out) == contents(tmp_path / "whole")


def test_other_settings_do_not_go_on_from_a_killed_run(manifest, tmp_path, monkeypatch, capsys):
    interrupted(manifest, tmp_path / "out", monkeypatch, 1)
    with pytest.raises(UserError, match=r"index\.partial\.jsonl: it was made with another shard_bytes"):
        pack(manifest, tmp_path / "out", SMALL + 1)
    write_manifest(manifest, load_manifest(manifest)[:5])
    assert main(["prep", "pack", "--manifest", str(manifest), "--out", str(tmp_path / "out")]) == 2
    assert "made with another manifest, shard_bytes" in capsys.readouterr().err


def test_a_run_that_was_killed_at_its_very_end_is_tidied_up(manifest, tmp_path):
    out = tmp_path / "out"
    pack(manifest, out, SMALL)
    before = contents(out)
    for name in ("index.partial.jsonl", ".train-000009.tar.1.partial", ".index.json.1.partial"):
        (out / name).write_text(json.dumps({}))
    assert not pack(manifest, out, SMALL)[1]
    assert contents(out) == before
