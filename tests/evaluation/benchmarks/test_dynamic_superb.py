import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from caad_ds.cli import main
from caad_ds.evaluation.benchmarks.benchmark_kinds import load
from caad_ds.evaluation.benchmarks.dynamic_superb.dimensions import dimensions
from caad_ds.evaluation.benchmarks.dynamic_superb.dynamic_superb import DynamicSuperb
from caad_ds.evaluation.commands import evaluate
from caad_ds.evaluation.comparison.dynamic_superb import differences
from caad_ds.evaluation.evaluation_identity import fingerprint
from caad_ds.evaluation.result_kinds.dynamic_superb import score_instances
from caad_ds.evaluation.scoring.matching import VERSION
from caad_ds.utils.errors import UserError
from tests.command import run_command
from tests.evaluation.benchmarks.superb_files import (
    COUNTING,
    MATCHING,
    SOUND,
    SPAN,
    row,
    table,
    wav_bytes,
    wave,
    write_jsonl,
    write_parquet,
    write_saved,
)
from tests.tolerance import LEAST_BIT


def test_the_table_of_instances():
    counts = {name: list(dimensions().values()).count(name) for name in ("CON", "SEM", "PAR", "DEG", "SPK", "AUDIO")}
    assert counts == {"CON": 11, "SEM": 7, "PAR": 7, "DEG": 19, "SPK": 7, "AUDIO": 7}


def test_jsonl_rows(tmp_path):
    plain = {**row(COUNTING, label="two"), "audios": ["1.wav"], "messages": [{"role": "user", "content": "who ?"}]}
    answered = row(COUNTING)
    answered["messages"] = [*answered["messages"], {"role": "assistant", "content": "male"}]
    folder = write_jsonl(tmp_path / "ds", [row(MATCHING, clips=("0.wav", "1.wav")), answered, "", plain])
    benchmark = load(folder)
    assert isinstance(benchmark, DynamicSuperb) and benchmark.rejected == []
    assert benchmark.options == {COUNTING: ["male", "two"], MATCHING: ["male"]}
    first, second, pair = benchmark.items
    assert [item.id for item in benchmark.items] == [f"{COUNTING}/0", f"{COUNTING}/1", f"{MATCHING}/0"]
    assert {item.condition for item in benchmark.items} == {None}
    assert [turn["role"] for turn in first.messages] == ["system", "user"] and first.question == "who speaks ?"
    assert second.messages[0]["content"] == SPAN + "who ?" and second.clips[0].text == ""
    assert [clip.path.name for clip in pair.clips] == ["0.wav", "1.wav"] and pair.clips[0].text == "it rains"
    assert load(folder / "test.jsonl").items == benchmark.items


def test_bad_jsonl_rows_are_listed_and_the_rest_is_read(tmp_path):
    bad = {
        "not JSON": '{"audios": [',
        "is a list": "[]",
        "category 'SpeakerCounting'": {**row(COUNTING), "category": "SpeakerCounting"},
        "label None is missing": {key: value for key, value in row(COUNTING).items() if key != "label"},
        "audio 9.wav is not in": row(COUNTING, clips=("9.wav",)),
        "audios is missing": {**row(COUNTING), "audios": []},
        "1 <|AUDIO|> in its messages but 2 audios": {**row(COUNTING), "audios": ["0.wav", "1.wav"]},
        "messages holds no turn of the user": {**row(COUNTING), "messages": [{"role": "system", "content": "x"}]},
        "id 'a' is that of test.jsonl:1": row(COUNTING, id="a"),
        f"audio {'x' * 300} is not in": row(COUNTING, clips=("x" * 300,)),
        "holds half of a surrogate pair": row(COUNTING, label="male \ud800"),
        "not JSON (maximum recursion": "[" * 100_000,
    }
    benchmark = load(write_jsonl(tmp_path / "ds", [row(COUNTING, id="a"), *bad.values(), row(COUNTING, id="b")]))
    assert [item.id for item in benchmark.items] == [f"{COUNTING}/0", f"{COUNTING}/8"]
    assert len(benchmark.rejected) == len(bad)
    for place, (reason, rejected) in enumerate(zip(bad, benchmark.rejected, strict=True), 2):
        assert rejected["reason"].startswith(f"test.jsonl:{place}: {reason}")


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_tables_of_the_hugging_face_form(tmp_path, form):
    second = [{"bytes": wav_bytes(10 + k), "path": None} for k in range(5)]
    if form == "parquet":
        write_parquet(tmp_path, MATCHING, table(5, audio2=second, file=["x"] * 5), row_group_size=2)
        write_parquet(tmp_path, COUNTING, table(2))
    else:
        write_saved(tmp_path, MATCHING, table(5, audio2=second, file=["x"] * 5))
        write_saved(tmp_path, COUNTING, table(2))
    benchmark = load(tmp_path)
    assert [item.id for item in benchmark.items] == [f"{COUNTING}/0", f"{COUNTING}/1"] + [
        f"{MATCHING}/{k}" for k in range(5)
    ]
    assert benchmark.options == {COUNTING: ["female", "male"], MATCHING: ["female", "male"]}
    item = benchmark.items[5]
    assert item.messages[0]["content"] == SPAN * 2 + "who speaks ?" and item.gt == "male"
    for clip, k in zip(item.clips, (3, 13), strict=True):
        assert np.abs(clip.load() - wave(k)).max() <= LEAST_BIT
    assert load(tmp_path / COUNTING).items == benchmark.items[:2]
    assert fingerprint(benchmark) != fingerprint(load(tmp_path, limit=1))


def test_a_list_of_audios_and_one_that_is_a_path(tmp_path):
    soundfile.write(tmp_path / "beside.wav", wave(5), 16000)
    audios = [[{"bytes": wav_bytes(0), "path": None}, {"bytes": None, "path": "../../beside.wav"}], []]
    rows = pa.table({"audios": audios, "instruction": ["who ?"] * 2, "label": ["male"] * 2})
    write_parquet(tmp_path, MATCHING, rows)
    [item] = (benchmark := load(tmp_path)).items
    assert [np.abs(clip.load() - wave(k)).max() <= LEAST_BIT for clip, k in zip(item.clips, (0, 5), strict=True)] == [
        True
    ] * 2
    assert [rejected["id"] for rejected in benchmark.rejected] == [f"{MATCHING}/1"]


def test_broken_tables_are_listed_and_the_others_are_read(tmp_path):
    write_parquet(tmp_path, COUNTING, table(2, extra=[1, 2]))
    write_parquet(tmp_path, MATCHING, table(2).drop_columns(["label"]))
    write_parquet(tmp_path, SOUND, table(2))
    (tmp_path / SOUND / "data" / "test-00000-of-00001.parquet").write_bytes(b"PAR1")
    benchmark = load(tmp_path)
    assert {item.subset for item in benchmark.items} == {COUNTING}
    reasons = {rejected["id"]: rejected["reason"] for rejected in benchmark.rejected}
    assert "has no column label" in reasons[MATCHING] and "cannot be read" in reasons[SOUND]


def copy_split(instance, name):
    shutil.copy(instance / "data" / "test-00000-of-00001.parquet", instance / "data" / f"{name}-00000-of-00001.parquet")


def test_of_several_splits_test_is_taken_and_without_it_none(tmp_path):
    for instance in (COUNTING, MATCHING, SOUND):
        write_parquet(tmp_path, instance, table(2))
    copy_split(tmp_path / COUNTING, "train")
    for name in ("train", "validation"):
        copy_split(tmp_path / MATCHING, name)
    (tmp_path / MATCHING / "data" / "test-00000-of-00001.parquet").unlink()
    file = tmp_path / SOUND / "data" / "test-00000-of-00001.parquet"
    file.rename(file.with_name("train-00000-of-00001.parquet"))
    benchmark = load(tmp_path)
    assert [item.id for item in benchmark.items] == [f"{name}/{k}" for name in (SOUND, COUNTING) for k in (0, 1)]
    assert {clip.path.name[:5] for item in benchmark.items for clip in item.clips} == {"test-", "train"}
    assert all(clip.path.name[:5] == "test-" for item in benchmark.items[2:] for clip in item.clips)
    [rejected] = benchmark.rejected
    assert rejected["id"] == MATCHING and "several splits (train, validation), none of them test" in rejected["reason"]


def test_splits_that_save_to_disk_wrote(tmp_path):
    for split in ("first", "test"):
        write_saved(tmp_path / COUNTING, split, table(3))
    (tmp_path / COUNTING / "dataset_dict.json").write_text('{"splits": ["first", "test"]}')
    assert {clip.path.parent.name for item in load(tmp_path).items for clip in item.clips} == {"test"}


@pytest.mark.parametrize("state", ['{"_data_files": [{"x": 1}]}', "[]", "{}", '{"_data_files": 3}', "{"])
def test_a_broken_state_ends_its_instance_alone(tmp_path, state):
    write_saved(tmp_path, MATCHING, table(3))
    write_parquet(tmp_path, COUNTING, table(2))
    (tmp_path / MATCHING / "state.json").write_text(state)
    benchmark = load(tmp_path)
    assert {item.subset for item in benchmark.items} == {COUNTING}
    assert [rejected["id"] for rejected in benchmark.rejected] == [MATCHING]


def test_the_fingerprint_has_the_bytes_of_cells_in_it(tmp_path):
    for folder, k in (("a", 0), ("b", 1)):
        audio = [{"bytes": wav_bytes(k), "path": "0.wav"}]
        write_parquet(tmp_path / folder, COUNTING, pa.table({"audio": audio, "instruction": ["?"], "label": ["x"]}))
    assert fingerprint(load(tmp_path / "a")) != fingerprint(load(tmp_path / "b"))


def test_jsonl_beside_tables_is_ambiguous(tmp_path):
    write_parquet(tmp_path, COUNTING, table(2))
    write_jsonl(tmp_path, [row(COUNTING)])
    with pytest.raises(UserError, match=r"has \*.jsonl and folders of instances; give the JSONL file"):
        load(tmp_path)
    assert len(load(tmp_path / "test.jsonl").items) == 1


def test_kinds_are_distinguished(tmp_path, conflicts):
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no benchmark in it"):
        load(tmp_path / "empty")
    assert load(conflicts).kind == "mcr-bench"
    write_jsonl(conflicts, [row(COUNTING)])
    with pytest.raises(UserError, match="could be mcr-bench or dynamic-superb; say which by --kind"):
        load(conflicts)
    assert load(conflicts, "dynamic-superb").kind == "dynamic-superb"
    with pytest.raises(UserError, match=r"no row of Dynamic-SUPERB .*category None"):
        load(write_jsonl(tmp_path / "bad", ["{}"]))


def predictions(shares, items=10):
    """For each instance so many right answers; one fewer of them is strictly right."""
    return [
        {"id": f"{name}/{k}", "subset": name, "right": k < right, "strict": k < right - 1, "lenient": k < right - 1}
        for name, right in shares.items()
        for k in range(items)
    ]


def test_scores_by_hand():
    every = {name: 4 if dimension == "AUDIO" else 5 for name, dimension in dimensions().items()}
    every[COUNTING] = 10
    scores = score_instances([predictions(every)])
    assert scores["overall"]["name"] == "ALL"
    assert scores["overall"]["value"] == pytest.approx((50 * 0.5 + 1.0) / 51)
    assert scores["overall"]["strict"]["value"] == pytest.approx((50 * 0.4 + 0.9) / 51)
    assert {name: d["value"] for name, d in scores["dimensions"].items()} == pytest.approx(
        {"CON": 0.5, "SEM": 0.5, "PAR": 0.5, "DEG": 0.5, "SPK": (6 * 0.5 + 1) / 7, "AUDIO": 0.4}
    )
    certain = scores["instances"][COUNTING]
    assert certain["low"] == pytest.approx(10 / (10 + 1.959963984540054**2))
    assert certain["high"] == pytest.approx(1.0)
    assert certain["dimension"] == "SPK" and certain["items"] == 10
    even = scores["instances"]["SarcasmDetection_Mustard"]
    assert 0.15 < even["low"] < 0.3 and 0.7 < even["high"] < 0.85
    spread = scores["overall"]["high"] - scores["overall"]["low"]
    # Of 50 independent instances: sd sqrt(.025 * 50) / 51; two quantiles of the draws scatter by a few percent.
    assert spread == pytest.approx(2 * 1.96 * (0.025 * 50) ** 0.5 / 51, rel=0.15)
    assert scores["missing"] == scores["unknown"] == []


def test_a_partial_mean_is_never_called_all():
    scores = score_instances([predictions({COUNTING: 10, MATCHING: 4, SOUND: 0, "New_Instance": 3})])
    assert scores["overall"]["name"] == "mean of 2 of 51"
    assert scores["overall"]["value"] == pytest.approx(0.7)
    assert {name: d["value"] for name, d in scores["dimensions"].items()} == {
        "SPK (2 of 7)": pytest.approx(0.7), "AUDIO (1 of 7)": 0.0,
    }  # fmt: skip
    assert len(scores["missing"]) == 55 and scores["unknown"] == ["New_Instance"]
    only_sound = score_instances([predictions({SOUND: 5})])["overall"]
    assert only_sound == {"name": "mean of 0 of 51"}


def test_several_runs_share_their_draws():
    one, other = predictions({COUNTING: 7}), predictions({COUNTING: 5})
    both = score_instances([one, other])["instances"][COUNTING]
    assert both["value"] == pytest.approx(0.6) and both["deviation"] == pytest.approx(0.02**0.5)
    assert (
        score_instances([one, one])["instances"][COUNTING]["low"]
        == score_instances([one])["instances"][COUNTING]["low"]
    )


def test_differences_are_paired_over_items():
    better, worse = predictions({COUNTING: 60, MATCHING: 50}, 100), predictions({COUNTING: 52, MATCHING: 50}, 100)
    found = differences({"worse": [worse], "better": [better]}, "worse")["better"]
    assert set(found) == {"SPK (2 of 7)", "mean of 2 of 51"}
    gain = found["mean of 2 of 51"]
    assert gain["value"] == pytest.approx(0.04) and gain["significant"]
    # 8 of 100 items differ in one of two instances: sd sqrt(.08 * .92 / 100) / 2; unpaired it would be 0.05.
    assert gain["high"] - gain["low"] == pytest.approx(2 * 1.96 * 0.0136, rel=0.15)
    same = differences({"a": [better, worse], "b": [worse, better]}, "a")["b"]["mean of 2 of 51"]
    assert same["value"] == 0 and same["p"] == 1 and not same["significant"]


def test_p_values_are_of_unweighted_means_and_corrected():
    """Seven items of a small instance outweigh three of a large one, each of which weighs a twentieth of one there."""

    def system(small, large):
        return [predictions({COUNTING: small}, 10) + predictions({MATCHING: large}, 200)]

    systems = {"base": system(2, 100), "up": system(9, 97), "same": system(2, 100)}
    found = differences(systems, "base")
    up, same = (found[name]["mean of 2 of 51"] for name in ("up", "same"))
    assert up["value"] == pytest.approx((0.7 - 3 / 200) / 2) and up["test"] == "exchange"
    assert up["p"] == pytest.approx(2 / 2**7) and up["p_holm"] == pytest.approx(2 * up["p"]) and up["significant"]
    assert same["p"] == same["p_holm"] == 1 and not same["significant"]
    assert "p_holm" in found["up"]["SPK (2 of 7)"]


@pytest.mark.parametrize("items", [1, 3, 5])
@pytest.mark.parametrize("instances", [1, 2])
def test_few_items_of_instances_are_never_marked(items, instances):
    """One system is right about all of them and the other about none: of five items 2 / 2**5 is above 0.05."""
    names = [COUNTING, MATCHING][:instances]
    wrong, right = ([predictions(dict.fromkeys(names, items * k), items)] for k in (0, 1))
    found = differences({"a": wrong, "b": right}, "a")["b"]
    expected = 2 / 2 ** (items * instances) < 0.05
    assert {name: tested["significant"] for name, tested in found.items()} == dict.fromkeys(found, expected)
    assert all(tested["too_few"] != expected for tested in found.values())


def test_a_comparison_tests_dimensions_and_draws_them(tmp_path, capsys):
    speed = {
        "parameters": {"total": 2e6}, "memory_mib": {"weights": 8.0, "working": 1.0}, "device": "CPU", "threads": 1,
        "dtype": "float32", "runs": [{"batch_size": 4, "tokens_per_second": {"median": 9, "low": 8, "high": 10}}],
    }  # fmt: skip
    for name, right in (("base", 20), ("up", 70), ("same", 20)):
        (tmp_path / name).mkdir()
        lines = [{**p, "condition": None, "gt": "x", "prediction": "y"} for p in predictions({COUNTING: right}, 100)]
        (tmp_path / name / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        setup = {"name": name, "benchmark": "dynamic-superb", "benchmark_sha256": "b", "model_sha256": name}
        scored = {"instances": {COUNTING: {"items": 100}}, "rejected": [], "matching": VERSION}
        text = json.dumps({"name": name, "setup": setup, "speed": speed, **scored})
        (tmp_path / name / "scores.json").write_text(text)
    runs = [str(tmp_path / name) for name in ("base", "up", "same")]
    assert main(["compare", *runs, "--out", str(tmp_path / "table")]) == 0
    out = capsys.readouterr().out
    assert "Marked *: differs from base, p < 0.05 after Holm's correction over the 2 systems" in out
    assert "Size" in out and "tokens/s" not in out and "table.png" in out and "flips.png" not in out
    text = (tmp_path / "table" / "table.md").read_text()
    assert "| up | 1 | 70.0* | 70.0* |" in text and "| same | 1 | 20.0 | 20.0 |" in text
    assert "| up | mean of 1 of 51 | +50.0* | [" in text and "| - | < 0.001 | < 0.001 |" in text
    saved = json.loads((tmp_path / "table" / "table.json").read_text())
    assert saved["differences"]["up"]["mean of 1 of 51"]["p"] == pytest.approx(2 / 2**50)
    assert saved["speed"]["base"] == speed
    assert (tmp_path / "table" / "table.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def spoken(tmp_path):
    second = [{"bytes": wav_bytes(10 + k), "path": None} for k in range(6)]
    write_parquet(tmp_path / "ds", MATCHING, table(6, audio2=second))
    write_parquet(tmp_path / "ds", COUNTING, table(4))
    return tmp_path / "ds"


def test_evaluated_whatever_the_batch_size(spoken, tmp_path, model_folder, capsys):
    answers = []
    for size in (1, 3, 8):
        argv = ["--model", model_folder, "--benchmark", spoken, "--out", tmp_path / f"{size}", "--device", "cpu"]
        assert main(["evaluate", *map(str, argv), "--batch-size", str(size)]) == 0
        answers.append((tmp_path / f"{size}" / "predictions.jsonl").read_text())
    assert answers[0] == answers[1] == answers[2] and answers[0].count("\n") == 10
    assert len({json.loads(line)["prediction"] for line in answers[0].splitlines()}) > 2
    scores = json.loads((tmp_path / "8" / "scores.json").read_text())
    assert scores["setup"]["benchmark"] == "dynamic-superb" and scores["overall"]["name"] == "mean of 2 of 51"
    assert scores["instances"][MATCHING]["items"] == 6
    file = tmp_path / "3" / "scores.json"
    file.write_text(file.read_text().replace(scores["setup"]["model_sha256"], "another"))
    assert main(["compare", str(tmp_path / "3"), str(tmp_path / "8"), "--out", str(tmp_path / "table")]) == 0
    saved = json.loads((tmp_path / "table" / "table.json").read_text())
    [system] = saved["systems"].values()
    assert system["runs"] == 2 and system["overall"]["deviation"] == 0
    assert "| system | runs | SPK (2 of 7) | mean of 2 of 51 |" in (tmp_path / "table" / "table.md").read_text()
    out = capsys.readouterr().out
    assert "SPK (2 of 7)" in out and "56 of 58 instances are missing" in out and "ALL" not in out


def test_under_contrast_and_with_clips_that_cannot_be_heard(spoken, tmp_path, model_folder):
    second = [{"bytes": wav_bytes(k), "path": None} for k in range(3)] + [{"bytes": b"no audio", "path": None}, None]
    write_parquet(
        spoken, "DialogueActPairing_DailyTalk", table(5, audio2=pa.array(second, table(1).schema.field("audio").type))
    )
    argv = ["--model", model_folder, "--benchmark", spoken, "--out", tmp_path / "run", "--contrast-alpha", 1]
    assert run_command(evaluate, *argv, "--device", "cpu", "--batch-size", 4) == 3
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    pairing = "DialogueActPairing_DailyTalk-multiaudio"
    assert [rejected["id"] for rejected in scores["rejected"]] == [f"{pairing}/{k}" for k in (3, 4)]
    assert scores["rejected"][0]["reason"].endswith("row 3 audio2: Format not recognised"), "no address in memory"
    assert scores["instances"][pairing]["items"] == 3
