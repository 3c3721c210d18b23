"""The forms in which Dynamic-SUPERB is really distributed: columns, labels and folders."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from caad_ds.cli import main
from caad_ds.evaluation.benchmarks.benchmark_kinds import load
from caad_ds.evaluation.benchmarks.dynamic_superb.terms import turn_with_term
from caad_ds.evaluation.benchmarks.items import Fault
from caad_ds.utils.errors import UserError
from tests.evaluation.benchmarks.superb_files import (
    COUNTING,
    PLAIN,
    SPAN,
    SPOKEN,
    reasons,
    row,
    second,
    table,
    wave,
    write_jsonl,
    write_parquet,
)
from tests.evaluation.benchmarks.superb_files import MATCHING as PAIR
from tests.evaluation.benchmarks.superb_files import write_saved as write_datasets
from tests.tolerance import LEAST_BIT

TERMS = [
    f"{task}_{corpus}"
    for task in ("SpokenTermDetection", "SpeechTextMatching")
    for corpus in ("LJSpeech", "LibriSpeech-TestClean", "LibriSpeech-TestOther")
]
TELL = "Tell whether the given word is in the audio."


def asking(instance, content, **fields):
    return {**row(instance, **fields), "messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize("instance", TERMS)
def test_a_term_stands_before_the_instruction_that_asks_about_it(tmp_path, instance):
    write_parquet(tmp_path, instance, table(3, text=["rain", None, " "]))
    benchmark = load(tmp_path)
    assert [item.question for item in benchmark.items] == ["The given word is rain who speaks ?"]
    [item] = benchmark.items
    assert item.messages[0]["content"] == SPAN + item.question
    assert list(reasons(benchmark)) == [f"{instance}/1", f"{instance}/2"]
    assert all("text" in reason and "is missing or empty" in reason for reason in reasons(benchmark).values())


def test_without_a_column_of_terms_an_instance_is_not_asked(tmp_path):
    names = ["SpeechTextMatching_LibriSpeechTestClean", "spokentermdetection-ljspeech"]
    for name in names:
        write_parquet(tmp_path, name, table(2))
    write_parquet(tmp_path, COUNTING, table(2, text=["a", "b"]))  # a column like any other
    benchmark = load(tmp_path)
    assert {item.question for item in benchmark.items} == {"who speaks ?"}
    assert list(reasons(benchmark)) == names
    assert all("has no column text" in reason for reason in reasons(benchmark).values())


def test_the_term_of_a_manifest_is_put_into_its_turn(tmp_path):
    lines = [
        asking(SPOKEN, SPAN + TELL, text="the"),
        asking(SPOKEN, TELL, text=7),
        asking(SPOKEN, f"{SPAN}The given word is rain. {TELL}"),
        asking(SPOKEN, f'{SPAN}Tell whether the word "rain" is spoken.', text="rain"),
        asking(SPOKEN, SPAN + TELL),
        asking(SPOKEN, f"{SPAN}The given word is present in the audio. Answer with the word 'yes' or 'no'."),
        asking(SPOKEN, SPAN + TELL, text="..."),
    ]
    benchmark = load(write_jsonl(tmp_path / "ds", lines))
    assert [item.messages[0]["content"].removeprefix(SPAN) for item in benchmark.items] == [
        f"The given word is the {TELL}",
        f"The given word is 7 {TELL}",
        f"The given word is rain. {TELL}",
        'Tell whether the word "rain" is spoken.',
    ]
    assert list(reasons(benchmark)) == [f"{SPOKEN}/{k}" for k in (4, 5, 6)]
    assert 'give it as "text"' in reasons(benchmark)[f"{SPOKEN}/4"]


@given(
    st.one_of(st.text("abcdefgh", min_size=1), st.sampled_from("the word is in there given yes not it's O.K.".split())),
    st.sampled_from([TELL, SPAN + TELL, "Is the given word in the audio? Answer in one word: yes or no."]),
)
def test_a_term_is_always_in_the_turn_and_only_once(term, content):
    once = turn_with_term(content, term)
    assert f"The given word is {term} " in once and once.endswith(content.removeprefix(SPAN))
    assert once.startswith(SPAN if SPAN in content else "The")
    assert turn_with_term(once, term) == once
    with pytest.raises(Fault):
        turn_with_term(content, None)


def write_metadata(folder, rows, audios, split=""):
    """What the benchmark's own preprocessing writes."""
    (place := folder / split).mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(audios):
        soundfile.write(place / name, wave(k), 16000)
    (place / "metadata.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def said(label="yes", **fields):
    return {"file": "x", "instruction": TELL, "label": label, **fields}


def test_metadata_beside_audio_files(tmp_path):
    names = [f"{SPOKEN}_{name}.wav" for name in ("LJ001 0107", "überall", "lost")]
    rows = dict(zip(names, (said(text="rain", speaker=3), said(text="snow"), said(text="hail")), strict=True))
    write_metadata(tmp_path / SPOKEN, rows, names[:2])
    pairs = {f"{PLAIN}_{k}.flac": said(file2="y") for k in range(3)}
    heard = [f"{PLAIN}_{k}{pair}.flac" for k in (0, 1) for pair in ("", ("_pair", "_pair2")[k])] + [f"{PLAIN}_2.flac"]
    write_metadata(tmp_path / PLAIN, pairs, heard, "test")
    for instance, split in ((PLAIN, "train"), (COUNTING, "train"), (COUNTING, "validation")):
        write_metadata(tmp_path / instance, {"0.wav": said()}, ["0.wav"], split)
    benchmark = load(tmp_path)
    assert [item.id for item in benchmark.items] == [f"{PAIR}/0", f"{PAIR}/1", f"{SPOKEN}/0", f"{SPOKEN}/1"]
    assert [clip.path.name for clip in benchmark.items[1].clips] == [f"{PLAIN}_1.flac", f"{PLAIN}_1_pair2.flac"]
    assert [item.question for item in benchmark.items[2:]] == [
        f"The given word is {word} {TELL}" for word in ("rain", "snow")
    ]
    reason = reasons(benchmark)
    assert list(reason) == [COUNTING, f"{PLAIN}/2", f"{SPOKEN}/2"]
    assert "several splits (train, validation), none of them test" in reason[COUNTING]
    assert f"audio {PLAIN}_2_pair2.flac, which goes with it, is not in" in reason[f"{PLAIN}/2"]
    assert f"audio {names[2]} is not in" in reason[f"{SPOKEN}/2"]
    assert load(tmp_path / PLAIN).items == benchmark.items[:2]


def test_metadata_with_faults_is_listed_and_the_rest_is_read(tmp_path):
    write_metadata(tmp_path / COUNTING, {"0.wav": {**said(), "label": 2}, "1.wav": said()}, ["0.wav", "1.wav"])
    file = tmp_path / COUNTING / "metadata.json"
    again = json.dumps({"0.wav": said(), "2.wav": [], "\ud800": said()})
    file.write_text("\ufeff" + file.read_text().rstrip("}") + "}, " + again.lstrip("{"), encoding="utf-8")
    write_metadata(tmp_path / PLAIN, [said()], [])
    write_metadata(tmp_path / SPOKEN, {}, [])
    (tmp_path / SPOKEN / "metadata.json").write_text("{")
    write_metadata(tmp_path / "SarcasmDetection_Mustard", {"0.wav": said()}, ["0.wav"])
    write_parquet(tmp_path, "SarcasmDetection_Mustard", table(2))
    benchmark = load(tmp_path)
    assert [(item.id, item.gt) for item in benchmark.items] == [(f"{COUNTING}/0", "2"), (f"{COUNTING}/1", "yes")]
    reason = reasons(benchmark)
    assert "two rows of this name" in reason[f"{COUNTING}/2"] and "is a list, not an object" in reason[f"{COUNTING}/3"]
    assert "half of a surrogate pair" in reason[f"{COUNTING}/4"] and reason[f"{COUNTING}/4"].isascii()
    assert "not an object of rows" in reason[PLAIN] and "cannot be read" in reason[SPOKEN]
    assert "has tables and metadata.json" in reason["SarcasmDetection_Mustard"]


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (2, "2"), (0, "0"), (0.4, "0.4"), (2.0, "2"), (True, "true"), (False, "false"), (" two ", "two"),
        ("\u200fshalom\u200f", "shalom"), ("\ufeffyes", "yes"), (" two\u200b ", "two"), ("\u200b", None),
        (None, None), ([], None), (["yes"], None), ({"text": "yes"}, None), ("", None), (float("nan"), None),
        (float("inf"), None),
    ],
)  # fmt: skip
def test_labels_of_a_manifest_are_read_as_text(tmp_path, label, text):
    benchmark = load(write_jsonl(tmp_path / "ds", [row(COUNTING, label=label), row(COUNTING, label="three")]))
    assert [item.gt for item in benchmark.items] == [*([] if text is None else [text]), "three"]
    assert benchmark.options[COUNTING] == sorted({item.gt for item in benchmark.items})
    if text is None:
        assert reasons(benchmark)[f"{COUNTING}/0"].startswith("test.jsonl:1: label ")


@pytest.mark.parametrize(
    ("labels", "read"),
    [
        (pa.array([2, None, 3]), ["2", None, "3"]),
        (pa.array([0.4, 2.0, float("nan")], pa.float32()), ["0.4", "2", None]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array(["yes", "", "no"]).dictionary_encode(), ["yes", None, "no"]),
        (pa.array([["yes"], ["yes", "no"], []]), [None, None, None]),
    ],
)
@pytest.mark.parametrize("write", [write_parquet, write_datasets])
def test_labels_of_a_table_are_read_as_text(tmp_path, labels, read, write):
    write(tmp_path, COUNTING, table(3).drop_columns("label").append_column("label", labels))
    write_parquet(tmp_path, "SarcasmDetection_Mustard", table(1))
    benchmark = load(tmp_path)
    found = {item.id: item.gt for item in benchmark.items if item.subset == COUNTING}
    assert found == {f"{COUNTING}/{k}": text for k, text in enumerate(read) if text is not None}
    assert set(reasons(benchmark)) == {f"{COUNTING}/{k}" for k, text in enumerate(read) if text is None}


@pytest.mark.parametrize("write", [write_parquet, write_datasets])
def test_class_labels_are_read_by_their_names(tmp_path, write):
    """A ClassLabel column of the `datasets` library holds numbers; the names are in the schema's metadata."""
    about = {"info": {"features": {"label": {"names": ["female", "male"], "_type": "ClassLabel"}}}}
    held = table(3).drop_columns("label").append_column("label", pa.array([1, 0, -1]))
    write(tmp_path, COUNTING, held.replace_schema_metadata({"huggingface": json.dumps(about)}))
    benchmark = load(tmp_path)
    assert [item.gt for item in benchmark.items] == ["male", "female"]
    assert list(reasons(benchmark)) == [f"{COUNTING}/2"]


def test_a_column_of_audios_without_any_is_none(tmp_path):
    write_parquet(tmp_path, COUNTING, table(2, audio2=pa.nulls(2)))
    assert [len(item.clips) for item in load(tmp_path).items] == [1, 1]


def test_a_byte_order_mark_is_passed_over_and_a_line_that_is_not_utf8_listed(tmp_path):
    file = write_jsonl(tmp_path / "ds", [row(COUNTING, label="two"), row(COUNTING)]) / "test.jsonl"
    first, second = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"\xef\xbb\xbf" + first + second.replace(b"who", "caf\u00e9".encode("latin-1")))
    benchmark = load(file)
    assert [item.gt for item in benchmark.items] == ["two"]
    assert reasons(benchmark)["test.jsonl:2"].startswith("test.jsonl:2: not UTF-8 text")


def test_a_manifest_that_cannot_be_read_is_listed(tmp_path):
    folder = write_jsonl(tmp_path / "ds", [row(COUNTING)])
    (folder / "a.jsonl").symlink_to("gone")
    (folder / "b.jsonl").mkdir()
    benchmark = load(folder)
    assert len(benchmark.items) == 1 and list(reasons(benchmark)) == ["a.jsonl"]


def test_an_instruction_that_holds_a_mark_of_audio_is_listed(tmp_path):
    held = table(2).drop_columns("instruction").append_column("instruction", pa.array(["<|AUDIO|> who ?", "who ?"]))
    write_parquet(tmp_path, COUNTING, held)
    benchmark = load(tmp_path)
    assert [item.id for item in benchmark.items] == [f"{COUNTING}/1"]
    assert "holds <|AUDIO|>" in reasons(benchmark)[f"{COUNTING}/0"]


def test_audio_is_found_under_the_spelling_of_this_disk(tmp_path):
    folder = write_jsonl(
        tmp_path / "ds", [row(COUNTING, clips=(name,)) for name in ("é 1.wav", "a\\0.wav", "a/0.flac")]
    )
    (folder / "a").mkdir()
    for name in ("e\u0301 1.wav", "a/0.wav"):
        soundfile.write(folder / name, wave(0), 16000)
    benchmark = load(folder)
    assert not benchmark.rejected and len(benchmark.items) == 3
    assert all(len(clip.load()) == 8000 for item in benchmark.items for clip in item.clips)


def test_a_real_folder_is_evaluated_without_what_it_lacks(tmp_path, model_folder, capsys):
    write_metadata(tmp_path / "ds" / SPOKEN, {f"{k}.wav": said(text="rain") for k in range(3)}, ["0.wav", "1.wav"])
    write_parquet(tmp_path / "ds", "NoiseDetectionspeech_VCTKMusan", table(2))
    write_parquet(tmp_path / "ds", PLAIN, table(2, audio2=second(2)))
    argv = ["--model", model_folder, "--benchmark", tmp_path / "ds", "--out", tmp_path / "run", "--device", "cpu"]
    assert main(["evaluate", *map(str, argv)]) == 3
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert {name: each["items"] for name, each in scores["instances"].items()} == {
        SPOKEN: 2, "NoiseDetection_VCTK_MUSAN-Speech": 2, PAIR: 2,
    }  # fmt: skip
    assert scores["overall"]["name"] == "mean of 3 of 51" and scores["unknown"] == []
    assert [rejected["id"] for rejected in scores["rejected"]] == [f"{SPOKEN}/2"]
    assert "mean of 3 of 51: not the authors' figure" in " ".join(capsys.readouterr().out.split())


def test_one_file_of_both_audios_is_one_audio(tmp_path):
    """`_concat`, as the benchmark's ESPnet recipe leaves it: the row still names its second file."""
    write_metadata(tmp_path / PLAIN, {"a_concat.wav": said(file2="y")}, ["a.wav", "a_pair.wav", "a_concat.wav"])
    assert [(item.subset, len(item.clips)) for item in load(tmp_path).items] == [(PLAIN, 1)]


def test_nothing_usable_is_one_line(tmp_path):
    write_metadata(tmp_path / COUNTING, {"0.wav": said()}, [])
    with pytest.raises(UserError, match=r"no row of Dynamic-SUPERB .*audio 0.wav is not in"):
        load(tmp_path)


def test_clips_of_metadata_are_heard_in_order(tmp_path):
    write_metadata(tmp_path / PLAIN, {"a.wav": said(file2="y")}, ["a.wav", "a_pair2.wav"])
    [item] = load(tmp_path).items
    assert len(item.clips) == 2
    for number, clip in enumerate(item.clips):
        np.testing.assert_allclose(clip.load(), wave(number), atol=LEAST_BIT)


@pytest.mark.parametrize(
    ("names", "whole"),
    [
        (["test-00000-of-00002", "test-00001-of-00002"], True),
        (["test-00000-of-00002-0123456789abcdef", "test-00001-of-00002-fedcba9876543210"], True),
        (["test-00000-of-00001", "train-00000-of-00002"], True),
        (["test-00000-of-00002"], False),
        (["test-00001-of-00002"], False),
        (["test-00000-of-00001", "test-00000-of-00002", "test-00001-of-00002"], False),
        (["test-00000-of-00001-0123456789abcdef", "test-00000-of-00001-fedcba9876543210"], False),
    ],
)
def test_files_of_an_instance_are_all_there_and_once(tmp_path, names, whole):
    """A download that was interrupted is no data set, and one of two versions has its rows twice."""
    write_parquet(tmp_path, "SarcasmDetection_Mustard", table(1))
    (tmp_path / COUNTING).mkdir()
    for name in names:
        pq.write_table(table(2), tmp_path / COUNTING / f"{name}.parquet")
    benchmark = load(tmp_path)
    assert COUNTING in benchmark.options if whole else "not each of one data set once" in reasons(benchmark)[COUNTING]


def test_a_saved_data_set_without_a_file_that_it_names_is_rejected(tmp_path):
    write_parquet(tmp_path, "SarcasmDetection_Mustard", table(1))
    write_datasets(tmp_path, COUNTING, table(3))
    (tmp_path / COUNTING / "data-00001-of-00002.arrow").unlink()
    benchmark = load(tmp_path)
    assert COUNTING not in benchmark.options
    assert "data-00001-of-00002.arrow is missing, which state.json names" in reasons(benchmark)[COUNTING]
