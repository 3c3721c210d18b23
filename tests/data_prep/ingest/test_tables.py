"""Data as labs have it: each form of table with its quirks, from ingest to shards and back."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import assume, given
from hypothesis import strategies as st

from caad_ds import cli
from caad_ds.data.audio.decode import measured_pcm16
from caad_ds.data.shard_reader import IndexedReader
from data_prep.common.manifest import load_manifest, write_manifest
from data_prep.ingest.sources import csv
from data_prep.pack.pack import pack
from tests.data_prep.lines import read
from tests.tolerance import LEAST_BIT

TURN = {"role": "user", "content": "<start_audio><|AUDIO|><end_audio>\nWho speaks?"}
CLIPS = {"a b/ä.wav": (8_000, 1), "b.wav": (44_100, 2), "c.flac": (16_000, 1)}  # rate and channels


@dataclass
class Ingested:
    """What an ingest printed and wrote: the records, and the reasons of those rejected by their place."""

    status: int
    records: list[dict]
    rejected: dict[str, str]
    error: str

    @property
    def metadata(self) -> list[dict]:
        return [record["metadata"] for record in self.records]

    @property
    def texts(self) -> list[str]:
        return [record["audios"][0]["text"] for record in self.records]


@pytest.fixture
def data(tmp_path) -> Path:
    """A folder with three clips of half a second."""
    for number, (name, (rate, channels)) in enumerate(CLIPS.items()):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = 0.2 * np.random.default_rng(number).standard_normal((rate // 2, channels))
        soundfile.write(path, np.clip(wave, -1, 1), rate)
    return tmp_path / "data"


@pytest.fixture
def ingest(tmp_path, capsys):
    """Runs `caad-ds prep ingest SOURCE --root ROOT ...`."""

    def run(source: str, root: Path, *arguments: object) -> Ingested:
        out = tmp_path / "out" / "all.jsonl"
        status = cli.main(["prep", "ingest", source, *map(str, ("--root", root, "--out", out, *arguments))])
        listed = out.with_name("all.rejected.jsonl")
        rejected = {row["id"]: row["reason"] for row in read(listed)} if listed.exists() else {}
        return Ingested(status, read(out) if out.exists() else [], rejected, capsys.readouterr().err)

    return run


def packed(tmp_path: Path) -> list[tuple[dict, np.ndarray]]:
    """The ingested records through shards: each record, and its audio as int16."""
    rows = load_manifest(tmp_path / "out" / "all.jsonl")
    write_manifest(tmp_path / "answered.jsonl", [{**row, "messages": [TURN], "response": "A tone."} for row in rows])
    pack(tmp_path / "answered.jsonl", tmp_path / "shards")
    samples = list(IndexedReader(tmp_path / "shards"))
    return [(sample.record, np.rint(sample.waveforms[0] / LEAST_BIT).astype(np.int16)) for sample in samples]


CSV = """\
path;sentence;client_id;age
a b/ä.wav;Grüße, "hier";s 1;
b.wav;"zwei; Zeilen
im Text";s2;30
;no audio;s2;30
absent.wav;nicht da;s3;4

c.flac;"nicht zu;s3;4
c.flac;zu wenig
c.flac;drei;s3;41;;
"""
EXPECTED = [{"speaker": "s 1"}, {"speaker": "s2", "age": "30"}, {"speaker": "s3", "age": "41"}]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_csv_of_a_spreadsheet_comes_to_shards_and_back(ending, tmp_path, data, ingest):
    text = CSV.replace('"hier"', "hier").replace("\n", ending)
    (data / "clips.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = ingest("csv", data / "clips.csv", "--map", "text=sentence", "speaker=client_id")
    assert found.status == 0 and found.metadata == EXPECTED
    assert [text.split() for text in found.texts] == [["Grüße,", "hier"], ["zwei;", "Zeilen", "im", "Text"], ["drei"]]
    assert [record["id"] for record in found.records] == ["clips-0000002", "clips-0000003", "clips-0000010"]
    assert [record["audios"][0]["duration"] for record in found.records] == [0.5, 0.5, 0.5]
    assert found.rejected["clips.csv line 5"] == "it names no audio: its column 'path' is empty"
    renamed = ingest("csv", data / "clips.csv", "--map", "audio=path", "text=sentence", "speaker=client_id")
    assert renamed.rejected["clips.csv line 5"] == found.rejected["clips.csv line 5"]
    assert "there is no such file" in found.rejected["clips-0000006"]
    assert "its cells cannot be separated" in found.rejected["clips.csv line 8"]
    assert found.rejected["clips.csv line 9"] == (
        "it has 2 cells, the header 4 columns (path, sentence, client_id, age)"
    )
    assert len(found.rejected) == 4
    for (record, pcm), name in zip(packed(tmp_path), CLIPS, strict=True):
        assert record["metadata"]["speaker"].startswith("s")
        np.testing.assert_array_equal(pcm, measured_pcm16(data / name)[0])


def test_a_tsv_of_common_voice_is_read_with_its_quotes(tmp_path, data, ingest):
    lines = ["client_id\tpath\tsentence", 's1\tc.flac\t"Gut" so', 's1\tb.wav\t"Nein"', 's2\tb.wav\t"""So"" sagt er"']
    (data / "link.wav").symlink_to(tmp_path / "out.wav")
    lines.append("s3\tlink.wav\tout")
    (tmp_path / "validated.tsv").write_text("\n".join(lines))
    found = ingest("csv", tmp_path / "validated.tsv", "--audio-root", data, "--map", "text=sentence")
    assert found.status == 0 and found.texts == ['"Gut" so', "Nein", '"So" sagt er']
    assert found.metadata == [{"client_id": "s1"}, {"client_id": "s1"}, {"client_id": "s2"}]
    assert "is a link that leads out of the root" in found.rejected["validated-0000005"]


@pytest.mark.parametrize(
    ("header", "arguments", "reason"),
    [
        ("wav,text", (), "there is no column 'audio'; the columns are wav, text; --map audio=COLUMN names the one"),
        ("audio,text", ("text=sentence",), "no column 'sentence', which --map text=sentence names; the columns are"),
        ("audio,text", ("text=audio",), "--map text=audio: there is a column 'text' as well; map it to another name"),
        ("path,file_name", (), "columns 'path' and 'file_name' may both name the audio; choose one by --map audio="),
    ],
)
def test_what_cannot_be_mapped_is_reported_with_the_columns_that_are_there(header, arguments, reason, data, ingest):
    (data / "a.csv").write_text(f"{header}\nb.wav,b.wav\n")
    found = ingest("csv", data / "a.csv", *(("--map", *arguments) if arguments else ()))
    assert found.status == 2 and reason in found.error and "a.csv line 2" in found.error


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty; its first line must name the columns"),
        (b"audio,text,text\n", "two columns are called 'text'; rename one of them"),
        (b'{"audio": "a.wav"}\n', "it looks like JSONL, not CSV; `caad-ds prep ingest jsonl"),
        (b"PAR1....", "it is a Parquet file; `caad-ds prep ingest parquet"),
        ("audio\ttext\n".encode("utf-16"), "UTF-16 text; save the file as UTF-8"),
    ],
)
def test_a_file_that_is_no_table_is_refused(content, reason, data, ingest):
    (data / "a.csv").write_bytes(content)
    found = ingest("csv", data / "a.csv")
    assert found.status == 2 and reason in found.error


def test_one_bad_line_hides_no_other(data, ingest):
    lines = [b"audio,text", b"b.wav,caf\xe9", b'b.wav,"open', b'c.flac,"fine, ""too"""', b"c.flac,plain"]
    (data / "a.csv").write_bytes(b"\n".join(lines))
    found = ingest("csv", data / "a.csv")
    assert found.texts == ['fine, "too"', "plain"]
    assert "not UTF-8" in found.rejected["a.csv line 2"] and "a.csv line 3" in found.rejected


def test_an_unclosed_quote_swallows_no_rows(data, ingest):
    """It ends at the next stray one; a text of two lines is no row."""
    lines = ["audio,text", 'b.wav,"he said', "c.flac,two", 'b.wav,three"', 'c.flac,"one\nbreak"', "b.wav,five"]
    (data / "a.csv").write_text("\n".join(lines))
    found = ingest("csv", data / "a.csv")
    assert found.texts == ["two", 'three"', "one\nbreak", "five"]
    assert found.rejected == {
        "a.csv line 2": "its quotes end in line 4, and lines between look like rows; close the quote"
    }


def test_blanks_before_the_header_and_before_quotes_are_none_of_the_text(data, ingest):
    (data / "a.csv").write_text('\n  \naudio, text, speaker\nb.wav, "one, ""two""", s1\nc.flac, "three", s2\n')
    found = ingest("csv", data / "a.csv")
    assert found.texts == ['one, "two"', "three"] and found.metadata == [{"speaker": "s1"}, {"speaker": "s2"}]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0\x85\u2028"), max_size=6)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6))
def test_what_pythons_writer_writes_is_read(tmp_path_factory, cells):
    import csv as writer

    path = tmp_path_factory.getbasetemp() / "written.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer.writer(file).writerows([("audio", "a", "b"), *(("x", *row) for row in cells)])
    found = list(csv.rows(path))
    assume(not any("look like rows" in getattr(row, "reason", "") for row in found))  # random texts that do
    found = [row.values for row in found]
    assert found == [{"audio": "x", "a": a.strip() or None, "b": b.strip() or None} for a, b in cells]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_audiofolder_is_read_at_any_depth(form, tmp_path, data, ingest):
    rows = [{"file_name": "ä.wav", "transcription": "hello", "mood": "calm"}, {"file_name": "no.wav"}]
    listing = data / "a b" / f"metadata.{form}"
    if form == "csv":
        listing.write_text("file_name,transcription,mood\nä.wav,hello,calm\nno.wav,,\n")
    elif form == "jsonl":
        listing.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in rows[0]])), listing)
    (data / "metadata.csv").write_text("file_name,audio,mood\nc.flac,what it is,sad\n,,gone\n")
    found = ingest("audiofolder", data)
    assert found.status == 0 and found.texts == ["hello", ""]
    assert found.metadata == [{"mood": "calm"}, {"mood": "sad", "audio": "what it is"}]
    assert found.rejected["metadata.csv line 3"] == "it names no audio: its column 'file_name' is empty"
    assert [name for name in found.rejected if name.startswith("a b/metadata-")]
    np.testing.assert_array_equal(packed(tmp_path)[0][1], measured_pcm16(data / "a b/ä.wav")[0])


def hugging_face(path: Path, rows: list[dict]) -> None:
    """A Parquet file as the `datasets` library writes one, with a class label."""
    features = {"audio": {"_type": "Audio"}, "gender": {"_type": "ClassLabel", "names": ["female", "male"]}}
    schema = pa.schema(
        [("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("sentence", pa.string()),
         ("gender", pa.int64()), ("age", pa.float64()), ("day", pa.date32())],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=2)


def test_parquet_with_audio_in_it_comes_to_shards_and_back(tmp_path, data, ingest):
    held = {name: (data / name).read_bytes() for name in CLIPS}
    rows = [{"audio": {"bytes": clip, "path": name}, "sentence": name, "gender": 1} for name, clip in held.items()]
    rows += [{"audio": {"path": "data/b.wav"}, "sentence": "path", "gender": -1, "age": float("nan")}]
    rows += [{"audio": None, "sentence": "none"}, {"audio": {"bytes": b"no audio"}, "gender": 0}]
    hugging_face(tmp_path / "train-00000-of-00001.parquet", rows)
    (tmp_path / "train-00001.parquet").write_bytes(b"PAR1 cut")
    for _ in range(2):  # again from the start, and left alone
        found = ingest("parquet", tmp_path, "--map", "text=sentence")
    assert found.status == 0 and found.texts == [*CLIPS, "path"]
    assert found.metadata == [{"gender": "male"}] * 3 + [{}]
    written = sorted(path for path in (tmp_path / "out" / "all.audio").iterdir())
    assert len(written) == 4 and [path.suffix for path in written[:3]] == [".wav", ".wav", ".flac"]
    assert found.records[0]["audios"][0]["path"].startswith("all.audio/train-00000-of-00001-0000000-")
    assert "its column 'audio' is empty" in found.rejected["train-00000-of-00001.parquet row 4"]
    assert "does not decode" in found.rejected["train-00000-of-00001-0000005"]
    assert "cannot be read from this row on" in found.rejected["train-00001.parquet row 0"]
    for (_, pcm), name in zip(packed(tmp_path), [*CLIPS, "b.wav"], strict=True):
        np.testing.assert_array_equal(pcm, measured_pcm16(data / name)[0])


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_a_number_of_few_bits_is_the_one_that_was_meant(kind, tmp_path, data, ingest):
    numbers = [0.4, -5.1, 2.0, None, float("nan")]
    held = pa.array(numbers).cast(kind)
    pq.write_table(pa.table({"audio": [str(data / "b.wav")] * len(numbers), "snr": held}), tmp_path / "a.parquet")
    found = ingest("parquet", tmp_path / "a.parquet")
    assert [row.get("snr") for row in found.metadata] == [0.4, -5.1, 2.0, None, None]


def test_other_bytes_in_a_parquet_file_are_another_record(tmp_path, data, ingest):
    for name in ("b.wav", "c.flac"):
        rows = [{"audio": {"bytes": (data / name).read_bytes(), "path": "x.wav"}, "day": None, "sentence": "hi"}]
        hugging_face(tmp_path / "a.parquet", rows)
        found = ingest("parquet", tmp_path / "a.parquet")
        (audio,) = found.records[0]["audios"]
        assert (tmp_path / "out" / audio["path"]).read_bytes() == (data / name).read_bytes()


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_parts_of_a_long_file_are_cut_to_the_sample(rate, tmp_path, data, ingest):
    wave = 0.2 * np.random.default_rng(5).standard_normal(rate * 3)
    soundfile.write(data / "long.wav", np.clip(wave, -1, 1), rate, subtype="PCM_16")
    spans = [(0.25, 0.5), (1.00007, 1.00007), (0, 1.0), (2.5, None)]
    rows = [
        {"audio_filepath": "long.wav", "offset": offset, "duration": seconds, "text": "a part", "speaker": "s1"}
        for offset, seconds in spans
    ]
    rows += [{"audio_filepath": "long.wav", "duration": 2.96, "text": "the file"}]
    rows += [{"audio_filepath": "long.wav", "duration": 1.5, "text": "its beginning"}]
    bad = [
        ({"audio_filepath": "long.wav", "offset": 2.5, "duration": 1.0}, "only 0.50 of 1.00 s are there"),
        ({"audio_filepath": "long.wav", "offset": 9.0, "duration": 1.0}, "begins after the end of its file"),
        ({"audio_filepath": "long.wav", "duration": 5.0}, "only 3.00 of 5.00 s are there"),
        ({"audio_filepath": "long.wav", "offset": -1, "duration": 1.0}, "'offset' must be a number of seconds, not -1"),
        ({"audio_filepath": "long.wav", "offset": 1, "duration": 0}, "empty"),
        ({"audio_filepath": "long.wav", "duration": 10**400}, "'duration' must be a number of seconds"),
        ({"audio_filepath": "long.wav", "offset": True}, "'offset' must be a number of seconds, not True"),
        ({"audio_filepath": ["long.wav"]}, "its audio must be a path"),
        ({"text": "no audio"}, "it names no audio: there is no column 'audio_filepath'; the columns are text"),
    ]
    text = "".join(json.dumps(row) + "\r\n" for row in [*rows, *(row for row, _ in bad)])
    (data / "nemo.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = ingest("nemo", data / "nemo.json")
    assert found.status == 0 and len(found.records) == 6 and len(found.rejected) == len(bad)
    for (_, reason), message in zip(bad, found.rejected.values(), strict=True):
        assert reason in message
    assert found.metadata[:2] == [{"speaker": "s1"}] * 2
    places = [(a.get("offset"), a["duration"]) for record in found.records for a in record["audios"]]
    assert places == [(0.25, 0.5), (1.00007, 1.00007), (0, 1.0), (2.5, 0.5), (None, 3.0), (0.0, 1.5)]
    for (record, pcm), place in zip(packed(tmp_path), places, strict=True):
        part = () if place[0] is None else place
        np.testing.assert_array_equal(pcm, measured_pcm16(data / "long.wav", *part)[0])
        assert "offset" not in record["audios"][0]
        if rate == 16_000:
            start = round((place[0] or 0) * rate)
            expected = soundfile.read(data / "long.wav", dtype="int16")[0][start : start + round(place[1] * rate)]
            np.testing.assert_array_equal(pcm, expected)


@pytest.mark.parametrize("source", ["csv", "jsonl"])
def test_an_empty_offset_is_the_beginning_of_the_file(source, data, ingest):
    soundfile.write(data / "long.wav", 0.1 * np.sin(np.arange(48_000) * 0.1), 16_000)
    table = {"csv": "audio,offset,duration\nlong.wav,,1.0\nlong.wav,1.0,1.5\nlong.wav,,\n"}
    rows = [{"audio": "long.wav", "offset": o, "duration": d} for o, d in ((None, 1.0), (1.0, 1.5), (None, None))]
    table["jsonl"] = "".join(json.dumps(row) + "\n" for row in rows)
    (data / f"a.{source}").write_text(table[source])
    found = ingest(source, data / f"a.{source}")
    places = [(a.get("offset"), a["duration"]) for record in found.records for a in record["audios"]]
    assert places == [(0.0, 1.0), (1.0, 1.5), (None, 3.0)]


@pytest.mark.parametrize(
    "row",
    [
        {"audio": "long.wav", "offset": 1, "duration": 0.5},
        {"audios": [{"path": "long.wav", "offset": 1.0, "duration": 0.5, "text": "x"}]},
        {"messages": [{**TURN, "audios": [{"audio": "long.wav", "offset": 1.0, "duration": 0.5}]}], "response": "Yes."},
    ],
    ids=["plain", "record", "desta"],
)
def test_every_form_of_jsonl_names_parts(row, data, ingest):
    soundfile.write(data / "long.wav", 0.1 * np.sin(np.arange(32_000) * 0.1), 16_000)
    (data / "own.jsonl").write_text(json.dumps(row))
    (record,) = ingest("jsonl", data / "own.jsonl").records
    assert (record["audios"][0]["offset"], record["audios"][0]["duration"]) == (1, 0.5)
    assert record["metadata"] == {}


def test_a_part_that_is_too_long_is_cut_within_itself(data, ingest):
    soundfile.write(data / "long.wav", 0.1 * np.sin(np.arange(64_000) * 0.1), 16_000)
    (data / "a.csv").write_text("audio,offset,duration\nlong.wav,1.5,2.0\nlong.wav,x,1\n")
    found = ingest("csv", data / "a.csv", "--max-seconds", 1, "--too-long", "split")
    places = [(a["offset"], a["duration"]) for record in found.records for a in record["audios"]]
    assert places == [(1.5, 1.0), (2.5, 1.0)]
    assert found.rejected == {"a.csv line 3": "'offset' must be a number of seconds, not 'x'"}


def test_columns_of_a_published_corpus_are_not_mapped(data, ingest):
    found = ingest("vctk", data, "--map", "text=sentence")
    assert found.status == 2 and "source vctk knows the columns of its corpus" in found.error


@pytest.mark.parametrize("pair", ["text", "=text", "text="])
def test_a_mapping_that_is_none_is_refused(pair, data, ingest):
    found = ingest("csv", data / "a.csv", "--map", pair)
    assert found.status == 2 and "write it as NAME=COLUMN" in found.error
