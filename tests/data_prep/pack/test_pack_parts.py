"""Parts packed by the tasks of an array job, and joined."""

import pytest

from caad_ds.cli import main
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.utils.array_task import Part
from caad_ds.utils.errors import UserError
from data_prep.common.manifest import load_manifest, write_manifest
from data_prep.pack.join_shards import join
from data_prep.pack.pack import pack
from data_prep.verify.verify import verify
from tests.data.tones import contents, read

SMALL = 16_000


def packed(manifest, out, count, *, leave=()):
    for index in range(count):
        if index not in leave:
            pack(manifest, out, SMALL, part=Part(index, count))
    return out


def test_joined_parts_hold_every_record_once_in_the_parts_order(manifest, tmp_path, capsys):
    out, records = tmp_path / "out", load_manifest(manifest)
    for index in (2, 0, 1):
        arguments = ["--manifest", manifest, "--out", out, "--shard-bytes", SMALL, "--shard", f"{index}/3"]
        assert main(["prep", "pack", *map(str, arguments)]) == 0
    assert not (out / "index.json").exists()
    assert main(["prep", "join-shards", str(out)]) == 0
    assert f"{out}: {len(records)} samples" in capsys.readouterr().out
    reader = IndexedReader(out)
    wanted = [record["id"] for index in range(3) for record in records[index::3]]
    assert [reader[number].record["id"] for number in range(len(reader))] == wanted
    names = [shard.name for shard in reader.index.file.shards]
    assert names == sorted(path.name for path in out.glob("*.tar")) and len(names) > 3
    assert verify(out, manifest).faults == []
    before = contents(out)
    join(out)
    assert not pack(manifest, out, SMALL, part=Part(1, 3))[1] and contents(out) == before


def test_rejected_records_of_all_parts_are_counted_and_listed(manifest, tmp_path, capsys):
    records = load_manifest(manifest)
    for number in (1, 2, 7):
        del records[number]["response"]
    write_manifest(manifest, records[:2])  # part 1 of 2 has nothing but a rejected record
    index = join(packed(manifest, tmp_path / "few", 2))
    assert (len(index), index.file.rejected) == (1, 1)
    write_manifest(manifest, records)
    with open(manifest, "a") as file:
        file.write(manifest.read_text().splitlines()[0] + "\nno JSON\n")
    index = join(packed(manifest, tmp_path / "out", 3))
    assert (len(index), index.file.rejected) == (len(records) - 3, 5)
    listed = [row["id"] for row in read(tmp_path / "out/index.rejected.jsonl")]
    assert sorted(listed) == sorted([*(records[n]["id"] for n in (0, 1, 2, 7)), f"{manifest.name} line 15"])
    again = [
        "prep",
        "pack",
        "--manifest",
        manifest,
        "--out",
        tmp_path / "out",
        "--shard-bytes",
        SMALL,
        "--shard",
        "0/3",
    ]
    assert main(list(map(str, again))) == 0
    assert f"5 rejected, see {tmp_path / 'out/index.rejected.jsonl'}, already packed" in capsys.readouterr().out


def test_parts_that_do_not_make_a_whole_are_refused(manifest, tmp_path):
    with pytest.raises(UserError, match=r"1 of 3 parts are missing or not finished, the first is 1; run .* 1/3"):
        join(packed(manifest, tmp_path / "missing", 3, leave=[1]))
    with pytest.raises(UserError, match="no part of an array job is here"):
        join(tmp_path)
    mixed = packed(manifest, tmp_path / "mixed", 2, leave=[1])
    with pytest.raises(UserError, match=r"holds shards without index\.00000-of-00003\.json"):
        pack(manifest, mixed, SMALL, part=Part(0, 3))
    pack(manifest, mixed, SMALL, part=Part(1, 3))
    with pytest.raises(UserError, match="holds parts of 2 and of 3"):
        join(mixed)
    other = packed(manifest, tmp_path / "other", 2, leave=[1])
    write_manifest(manifest, load_manifest(manifest)[:5])
    pack(manifest, other, SMALL, part=Part(1, 2))
    with pytest.raises(UserError, match="its parts are of different manifests"):
        join(other)


def test_a_whole_and_a_part_do_not_share_a_folder(manifest, tmp_path):
    with pytest.raises(UserError, match=r"holds shards without index\.json"):
        pack(manifest, packed(manifest, tmp_path / "parts", 2, leave=[1]), SMALL)
    pack(manifest, tmp_path / "whole", SMALL)
    assert not pack(manifest, tmp_path / "whole", SMALL, part=Part(0, 2))[1]
    (tmp_path / "whole/index.json").unlink()
    with pytest.raises(UserError, match="holds shards without"):
        pack(manifest, tmp_path / "whole", SMALL, part=Part(0, 2))
