"""The conflict benchmark of a labelled manifest: its layout, its clips, and the records that it cannot use."""

import json
from pathlib import Path

import pytest

from caad_ds.utils.errors import UserError
from data_prep import conflict_benchmark
from tests.data_prep.instruction_files import DEMO, FILES
from tests.data_prep.lines import read


def test_conflict_benchmark_has_mcr_benchs_layout(tmp_path, manifest, instructions, prep):
    out = tmp_path / "benchmark"
    for _ in range(2):
        prep(conflict_benchmark, "--manifest", manifest, "--instructions", instructions, "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["accent", "gender", "noise", "speaking_rate"]
    rows = json.loads((out / "gender" / "gender.json").read_text())
    assert len(rows) == len(list((out / "gender" / "audio").iterdir())) == 8
    for row in rows:  # in no order, so that any first few stand for all
        number = int(Path(row["audio"]).stem.removeprefix("clip"))
        right, wrong = ("female", "male") if number % 2 else ("male", "female")
        assert row["gt"] == right and row["text"] == "the dog finds bread"
        assert row["faithful"] == f"The speaker is {right}." and row["adversarial"] == f"The speaker is {wrong}."
        assert row["irrelevant"] in DEMO.irrelevant and row["neutral"] in DEMO.attributes["gender"].questions
        assert (out / "gender" / row["audio"]).read_bytes() == (tmp_path / "clips" / f"{number}.wav").read_bytes()


@pytest.mark.parametrize("attributes", [["gender"], ["gender", "accent", "noise"]])
def test_what_a_conflict_benchmark_cannot_use_is_listed_once_and_the_others_are_asked(
    tmp_path, manifest, prep, capsys, attributes
):
    rows = read(manifest)
    (tmp_path / "clips" / "3.wav").unlink()
    rows[4]["metadata"]["gender"] = "unknown"
    rows[5]["audios"] *= 2
    rows[6]["audios"][0] |= {"path": "clips/3.wav", "offset": 0.0}
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"id": "cut\n')
    out = tmp_path / "benchmark.v1"
    arguments = ("--manifest", manifest, "--instructions", FILES[0], "--attributes", *attributes, "--out", out)
    assert prep(conflict_benchmark, *arguments) == 0
    counts = ", ".join(f"{attribute} 4" for attribute in attributes)
    assert f"{counts}; 5 rejected, see {tmp_path / 'benchmark.v1.rejected.jsonl'}" in capsys.readouterr().out
    assert len(json.loads((out / "gender" / "gender.json").read_text())) == 4
    reasons = {row["id"]: row["reason"] for row in read(tmp_path / "benchmark.v1.rejected.jsonl")}
    assert "clips/3.wav does not exist" in reasons["clip3"] and "no such file" in reasons["clip6"]
    assert "gender is 'unknown'" in reasons["clip4"] and "it has 2 audios" in reasons["clip5"]
    assert "it is not JSON" in reasons["manifest.jsonl line 9"]


@pytest.mark.parametrize(
    "ids",
    [
        ["a/b", "a_b", "A_B", "..", "a%2Fb", "a\\b", "a:b", "a b"],
        ["x" * 300, "x" * 299 + "y", *"abcdef"],
    ],
    ids=["collide", "long"],
)
def test_ids_that_differ_have_clips_that_differ(tmp_path, manifest, prep, ids):
    rows = [{**row, "id": name} for row, name in zip(read(manifest), ids, strict=True)]
    for number, row in enumerate(rows):
        (tmp_path / "clips" / f"{number}.wav").write_bytes(b"RIFF%d" % number)
        row["metadata"]["gender"] = "female" if number % 2 else "male"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "benchmark"
    prep(conflict_benchmark, "--manifest", manifest, "--instructions", FILES[0], "--out", out)
    asked = json.loads((out / "gender" / "gender.json").read_text())
    assert len({row["audio"].lower() for row in asked}) == 8 == len(list((out / "gender" / "audio").iterdir()))
    for row in asked:
        number = int((out / "gender" / row["audio"]).read_bytes().removeprefix(b"RIFF"))
        assert row["gt"] == ("female" if number % 2 else "male")


def test_an_attribute_that_cannot_be_a_folder_is_refused(tmp_path, manifest, prep):
    text = "attributes: {../gender: {name: G, questions: [Who], options: {male: A man., female: A woman.}}}"
    (tmp_path / "i.yaml").write_text(text)
    with pytest.raises(UserError, match=r"the attribute '\.\./gender' is to be a folder's name; rename it"):
        prep(conflict_benchmark, "--manifest", manifest, "--instructions", tmp_path / "i.yaml", "--out", tmp_path / "b")


def test_a_task_of_another_call_is_refused_and_one_without_records_goes(tmp_path, manifest, instructions, prep):
    out = tmp_path / "benchmark"
    arguments = ("--manifest", manifest, "--instructions", instructions, "--out", out)
    prep(conflict_benchmark, *arguments, "--attributes", "gender", "accent")
    with pytest.raises(UserError, match="benchmark: it holds gender from before, which is not asked about now; remove"):
        prep(conflict_benchmark, *arguments, "--attributes", "accent")
    rows = read(manifest)
    for row in rows:
        del row["metadata"]["accent"]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prep(conflict_benchmark, *arguments, "--attributes", "gender", "accent")
    assert (out / "gender/gender.json").exists() and not (out / "accent/accent.json").exists()
