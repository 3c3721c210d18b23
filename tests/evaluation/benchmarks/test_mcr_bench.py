import json

import pytest

from caad_ds.cli import main
from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.benchmarks.benchmark_kinds import PROMPTS, load
from caad_ds.evaluation.benchmarks.mcr_bench import Benchmark
from caad_ds.evaluation.comparison.compare import compare
from caad_ds.evaluation.evaluation_identity import fingerprint
from caad_ds.utils.errors import UserError
from tests.evaluation.benchmarks.superb_files import COUNTING, row, write_jsonl

ROW = {
    "audio": "a.wav",
    "gt": "male",
    "neutral": "Who speaks?",
    "faithful": "A man.",
    "adversarial": "A woman.",
    "irrelevant": "It rains.",
    "text": "hello there",
}


def write(folder, name, rows, clips=("a.wav",)):
    (folder / name / "audio").mkdir(parents=True)
    (folder / name / f"{name}.json").write_text(json.dumps(rows))
    for clip in clips:
        (folder / name / "audio" / clip).write_bytes(b"")


def without(field):
    return {k: v for k, v in ROW.items() if k != field}


def test_every_row_stands_under_four_conditions(tmp_path):
    write(tmp_path, "SER", [ROW, without("text")])
    write(tmp_path, "VSC", [{**ROW, "gt": "cough", "audio": "audio/a.wav"}])
    benchmark = Benchmark.load(tmp_path)
    assert [row.id for row in benchmark.rows] == ["SER/0", "SER/1", "VSC/0"]
    assert benchmark.options == {"SER": ["male"], "VSC": ["cough"]}
    items = list(benchmark.rows[0].items())
    assert [item.condition for item in items] == list(CONDITIONS)
    span = "<start_audio><|AUDIO|><end_audio>\n"
    asked = ["Who speaks?", "A man. Who speaks?", "A woman. Who speaks?", "It rains. Who speaks?"]
    assert [item.messages[0]["content"] for item in items] == [span + text for text in asked]
    assert [item.hint for item in items] == [None, "A man.", "A woman.", "It rains."]
    assert {item.question for item in items} == {"Who speaks?"}
    assert {clip.text for item in items for clip in item.clips} == {"hello there"}
    assert benchmark.rows[1].clip.text == ""
    assert all(row.clip.path.is_file() for row in benchmark.rows)


def test_two_questions_about_one_clip_are_two_pairs(tmp_path):
    write(tmp_path, "AQA", [ROW, {**ROW, "neutral": "Is it loud?", "gt": "yes"}])
    first, second = Benchmark.load(tmp_path).rows
    assert first.clip == second.clip and first.id != second.id
    assert {(item.id, item.gt) for row in (first, second) for item in row.items()} == {
        ("AQA/0", "male"),
        ("AQA/1", "yes"),
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (without("gt"), "gt is missing"),
        ({**ROW, "gt": "(...)"}, "no word left"),
        ({**ROW, "audio": "b.wav"}, "audio b.wav is not in"),
        ({**ROW, "adversarial": ""}, "adversarial is missing"),
        ({**ROW, "irrelevant": 3}, "irrelevant is missing, empty or not a string"),
        ({**ROW, "text": ["a"]}, "text is not a string"),
        ({**ROW, "metadata": "s1"}, "metadata is not an object"),
        ({**ROW, "misleading": "A child."}, "unknown condition 'misleading'"),
        ({**ROW, "conditions": ["neutral", "noisy"]}, "unknown condition 'noisy'"),
        ({**ROW, "audio": "x" * 300}, f"audio {'x' * 300} is not in"),
        ({**ROW, "text": "\ud800"}, "holds half of a surrogate pair"),
        ({**ROW, "adversarial": "A <|AUDIO|>."}, "adversarial holds <|AUDIO|>"),
        ({**ROW, "neutral": "<start_audio><|AUDIO|><end_audio> Who?"}, "neutral holds <|AUDIO|>"),
        ({**ROW, "gt": None}, "gt is missing"),
        ({**ROW, "neutral": "  "}, "neutral is missing"),
        ({**ROW, "audio": ["a.wav"]}, "audio is missing, empty or not a string"),
        ({**ROW, "audio": "a\0.wav"}, "is not in"),
        (None, "is a NoneType"),
        ("a.wav", "is a str"),
    ],
)
def test_a_bad_row_is_listed_and_the_rest_goes_on(tmp_path, row, reason):
    write(tmp_path, "SER", [row, ROW])
    benchmark = Benchmark.load(tmp_path)
    assert [r.id for r in benchmark.rows] == ["SER/1"]
    [rejected] = benchmark.rejected
    assert rejected["id"] == "SER/0" and reason in rejected["reason"]


def test_a_row_with_one_key_twice_is_listed_and_the_rest_goes_on(tmp_path):
    write(tmp_path, "SER", [ROW, ROW])
    file = tmp_path / "SER" / "SER.json"
    file.write_text(file.read_text().replace('"gt"', '"gt": "another", "gt"', 1))
    benchmark = Benchmark.load(tmp_path)
    assert [row.id for row in benchmark.rows] == ["SER/1"]
    assert benchmark.rejected == [{"id": "SER/0", "reason": "key 'gt' comes twice"}]


def test_of_two_rows_with_one_id_the_second_is_listed(tmp_path):
    write(tmp_path, "SER", [{**ROW, "id": 7}, {**ROW, "id": 7}, {**ROW, "id": 8, "conditions": list(CONDITIONS)}])
    benchmark = Benchmark.load(tmp_path)
    assert [row.id for row in benchmark.rows] == ["SER/0", "SER/2"]
    assert benchmark.rejected == [{"id": "SER/1", "reason": "id 7 is that of row 0"}]


def test_a_subset_whose_file_is_broken_is_listed_and_the_others_are_read(tmp_path):
    write(tmp_path, "SER", [ROW])
    write(tmp_path, "VSC", [ROW])
    (tmp_path / "VSC" / "VSC.json").write_text("[{")
    benchmark = Benchmark.load(tmp_path)
    assert [row.id for row in benchmark.rows] == ["SER/0"]
    [rejected] = benchmark.rejected
    assert rejected["id"] == "VSC" and "VSC.json: cannot be read as JSON" in rejected["reason"]


@pytest.mark.parametrize(
    ("folder", "file"),
    [("SER", "ser.json"), ("SER", "SER (1).json"), ("SER", "SER_v2.json"), ("\u00c4ra", "A\u0308ra.json")],
)
def test_a_subset_whose_file_has_almost_its_name_is_listed(tmp_path, folder, file):
    write(tmp_path, "AQA", [ROW])
    write(tmp_path, folder, [ROW])
    (tmp_path / folder / f"{folder}.json").rename(tmp_path / folder / file)
    benchmark = Benchmark.load(tmp_path)
    assert [row.subset for row in benchmark.rows] == ["AQA"]
    [rejected] = benchmark.rejected
    assert rejected["id"] == folder and f"has {file} and no {folder}.json" in rejected["reason"]
    (tmp_path / folder / f"{folder}.json").write_text(json.dumps([ROW]))
    assert not Benchmark.load(tmp_path).rejected, "a second copy is no subset"


def test_a_column_that_every_row_has_is_no_condition(tmp_path):
    write(tmp_path, "SER", [{**ROW, "category": "speech"}, {**ROW, "category": "noise"}])
    assert not Benchmark.load(tmp_path).rejected


def test_a_benchmark_with_every_fault_is_evaluated_without_the_bad_rows(model_folder, conflicts, tmp_path, capsys):
    file = conflicts / "gender" / "gender.json"
    rows = json.loads(file.read_text())
    good = {**rows[1], "id": "x"}
    del rows[0]["gt"]
    rows += [{**rows[1], "noisy": "hello"}, good, good, {**good, "id": "y", "audio": "gone.wav"}]
    rows += [{**rows[1], "adversarial": "<|AUDIO|>"}]
    file.write_text(json.dumps(rows))
    (conflicts / "noise" / "noise.json").write_text('[{"audio": ')
    argv = ["--model", model_folder, "--benchmark", conflicts, "--out", tmp_path / "run", "--device", "cpu"]
    assert main(["evaluate", *map(str, argv)]) == 3
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    reasons = {rejected["id"]: rejected["reason"] for rejected in scores["rejected"]}
    assert list(reasons) == ["gender/0", "gender/4", "gender/6", "gender/7", "gender/8", "noise"]
    assert {name: group["items"] for name, group in scores["groups"].items()} == {"all": 4, "gender": 4}
    err = capsys.readouterr().err
    assert "6 rows were left out" in err and all(f"{name}: {reason}" in err for name, reason in reasons.items())


def test_limit_takes_rows_of_every_subset_and_keeps_all_options(tmp_path):
    for name in ("A", "B"):
        write(tmp_path, name, [ROW, {**ROW, "gt": "female"}])
    benchmark = Benchmark.load(tmp_path, limit=1)
    assert [row.id for row in benchmark.rows] == ["A/0", "B/0"]
    assert benchmark.options["B"] == ["female", "male"]


def test_unusable_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="no <NAME>/<NAME>"):
        Benchmark.load(tmp_path)
    write(tmp_path, "SER", {"rows": [ROW]})
    with pytest.raises(UserError, match="not a list"):
        Benchmark.load(tmp_path)
    (tmp_path / "SER" / "SER.json").write_text("[{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        Benchmark.load(tmp_path)
    (tmp_path / "SER" / "SER.json").write_text(json.dumps([without("gt")]))
    with pytest.raises(UserError, match="1 rejected; gt is missing"):
        Benchmark.load(tmp_path)


def test_a_wrapped_prompt_is_the_public_runners_and_another_benchmark(conflicts, run, tmp_path, capsys):
    """Without a description the prompt is the question alone, as in that runner."""
    plain, wrapped = (load(conflicts, prompt=prompt) for prompt in PROMPTS)
    prompts = {item.condition: item.messages[0]["content"] for item in wrapped.items if item.id == "gender/0"}
    span = "<start_audio><|AUDIO|><end_audio>\n"
    assert prompts["neutral"] == f"{span}who speaks ?" == plain.items[0].messages[0]["content"]
    assert prompts["adversarial"] == (
        f"{span}The following text provides descriptions derived from audio content. This information may be accurate, "
        "inaccurate, or irrelevant. Answer the question with discretion regarding how you use these details.\n"
        "Description: the speaker is female .\nQuestion: who speaks ?"
    )
    assert fingerprint(plain) != fingerprint(wrapped) and (plain.setup, wrapped.setup) == ({}, {"prompt": "wrapped"})
    assert run() == run("--prompt", "wrapped", out="wrapped") == 0
    out = capsys.readouterr().out
    assert "Prompts: plain (--prompt;" in out and "Prompts: wrapped (--prompt;" in out
    found = [json.loads((tmp_path / out / "scores.json").read_text()) for out in ("run", "wrapped")]
    assert [scores["prompt"] for scores in found] == ["plain", "wrapped"]
    assert [[note for note in compare([tmp_path / out]).notes if "Prompts" in note] for out in ("run", "wrapped")] == [
        ["Prompts: plain (--prompt)."], ["Prompts: wrapped (--prompt)."],
    ]  # fmt: skip
    earlier = {key: value for key, value in found[0].items() if key != "prompt"}  # named the plain prompt nowhere
    (tmp_path / "run" / "scores.json").write_text(json.dumps(earlier))
    assert not any("Prompts" in note for note in compare([tmp_path / "run"]).notes) and run() == 0
    assert "Prompts: plain" in capsys.readouterr().out
    setups = [json.loads((tmp_path / out / "setup.json").read_text()) for out in ("run", "wrapped")]
    assert "prompt" not in setups[0] and setups[1]["prompt"] == "wrapped"
    with pytest.raises(UserError, match=r"different prompts \(--prompt\)"):
        compare([tmp_path / "run", tmp_path / "wrapped"])


def test_what_has_prompts_of_its_own_is_not_wrapped(tmp_path):
    superb = write_jsonl(tmp_path / "superb", [row(COUNTING)])
    with pytest.raises(UserError, match="dynamic-superb has one way of asking"):
        load(superb, prompt="wrapped")
    lines = [row("", category=f"MCR@SER@{condition}") for condition in CONDITIONS]
    with pytest.raises(UserError, match="is a manifest, which has prompts of its own"):
        load(write_jsonl(tmp_path / "mcr", lines), prompt="wrapped")
    assert load(tmp_path / "mcr").asked == "the manifest's own" and load(superb).asked is None
    with pytest.raises(UserError, match="is a description, which has its own"):
        load("mmar", prompt="wrapped")
