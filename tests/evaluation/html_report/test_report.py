"""`caad-ds report`: content of the page, and refused inputs."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from caad_ds import cli
from caad_ds.evaluation.asked_items import read_items, write_items
from caad_ds.evaluation.benchmarks.hf_datasets import Cell
from caad_ds.evaluation.benchmarks.items import Clip, Item
from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark
from caad_ds.evaluation.comparison.compare import compare
from caad_ds.evaluation.html_report.page_audio import PageAudio, playable
from caad_ds.evaluation.html_report.report import in_script, report
from caad_ds.evaluation.html_report.report_data import without_folders
from caad_ds.evaluation.tables_and_plots.comparison_plots import PALETTE
from caad_ds.evaluation.tables_and_plots.tables import percent
from caad_ds.utils.errors import AudioError, UserError
from tests.evaluation.html_report.conftest import ITEMS, NASTY, SYSTEMS, make_items, write_run, write_tokens


def held(page: Path, name: str = "data") -> dict:
    """The JSON in a page, as a browser finds it: up to the first end of the element."""
    [text] = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script', page.read_text(), re.DOTALL)
    return json.loads(text)


def verdicts(data: dict, run: int, condition: str, rule: str = "right") -> np.ndarray:
    bits = data["verdicts"][run][data["rules"].index(rule)][data["conditions"].index(condition)]
    return np.array([bit == "1" for bit in bits])


def test_the_cells_of_the_flip_matrices_are_the_figures_of_the_table(world, tmp_path):
    report(world.runs, tmp_path / "o.html")
    data, found = held(tmp_path / "o.html"), compare(world.runs)
    assert data["systems"] == list(SYSTEMS)
    for name, row in zip(SYSTEMS, data["scores"]["rows"], strict=True):
        runs = [k for k, run in enumerate(data["runs"]) if run["system"] == name]
        flips = [(verdicts(data, run, "neutral"), verdicts(data, run, "adversarial")) for run in runs]
        lost = [(neutral & ~false).sum() for neutral, false in flips]
        cells = dict(zip(data["scores"]["columns"], row["cells"], strict=True))
        group = found.systems[name]["all"]
        assert np.mean(lost) / ITEMS == pytest.approx(group["tir_all_adversarial"]["value"], abs=1e-15)
        shares = np.mean([count / neutral.sum() for count, (neutral, _) in zip(lost, flips)])
        assert cells["shift"]["text"].split(" ")[0] == percent(shares)
        assert cells["tir_all"]["text"].split(" ")[0] == percent(np.mean(lost) / ITEMS)
        assert row["runs"] == len(runs) and cells["neutral"]["interval"].count(" to ") == 1


def test_the_figures_that_compare_marks_are_marked(tmp_path):
    """A system that is right half as often as the baseline, and one that is alike."""
    items = make_items(tmp_path)
    for name, rate in (("base", 1.0), ("worse", 0.5), ("alike", 0.98)):
        right = np.broadcast_to(np.arange(ITEMS) < rate * ITEMS, (4, ITEMS))
        write_run(tmp_path / name, name, items, right)
    runs = [tmp_path / name for name in ("base", "worse", "alike")]
    report(runs, tmp_path / "o.html", audio=False)
    scores, tested = held(tmp_path / "o.html")["scores"], compare(runs).tested
    for row in scores["rows"]:
        marked = {name for name, cell in zip(scores["columns"], row["cells"], strict=True) if cell["marked"]}
        assert marked == {name for name, figure in tested.get(row["name"], {}).items() if figure["significant"]}
        assert {"neutral", "adversarial"} <= marked if row["name"] == "worse" else not marked


def test_the_plot_has_the_colours_of_the_page(world, tmp_path):
    """So that it can be read in dark mode; only the colours of the systems stay."""
    report(world.runs, tmp_path / "o.html", audio=False)
    [plot] = re.findall(r"<svg.*?</svg>", (tmp_path / "o.html").read_text(), re.DOTALL)
    assert {"currentColor", "var(--card)", "var(--line)"} <= {*re.findall(r"currentColor|var\(--\w+\)", plot)}
    found = set(re.findall(r"(?:fill|stroke): (#\w+)", plot))
    grey = "#b2b2b2"  # is read on light and dark ground
    assert found and found <= {colour.lower() for colour in PALETTE} | {grey}, found


def test_every_answer_stands_beside_its_question(world, tmp_path):
    report(world.runs, tmp_path / "o.html")
    data = held(tmp_path / "o.html")
    rows = list(dict.fromkeys(item.id for item in world.items))
    assert data["items"]["id"] == rows and data["subsets"] == ["gender", "noise"]
    for run, (folder, right) in enumerate(world.right.items()):
        assert data["runs"][run]["folder"] == folder
        for c, condition in enumerate(data["conditions"]):
            assert (verdicts(data, run, condition) == right[c]).all()
            said = [data["texts"][number] for number in data["answers"][run][c]]
            system = data["runs"][run]["system"]
            assert said == [
                f"{f'gold {k % 3}' if right[c, k] else 'other'} says {system} {NASTY}" for k in range(ITEMS)
            ]
    hints = data["items"]["hint"][data["conditions"].index("adversarial")]
    assert data["texts"][hints[3]].startswith("hint adversarial 3 ") and set(data["items"]["hint"][0]) == {-1}


def test_texts_stay_texts(world, tmp_path):
    file = world.root / "run0" / "predictions.jsonl"
    file.write_text(file.read_text().replace("other says", "half \\ud800 says"))
    report(world.runs, tmp_path / "o.html", title=NASTY)
    assert any(said.startswith("half \ud800 says") for said in held(tmp_path / "o.html")["texts"])
    text = (tmp_path / "o.html").read_text()
    assert text.count("<script") == text.count("</script") == 3 and "<img" not in text
    assert "hacked = 1</script>" not in text
    assert json.loads(in_script(NASTY)) == NASTY and not {"<", "\u2028"} & set(in_script(NASTY))
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert (
        "default-src 'none'" in policy
        and "http" not in policy
        and "'unsafe-inline'" not in policy.split("style-src")[0]
    )


def test_a_page_is_the_same_every_time(world, tmp_path):
    for name in ("a.html", "b.html"):
        report(world.runs, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_small_audio_is_in_the_page_and_much_beside_it(world, tmp_path, capsys):
    clip = world.items[-1].clips[0].path
    assert cli.main(["report", *world.runs, "--out", str(tmp_path / "o.html")]) == 0
    data, sources = held(tmp_path / "o.html"), held(tmp_path / "o.html", "sources")
    assert len(sources) == ITEMS - 1, "the first two items share a clip"
    kind, _, coded = sources[data["items"]["audio"][-1][0]].partition(";base64,")
    assert kind == "data:audio/wav" and base64.b64decode(coded) == clip.read_bytes()
    assert not (tmp_path / "o_audio").exists()
    assert cli.main(["report", *world.runs, "--out", str(tmp_path / "o.html"), "--embed-mb", "0.1"]) == 0
    [name] = data["items"]["audio"][-1]
    assert held(tmp_path / "o.html", "sources")[name] == f"o_audio/{name}"
    assert (tmp_path / "o_audio" / name).read_bytes() == clip.read_bytes()
    assert len(list((tmp_path / "o_audio").iterdir())) == ITEMS - 1
    assert f"its audio is in {tmp_path}/o_audio" in capsys.readouterr().out
    assert cli.main(["report", *world.runs, "--out", str(tmp_path / "o.html"), "--no-audio"]) == 0
    assert held(tmp_path / "o.html", "sources") == {} and not any(held(tmp_path / "o.html")["items"]["audio"])


def test_the_folder_beside_is_that_of_the_last_page(world, tmp_path, monkeypatch):
    out, folder = tmp_path / "o.html", tmp_path / "o_audio"
    report(world.runs, out, embed_mb=0)
    clips = {file.name for file in folder.iterdir()}
    (stale := folder / f"{'0' * 16}.flac").write_bytes(b"of an earlier page")
    report(world.runs, out, embed_mb=0)
    assert {file.name for file in folder.iterdir()} == clips
    stale.write_bytes(b"of an earlier page")
    monkeypatch.setattr("caad_ds.evaluation.html_report.report.page", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report(world.runs, out, embed_mb=0)
    assert {file.name for file in folder.iterdir()} == {*clips, stale.name}, "a page that fails changes nothing"
    monkeypatch.undo()
    for options in ({"audio": False}, {}):  # without audio, and with all of it in the page
        report(world.runs, out, embed_mb=0)
        report(world.runs, out, **options)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["o.html", "world"]


@pytest.mark.parametrize("audio", [True, False])
def test_a_folder_of_something_else_stays(world, tmp_path, audio):
    folder = tmp_path / "o_audio"
    report(world.runs, tmp_path / "o.html", embed_mb=0)
    before = (tmp_path / "o.html").read_bytes()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=f"{folder}: .* holds notes.txt, which no report wrote"):
        report(world.runs, tmp_path / "o.html", audio=audio)
    assert (tmp_path / "o.html").read_bytes() == before and len(list(folder.iterdir())) == ITEMS
    folder.rename(tmp_path / "else")
    folder.symlink_to(tmp_path / "else")
    with pytest.raises(UserError, match="is no folder"):
        report(world.runs, tmp_path / "o.html", audio=audio)


def test_audio_that_is_gone_is_listed_and_its_item_stays(world, tmp_path, capsys):
    gone = world.items[-1].clips[0].path
    gone.unlink()
    (broken := world.items[-5].clips[0].path).write_bytes(b"no audio")
    assert cli.main(["report", *world.runs, "--out", str(tmp_path / "o.html")]) == 0
    data = held(tmp_path / "o.html")
    assert data["items"]["audio"][-2:] == [[None], [None]] and len(data["items"]["id"]) == ITEMS
    stderr = capsys.readouterr().err
    assert f"{world.items[-1].id}: {gone}: no such file" in stderr and f"{broken}: " in stderr
    assert data["silent"][world.items[-1].id] == [f"{gone.name}: no such file"]
    assert "Without a player: 2 clips; the items say why." in data["notes"]


def test_each_clip_of_an_item_has_its_own_reason(world, tmp_path):
    """An item of three clips, of which one is there and two fail for different reasons."""
    folder, [own, other] = Path(world.runs[0]), [world.items[k].clips[0].path for k in (4, 8)]
    other.write_bytes(b"no audio")
    three = tuple(map(Clip, (tmp_path / "gone.wav", own, other)))
    items = [Item(**{**vars(item), "clips": three}) if item.id == "gender/1" else item for item in world.items]
    write_items(folder, items)
    report(world.runs, tmp_path / "o.html")
    data = held(tmp_path / "o.html")
    first, second, third = data["silent"]["gender/1"]
    assert first == "gone.wav: no such file" and second is None and third.startswith(f"{other.name}: ")
    assert [name is None for name in data["items"]["audio"][1]] == [True, False, True]


def test_no_path_of_this_machine_is_in_a_page(world, tmp_path, monkeypatch):
    """Not in what says why a clip has no player, why a row or an explanation is left out, or where a run is."""
    write_tokens(world.root / "run0" / "tokens", Item("x/0", "x", None, (), (), "q", "g"))
    (world.root / "run1" / "tokens").mkdir()
    (world.root / "run1" / "tokens" / "a.json").write_text("{")
    scores = Path(world.runs[0]) / "scores.json"
    scores.write_text(json.dumps(json.loads(scores.read_text()) | {"rejected": [{"id": "gender/99", "reason": "cut"}]}))
    read = Clip.read

    def fails(clip):
        number = int(clip.path.name.split(" ")[0])
        if number == 1:
            raise AudioError(f"cannot open '{clip.path}': of {tmp_path}/no such place/b.wav")
        if number == 2:
            raise PermissionError(13, "Permission denied", str(clip.path))
        return (clip.path.parent / "gone.wav").read_bytes() if number == 3 else read(clip)

    monkeypatch.setattr(Clip, "read", fails)
    report(world.runs, tmp_path / "o.html")
    text, data = (tmp_path / "o.html").read_text(), held(tmp_path / "o.html")
    assert str(tmp_path) not in text and str(Path.home()) not in text
    assert len(data["silent"]) == 4 and "1 row left out in run0." in data["notes"]
    assert data["silent"]["gender/2"][0].endswith("Permission denied: '2 é#?.wav'")
    assert sum(note.startswith("Not shown token by token: ") for note in data["notes"]) == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1 row left out in /a/my runs/run0.", "1 row left out in run0."),
        ("'/a/b c.wav': no such file", "'b c.wav': no such file"),
        ("(/a)", "(a)"),
        ("0.8 adversarial / neutral / x, and/or 1/2 of a/b", None),
    ],
)
def test_paths_become_names(text, shown):
    assert without_folders(text) == (shown or text)


def test_a_run_without_some_rows_is_said_to_be_partial(world, tmp_path, capsys):
    scores = Path(world.runs[0]) / "scores.json"
    scores.write_text(json.dumps(json.loads(scores.read_text()) | {"rejected": [{"id": "gender/99", "reason": "cut"}]}))
    assert cli.main(["report", *world.runs, "--out", str(tmp_path / "o.html"), "--no-audio"]) == 3
    assert f"caad-ds report: not the whole benchmark: 1 row left out in {world.runs[0]}" in capsys.readouterr().err
    assert (tmp_path / "o.html").exists()


def test_what_browsers_do_not_play_becomes_flac_of_what_models_hear(tmp_path):
    wave = np.sin(np.arange(8000) / 9) / 8
    for name, kind in (("a.aiff", "PCM_16"), ("a.wav", "DOUBLE")):
        soundfile.write(tmp_path / name, wave, 16000, subtype=kind)
        data, ending = playable(Clip(tmp_path / name))
        assert ending == "flac"
        np.testing.assert_allclose(soundfile.read(io.BytesIO(data))[0], wave, atol=1 / 32768)
    for name in ("a.flac", "a.ogg", "a.mp3"):
        soundfile.write(tmp_path / name, wave, 16000)
        assert playable(Clip(tmp_path / name)) == ((tmp_path / name).read_bytes(), name.partition(".")[2])


def test_clips_of_one_content_are_one_source(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.wav")
    sounds = PageAudio(1000, tmp_path / "beside")
    assert sounds.add(Clip(tmp_path / "a.wav")) == sounds.add(Clip(tmp_path / "b.wav"))
    assert len(sounds.sources()) == 1


def test_a_benchmark_without_conditions_has_a_page(tmp_path):
    items = make_items(tmp_path, conditions=(None,))
    rng = np.random.default_rng(0)
    for name in "ab":
        write_run(tmp_path / name, name, items, rng.random((1, ITEMS)) < 0.5, benchmark="dynamic-superb")
    report([tmp_path / "a", tmp_path / "b"], tmp_path / "o.html")
    data = held(tmp_path / "o.html")
    assert data["conditions"] == [None] and data["flips"] is None and data["items"]["hint"] == [[-1] * ITEMS]
    assert [row["name"] for row in data["scores"]["rows"]] == ["a", "b"]
    assert "<svg" not in (tmp_path / "o.html").read_text()


def test_the_flips_are_between_the_conditions_that_are_there(tmp_path):
    """In whatever order; without both of them there are none."""
    order = ("adversarial", "irrelevant", "neutral", "faithful")
    of_all = make_items(tmp_path, conditions=order)
    write_run(tmp_path / "a", "a", of_all, np.ones((4, ITEMS), dtype=bool))
    report([tmp_path / "a"], tmp_path / "o.html", audio=False)
    data = held(tmp_path / "o.html")
    assert [data["conditions"][data["flips"][key]] for key in ("before", "after")] == ["neutral", "adversarial"]


def test_token_pictures_are_found_in_a_run_or_given(world, tmp_path):
    item, other = world.items[2], world.items[9]
    write_tokens(world.root / "run0" / "tokens", item)
    write_tokens(tmp_path / "given", other)
    (tmp_path / "given" / "mlflow.json").write_text("{}")
    report(world.runs, tmp_path / "o.html", tokens=[tmp_path / "given"])
    first, second = held(tmp_path / "o.html")["tokens"]
    assert (first["id"], first["condition"], second["id"]) == (item.id, item.condition, other.id)
    assert first["model"] == "teacher" and first["positions"][0]["tokens"] == [
        {"text": f" {NASTY}", "own": True, "p": [0.25, 0.125, 0.75]}
    ]


def test_what_lies_in_a_run_about_other_items_is_left_out_and_said(world, tmp_path, capsys):
    tokens = world.root / "run0" / "tokens"
    write_tokens(tokens, world.items[2])
    for name, text in (("question", "another"), ("id", "gender/99")):
        write_tokens(tokens, Item(**{**vars(world.items[12]), name: text}))
    (tokens / "torn.json").write_text('{"id"')
    (world.root / "run1" / "tokens").mkdir()
    assert cli.main(["report", *world.runs, "--out", str(tmp_path / "o.html"), "--no-audio"]) == 0
    assert [token["id"] for token in held(tmp_path / "o.html")["tokens"]] == [world.items[2].id]
    said = [line for line in capsys.readouterr().err.splitlines() if "not shown token by token" in line]
    assert len(said) == 3
    assert f"{tokens}/gender_3.json: about gender/3, neutral, which is no item of these runs" in said[0]
    assert any("torn.json" in line for line in said)


def refused(capsys, *argv) -> str:
    assert cli.main(["report", *map(str, argv)]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("caad-ds: error: ")
    return line


def test_what_cannot_be_shown_is_refused_in_one_line(world, tmp_path, capsys):
    first, second, *_ = world.runs
    out = ("--out", tmp_path / "o.html")
    assert "no such file or folder" in refused(capsys, first, tmp_path / "none", *out)
    assert "ends in .html" in refused(capsys, first, "--out", tmp_path / "o.htm")
    assert "no run has this name" in refused(capsys, first, *out, "--baseline", "x")
    other = next(item for item in world.items if item.id == "gender/3")
    write_tokens(tmp_path / "tokens", Item(**{**vars(other), "question": "another"}))
    assert "which is no item of these runs" in refused(capsys, first, *out, "--tokens", tmp_path / "tokens")
    assert "no *.json of token pictures" in refused(capsys, first, *out, "--tokens", world.root / "audio")
    (tmp_path / "tokens" / "gender_3.json").write_text('{"id": "gender/3"}')
    assert "no explanation of an answer" in refused(capsys, first, *out, "--tokens", tmp_path / "tokens")
    file = Path(first) / "items.jsonl"
    lines = file.read_text().split("\n")[:-1]
    file.write_text("\n".join(lines[4:]))
    assert "of different items; run its" in refused(capsys, first, *out)
    file.write_text("\n".join([*lines[:3], '{"id": "x"}']))
    assert f"{file}:4: no item of a benchmark" in refused(capsys, first, *out)
    file.unlink()
    assert "which keeps its answers" in refused(capsys, first, *out)
    scores = json.loads((Path(second) / "scores.json").read_text())
    (Path(second) / "scores.json").write_text(
        json.dumps(scores | {"setup": scores["setup"] | {"benchmark_sha256": "c"}})
    )
    assert "evaluated on different contents" in refused(capsys, *world.runs, *out)
    (Path(first) / "predictions.jsonl").unlink()
    assert "predictions.jsonl has 0" in refused(capsys, first, *out)
    assert not (tmp_path / "o.html").exists()


def test_an_evaluation_leaves_what_it_asked(run, conflicts, tmp_path):
    assert run() == 0
    asked = Benchmark.load(conflicts).items
    found = read_items(tmp_path / "run")
    assert [(i.key, i.subset, i.question, i.hint, i.gt) for i in found] == [
        (i.key, i.subset, i.question, i.hint, i.gt) for i in asked
    ]
    assert [i.clips[0].path for i in found] == [i.clips[0].path.absolute() for i in asked]
    assert cli.main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "o.html")]) == 0
    assert len(held(tmp_path / "o.html", "sources")) == 7


def test_audio_in_a_table_is_found_again(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    data = (tmp_path / "a.wav").read_bytes()
    audio = [{"bytes": b"", "path": None}] * 3 + [{"bytes": data, "path": None}]
    pq.write_table(pa.table({"audio": audio}), tmp_path / "t.parquet")
    item = Item("a/0", "a", None, (Clip(tmp_path / "t.parquet", cell=Cell("audio", 3, None)),), (), "q", "g")
    write_items(tmp_path, [item])
    assert read_items(tmp_path) == [item]
    assert playable(item.clips[0]) == (data, "wav")
