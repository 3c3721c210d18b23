"""An output that cannot be made ends a command in one line."""

import json

import pytest

from caad_ds import cli

PLACES = [
    "/proc/absent",
    "/proc/absent/deeper",
    "/dev/full/below",
    "/dev/null/below",
    "{0}/file/below",
    "{0}/loop/below",
]


@pytest.fixture
def commands(tmp_path, manifest, instructions, write_lines):
    listing = write_lines("own.jsonl", [{"id": "a", "audio": str(tmp_path / "clips/0.wav")}])
    answered = [{**json.loads(line), "response": "Yes."} for line in manifest.read_text().splitlines()]
    rules = tmp_path / "rules.yaml"
    rules.write_text("- {name: training, where: {gender: [male]}}\n")
    asked = {"role": "user", "content": "<start_audio><|AUDIO|><end_audio>\nWho?"}
    packable = write_lines("answered.jsonl", [{**row, "messages": [asked]} for row in answered])
    return {
        "ingest": ["jsonl", "--root", listing],
        "split": ["--manifest", manifest, "--rules", rules],
        "describe": ["--manifest", manifest, "--instructions", instructions],
        "pack": ["--manifest", packable],
    }


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["ingest", "split", "describe", "pack"])
def test_an_output_that_cannot_be_made_is_named(tmp_path, commands, capsys, name, place):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    out = place.format(tmp_path) + ("/out.jsonl" if name in ("ingest", "describe") else "")
    assert cli.main(["prep", name, *map(str, commands[name]), "--out", out]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("caad-ds: error: ") and "cannot be written (" in line and line.endswith(": write elsewhere")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_of_the_system_takes_no_file(commands, capsys):
    assert cli.main(["prep", "ingest", *map(str, commands["ingest"]), "--out", "/proc/absent.jsonl"]) == 2
    assert "/proc cannot be written (No such file or directory): write elsewhere" in capsys.readouterr().err
