"""From a public DeSTA manifest to shards and back: no field is lost, and the audio is the same.

The forms are those of DeSTA2.5-Audio's docs/train.md and docs/dataset.md, and of CAAD's training files.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset

from caad_ds.cli import main
from caad_ds.data.audio.flac import decode
from caad_ds.data.audio.pcm16 import to_pcm16
from caad_ds.data.audio_markers import AUDIO
from caad_ds.data.shard_reader import IndexedReader
from tests.data_prep.lines import read

MARK = "<start_audio><|AUDIO|><end_audio>"
SYSTEM = {"role": "system", "content": "The audio clips stand between <start_audio> and <end_audio>."}
FIRST = "LibriTTS_R/train-clean-360/93/123172/93_123172_000001_000000.wav"
SECOND = "VCTK-corpus/wav 48/p225_001.wav"

DESTA25 = [
    {
        "messages": [
            SYSTEM,
            {
                "role": "user",
                "content": f"Describe the audio file. {MARK}",
                "audios": [{"audio": FIRST, "text": "Hello, how are you?"}],
            },
        ],
        "response": "A person greets another.",
    },
    {
        "id": SECOND,
        "dataset": "VCTK-corpus",
        "seed_description": "[00:00-00:01] Please call Stella. (Gender: Female, Accent: english)",
        "prompt": "Which of the two is higher?",
        "messages": [
            {
                "role": "user",
                "content": f"{MARK} and {MARK}: which of the two is higher?",
                "audios": [
                    {"audio": SECOND, "text": "Please call Stella.", "speaker": {"id": "p225", "age": 23}},
                    {"audio": FIRST, "text": ""},
                ],
                "name": "listener",
            },
            {"role": "assistant", "content": "Hear it again?"},
            {"role": "user", "content": MARK, "audios": [{"audio": SECOND, "text": "Ça va, 你好?"}]},
        ],
        "response": "The first, 你好.",
        "scores": [0.5, None, {"judge": True}],
    },
]
DESTA2 = [
    {
        "audios": [{"audio_filepath": FIRST, "transcription": "Hello, how are you?"}],
        "messages": [SYSTEM, {"role": "user", "content": f"{MARK}\n\nWho speaks?"}],
        "target": "A woman speaks.",
    },
    {
        "id": "two",
        "dataset": "VoxCeleb1",
        "seed_transcript": "[00:00:00 - 00:00:05] the real lockdown",
        "audios": [
            {"audio_filepath": FIRST, "transcription": "one", "language": "en"},
            {"audio_filepath": SECOND, "transcription": "two"},
        ],
        "messages": [{"role": "user", "content": f"{MARK}{MARK} Are they one speaker?"}],
        "target": "No.",
        "system_prompt": "Imagine that you can hear.",
    },
]


def common(record: dict, row: dict) -> dict:
    """Return the fields common to both forms: further fields at the top level, an id only if the line has one."""
    own = {name: record[name] for name in ("id", "seed_description") if name in row}
    return {**own, **record["metadata"]}


def to_desta25(record: dict, row: dict) -> dict:
    audios: Iterator[dict] = ({name: audio[name] for name in audio if name != "path"} for audio in record["audios"])
    messages = []
    for message in record["messages"]:
        inside = [next(audios) for _ in range(message["content"].count(AUDIO))]
        messages.append({**message, "audios": inside} if inside else message)
    return {**common(record, row), "messages": messages, "response": record["response"]}


def to_desta2(record: dict, row: dict) -> dict:
    audios = [{**audio, "transcription": audio["text"]} for audio in record["audios"]]
    audios = [{name: audio[name] for name in audio if name not in ("path", "text")} for audio in audios]
    return {**common(record, row), "audios": audios, "messages": record["messages"], "target": record["response"]}


@pytest.fixture
def speech(tmp_path) -> dict[str, np.ndarray]:
    """Two recordings (16 kHz, int16) below a data root, by the path that the manifests give them."""
    rng = np.random.default_rng(0)
    written = {FIRST: rng.integers(-32768, 32768, 6_400, "<i2"), SECOND: rng.integers(-999, 999, 14_400, "<i2")}
    for name, pcm in written.items():
        path = tmp_path / "data root" / name
        path.parent.mkdir(parents=True)
        soundfile.write(path, pcm, 16_000, subtype="PCM_16")
    return written


def through_webdataset(folder: Path) -> Iterator[tuple[dict, list[np.ndarray]]]:
    urls = [str(path) for path in sorted(folder.glob("train-*.tar"))]
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        names = sorted(name for name in sample if name.endswith("flac"))
        yield json.loads(sample["json"]), [decode(sample[name], "int16") for name in names]


def through_reader(folder: Path) -> Iterator[tuple[dict, list[np.ndarray]]]:
    reader = IndexedReader(folder)
    for number in range(len(reader)):
        yield reader[number].record, [to_pcm16(waveform) for waveform in reader[number].waveforms]


@pytest.mark.parametrize("shards", [through_webdataset, through_reader])
@pytest.mark.parametrize(("rows", "back", "inside"), [(DESTA25, to_desta25, True), (DESTA2, to_desta2, False)])
def test_no_field_is_lost(rows, back: Callable, inside: bool, shards: Callable, speech, tmp_path, write_lines):
    listing = write_lines("data root/desta.jsonl", rows)
    manifest, out = tmp_path / "manifest.jsonl", tmp_path / "shards"
    assert main(["prep", "ingest", "jsonl", "--root", str(listing), "--out", str(manifest)]) == 0
    assert main(["prep", "pack", "--manifest", str(manifest), "--out", str(out)]) == 0
    packed = list(shards(out))
    assert len(packed) == len(rows)
    for row, (record, heard) in zip(rows, packed, strict=True):
        audios = (
            [audio for message in row["messages"] for audio in message.get("audios", [])] if inside else row["audios"]
        )
        for audio, pcm in zip(audios, heard, strict=True):
            np.testing.assert_array_equal(pcm, speech[audio["audio" if inside else "audio_filepath"]])
        for audio in record["audios"]:
            assert audio.pop("duration") in (0.4, 0.9)  # which ingest has added
        assert back(record, row) == row


def test_audio_without_marks_comes_back_with_them(speech, tmp_path, write_lines):
    """DeSTA's loader adds the markers around a bare <|AUDIO|>; here they are in the text already."""
    (message,) = DESTA25[0]["messages"][1:]
    row = {**DESTA25[0], "messages": [{**message, "content": f"Describe it. {AUDIO}"}]}
    out = tmp_path / "manifest.jsonl"
    listing = write_lines("data root/desta.jsonl", [row])
    assert main(["prep", "ingest", "jsonl", "--root", str(listing), "--out", str(out)]) == 0
    (record,) = read(out)
    assert record["messages"] == [{"role": "user", "content": f"Describe it. {MARK}"}]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metadata": {"dataset": "other"}}, "'dataset' is 'VoxCeleb1' in the line and 'other' in its 'metadata'"),
        ({"metadata": {"dataset": "VoxCeleb1"}}, None),
        ({"response": "Yes."}, None),
        ({"messages": [{**DESTA2[1]["messages"][0], "audios": DESTA2[1]["audios"]}]}, None),
        ({"messages": [{**DESTA2[1]["messages"][0], "audios": DESTA2[0]["audios"]}]}, "leave out one of them"),
        ({"audios": [{**audio, "offset": 0.1} for audio in DESTA2[1]["audios"]]}, None),
    ],
)
def test_what_could_be_read_in_two_ways_is_rejected(change, reason, speech, tmp_path, write_lines):
    out = tmp_path / "manifest.jsonl"
    listing = write_lines("data root/desta.jsonl", [DESTA2[0], {**DESTA2[1], **change}])
    assert main(["prep", "ingest", "jsonl", "--root", str(listing), "--out", str(out)]) == 0
    if reason is None:
        metadata = read(out)[1]["metadata"]
        assert metadata["dataset"] == "VoxCeleb1" and metadata.get("target", "No.") == "No."
        assert read(out)[1]["response"] == change.get("response", "No.")
        assert ("target" in metadata) == ("response" in change)
    else:
        (rejected,) = read(tmp_path / "manifest.rejected.jsonl")
        assert rejected["id"] == f"{listing.name} line 2" and reason in rejected["reason"]
