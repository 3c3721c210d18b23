"""The CAAD authors' manifests: audios inside the turn, the answer in `target`, a line per condition of MCR-BENCH."""

import json

import pytest
import soundfile

from caad_ds.cli import main
from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.benchmarks.benchmark_kinds import load
from caad_ds.utils.errors import UserError
from tests.evaluation.benchmarks.superb_files import COUNTING, reasons, wave

ASK, LOUD = "Who speaks?", "How loud is it?"
SYSTEM = {"role": "system", "content": "Focus on the audio clips and instruction."}


def line(category, content=ASK, audios=("SER/audio/0.wav",), target="male", **fields):
    """The form of the authors' inference: audios in the user's turn, marks without a span around them."""
    held = [{"audio": path, "transcription": "hello there"} for path in audios]
    turn = {"role": "user", "content": "<|AUDIO|>\n" * len(audios) + content, "audios": held}
    return {"messages": [SYSTEM, turn], "target": target, "category": category, **fields}


def flat(category, content=ASK, audio="SER/audio/0.wav", target="male"):
    """Write the format of their training code: audios separate from the messages."""
    turns = [SYSTEM, {"role": "user", "content": f"<start_audio><|AUDIO|><end_audio>\n{content}"}]
    audios = [{"audio_filepath": audio, "transcription": "hello there"}]
    return {"audios": audios, "messages": turns, "target": target, "category": category}


def conditions(subset="SER", question=ASK, form=line, **fields):
    hints = {"neutral": "", "faithful": "A man. ", "adversarial": "A woman. ", "irrelevant": "It rains. "}
    return [form(f"MCR@{subset}@{name}", hint + question, **fields) for name, hint in hints.items()]


@pytest.fixture
def write(tmp_path):
    def to_file(lines, clips=3, name="manifest.jsonl"):
        (tmp_path / "SER" / "audio").mkdir(parents=True, exist_ok=True)
        for k in range(clips):
            soundfile.write(tmp_path / "SER" / "audio" / f"{k}.wav", wave(k), 16000)
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
        return tmp_path / name

    return to_file


@pytest.mark.parametrize("form", [line, flat])
def test_dynamic_superb_lines(write, form):
    benchmark = load(write([form(f"DS@{COUNTING}"), form(f"DS@{COUNTING}", target=2)]))
    assert benchmark.kind == "dynamic-superb" and not benchmark.rejected
    first, second = benchmark.items
    assert (first.gt, second.gt) == ("male", "2") and first.question == ASK
    assert [turn["role"] for turn in first.messages] == ["system", "user"]
    assert first.messages[1]["content"].count("<|AUDIO|>") == 1 and set(first.messages[1]) == {"role", "content"}
    assert [clip.text for clip in first.clips] == ["hello there"] and first.clips[0].path.name == "0.wav"


def test_white_space_and_types_make_no_second_instance_or_answer(write):
    lines = [line(f"DS@{COUNTING}", target=2), {**line(f"DS@{COUNTING} ", target="2"), "label": 2.0}]
    benchmark = load(write(lines))
    assert [(item.id, item.gt) for item in benchmark.items] == [(f"{COUNTING}/{k}", "2") for k in range(2)]
    assert not benchmark.rejected
    padded = [{**each, "category": each["category"] + " "} for each in conditions()]
    assert len(load(write(padded)).items) == 4


def test_an_id_that_is_the_audio_is_shared_by_its_questions(write):
    lines = [line(f"DS@{COUNTING}", question, id="SER/audio/0.wav") for question in (ASK, LOUD)]
    benchmark = load(write([*lines, line(f"DS@{COUNTING}", id=7), line(f"DS@{COUNTING}", id="7")]))
    assert [item.question for item in benchmark.items] == [ASK, LOUD, ASK]
    assert reasons(benchmark) == {f"{COUNTING}/3": "manifest.jsonl:4: id '7' is that of manifest.jsonl:3"}


def test_lines_that_contradict_themselves_are_listed(write):
    own = line(f"DS@{COUNTING}")
    bad = {
        "label 'two' is not its target 'male'": {**own, "label": "two"},
        "2 <|AUDIO|> in a turn but 1 audios": line(f"DS@{COUNTING}", f"<|AUDIO|> {ASK}"),
        "audios of the row are not those": {**own, "audios": [{"audio_filepath": "SER/audio/1.wav"}]},
        "audios of a turn is not a list": {**own, "messages": [{**own["messages"][1], "audios": {"audio": "x"}}]},
        "audios is missing or empty": {**own, "messages": [SYSTEM, {"role": "user", "content": ASK}]},
        "audio SER/audio/9.wav is not in": line(f"DS@{COUNTING}", audios=["SER/audio/9.wav"]),
        "has an offset, and evaluation reads whole files": {
            **flat(f"DS@{COUNTING}"),
            "audios": [{"audio_filepath": "SER/audio/0.wav", "offset": 0.5, "duration": 0.5}],
        },
        "label None is missing": line(f"DS@{COUNTING}", target=None),
        "category 'MCR@SER@neutral' is not DS@<instance>": line("MCR@SER@neutral"),
    }
    benchmark = load(write([own, *bad.values()]), "dynamic-superb")
    assert len(benchmark.items) == 1
    for reason, rejected in zip(bad, benchmark.rejected, strict=True):
        assert reason in rejected["reason"]


@pytest.mark.parametrize("form", [line, flat])
def test_lines_about_one_clip_are_a_row_under_four_conditions(write, form):
    one, other = conditions(form=form), conditions("VSC", LOUD, form, target=True)
    benchmark = load(write([*one[:2], *reversed(other), *one[2:]]))
    assert benchmark.kind == "mcr-bench" and not benchmark.rejected
    assert [row.id for row in benchmark.rows] == ["SER/0", "VSC/0"]
    assert benchmark.options == {"SER": ["male"], "VSC": ["true"]}
    items = benchmark.items[:4]
    assert [item.condition for item in items] == list(CONDITIONS)
    assert [item.hint for item in items] == [None, "A man.", "A woman.", "It rains."]
    assert [item.messages[0] for item in items] == [SYSTEM] * 4, "the manifest's own prompt, not one made again"
    assert [item.messages[1]["content"].splitlines()[-1] for item in items] == [
        ASK, f"A man. {ASK}", f"A woman. {ASK}", f"It rains. {ASK}",
    ]  # fmt: skip
    assert {item.question for item in items} == {ASK} and {item.gt for item in items} == {"male"}
    assert {clip.text for item in items for clip in item.clips} == {"hello there"}


def test_several_questions_about_one_clip_are_rows_of_their_own(write):
    longer = f"Look. {ASK}"
    lines = [*conditions("AQA"), *conditions("AQA", LOUD, target="very"), *conditions("AQA", longer, target="one")]
    stray = line("MCR@AQA@faithful", "It is loud.")
    benchmark = load(write([*lines[::2], *lines[1::2], stray]))
    assert {(row.question, row.gt) for row in benchmark.rows} == {(ASK, "male"), (LOUD, "very"), (longer, "one")}
    assert [row.id for row in benchmark.rows] == ["AQA/0", "AQA/1", "AQA/2"]
    [rejected] = benchmark.rejected
    assert rejected["id"] == "manifest.jsonl:13" and "asks none of the 3 questions about" in rejected["reason"]


def test_a_hint_about_another_question_than_the_only_neutral_one_is_of_no_row(write):
    other = conditions(question="How many people speak?")
    path = write([*conditions()[:1], *other[1:2], *conditions()[2:], *conditions(audios=("SER/audio/1.wav",))])
    benchmark = load(path)
    assert [row.clip.path.name for row in benchmark.rows] == ["1.wav"]
    rejected = {row["id"]: row["reason"] for row in benchmark.rejected}
    assert "asks not the question of manifest.jsonl:1 about" in rejected["manifest.jsonl:2"]
    assert "has no line for faithful" in rejected["SER/0"]


def test_rows_that_are_not_whole_are_listed(write):
    lines = conditions()
    bad = [
        conditions("A")[:3],
        conditions("B")[1:],
        [*conditions("C")[:3], line("MCR@C@irrelevant", target="female")],
        [*conditions("D"), line("MCR@D@faithful", f"A boy. {ASK}")],
        [line("MCR@E@neutral", audios=["SER/audio/0.wav"] * 2)],
        [line("MCR@F@noisy"), line("MCR@F"), line("DS@F"), lines[0]],
    ]
    bad[-1] += (heard := conditions("G"))
    heard[2]["messages"][1]["audios"][0]["transcription"] = "good bye"
    benchmark = load(write([*lines, *(row for rows in bad for row in rows)]), "mcr-bench")
    assert [row.id for row in benchmark.rows] == ["SER/0"]
    rejected = reasons(benchmark)
    assert "has no line for irrelevant" in rejected["A/0"] and "manifest.jsonl:5" in rejected["A/0"]
    assert "has no line for neutral" in rejected["B/0"] and "answers about" in rejected["C/0"]
    assert "several lines for faithful (manifest.jsonl:16, manifest.jsonl:19)" in rejected["D/0"]
    assert "asks about 2 audios" in rejected["E/0"]
    assert "unknown condition 'noisy'" in rejected["manifest.jsonl:21"]
    assert "is not MCR@<subset>@<condition>" in rejected["manifest.jsonl:22"] + rejected["manifest.jsonl:23"]
    assert "asks what manifest.jsonl:1 asks" in rejected["manifest.jsonl:24"]
    assert "transcriptions of" in rejected["G/0"] and len(rejected) == 10


def test_which_benchmark_a_manifest_is_of(write, tmp_path):
    both = write([*conditions(), line(f"DS@{COUNTING}")])
    with pytest.raises(UserError, match="could be mcr-bench or dynamic-superb; say which by --kind"):
        load(both)
    assert len(load(both, "mcr-bench").items) == 4 and len(load(both, "dynamic-superb").items) == 1
    only = write(conditions())
    (tmp_path / "SER" / "SER.json").write_text("[]")
    assert len(load(only).items) == 4
    with pytest.raises(UserError, match=r"has <NAME>/<NAME>.json and \*.jsonl; give the JSONL file"):
        load(tmp_path)
    with pytest.raises(UserError, match="nothing in it can be used"):
        load(write(conditions()[:2]))


def test_a_manifest_is_evaluated_without_what_it_lacks(write, tmp_path, model_folder, capsys):
    lines = [*conditions(question="who speaks ?"), *conditions(question="how loud ?", audios=["SER/audio/1.wav"])]
    argv = ["--model", model_folder, "--benchmark", write(lines[:-1]), "--out", tmp_path / "run", "--device", "cpu"]
    assert main(["evaluate", *map(str, argv)]) == 3
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["groups"]["SER"]["items"] == 1 and [row["id"] for row in scores["rejected"]] == ["SER/1"]
    assert "has no line for irrelevant" in capsys.readouterr().err


@pytest.mark.parametrize(("gt", "text"), [(2, "2"), (0.4, "0.4"), (False, "false"), (None, None), ([], None)])
def test_answers_of_the_published_form_are_read_as_text(tmp_path, write, gt, text):
    write([])
    row = {"audio": "0.wav", "gt": gt, **dict.fromkeys(CONDITIONS, ASK)}
    (tmp_path / "SER" / "SER.json").write_text(json.dumps([row, {**row, "gt": "x"}]))
    (tmp_path / "manifest.jsonl").unlink()
    assert [row.gt for row in load(tmp_path).rows] == [*([] if text is None else [text]), "x"]
