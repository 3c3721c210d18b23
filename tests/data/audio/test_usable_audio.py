"""One judgement of what audio is usable, in ingest, annotate, pack, training and evaluation."""

import json
from itertools import islice

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from caad_ds.cli import main
from caad_ds.data.audio import decode, pcm16
from caad_ds.data.audio.usable_audio import Levels, Rules, faults
from caad_ds.data.shard_reader import Doubtful, IndexedReader
from caad_ds.data.stream import StreamReader
from caad_ds.models.families.caad_speech_lm import SpeechReader
from caad_ds.utils.errors import UserError
from data_prep.common.manifest import write_manifest
from data_prep.ingest.ingest import ingest
from data_prep.pack.pack import pack
from data_prep.synthetic.espeak import speak
from tests.data.tones import read, record, tone
from tests.tolerance import assert_close

SINE = 0.5 * np.sin(np.arange(8_000) * 0.3)
PAIR = np.stack([SINE, -SINE], axis=1)
UNUSABLE = {
    "silent": np.zeros(8_000),
    "silent, at another level": np.full(8_000, 0.25),
    "silent, stereo": np.zeros((8_000, 2)),
    "silent, dithered": np.random.default_rng(0).integers(-1, 2, 8_000) / 32_768,
    "silent, but for a click": np.where(abs(np.arange(8_000) - 4_000) < 9, SINE, 0.1),
    "scale": SINE * 32_768,
    "scale, of 24 bit": SINE * 2**23,
    "scale, and NaN's neighbour": SINE * 1e30,
    "clipped": np.clip(SINE * 6, -1, 1),
    "clipped, a square": np.sign(SINE + 1e-9),
    "cancelled": PAIR,
    "cancelled, nearly": PAIR + 0.01 * np.stack([np.cos(np.arange(8_000)), np.zeros(8_000)], axis=1),
    "cancelled, for half of its length": np.concatenate([PAIR[:4_000], np.abs(PAIR[4_000:])]),
    "short": SINE[:1],
    "short, below a window": SINE[:399],
}
USABLE = {
    "overshoots a little": SINE * 2.005,
    "is quiet": SINE / 10_000,
    "is in one channel": np.stack([SINE, np.zeros(8_000)], axis=1),
    "has channels with nothing in common": np.random.default_rng(0).normal(0, 0.1, (8_000, 4)),
    "begins in silence": np.concatenate([np.zeros(8_000), SINE]),
    "cancels where hardly anything is": np.concatenate([np.abs(PAIR), PAIR / 500]),
    "is a window long": SINE[:400],
}


@pytest.fixture
def clips(tmp_path):
    """A manifest of all of them, answered, and the file of each."""
    rows = []
    for number, wave in enumerate([*UNUSABLE.values(), *USABLE.values()]):
        soundfile.write(tmp_path / f"{number}.wav", wave, 16_000, subtype="FLOAT")
        rows.append(record(f"clip{number}", tmp_path / f"{number}.wav"))
    write_manifest(tmp_path / "answered.jsonl", rows)
    return tmp_path


def expected():
    return {f"clip{number}": name.partition(",")[0] for number, name in enumerate(UNUSABLE)}


def by_rule(path):
    return {row["id"]: row["reason"].partition(":")[0] for row in (read(path) if path.exists() else [])}


def test_ingest_and_pack_reject_by_the_same_rules(clips):
    assert main(["prep", "pack", "--manifest", str(clips / "answered.jsonl"), "--out", str(clips / "out")]) == 0
    assert by_rule(clips / "out" / "index.rejected.jsonl") == expected()
    (clips / "own.jsonl").write_text(
        "".join(
            json.dumps({"id": row["id"], "audio": row["audios"][0]["path"]}) + "\n"
            for row in read(clips / "answered.jsonl")
        )
    )
    command = ["prep", "ingest", "jsonl", "--root", str(clips / "own.jsonl"), "--out", str(clips / "m.jsonl")]
    assert main(command) == 0
    assert by_rule(clips / "m.rejected.jsonl") == expected()
    assert len(read(clips / "m.jsonl")) == len(USABLE)


def test_annotate_names_the_rule_and_measures_nothing(clips):
    command = ["prep", "annotate", "--manifest", str(clips / "answered.jsonl"), "--out", str(clips / "a.jsonl")]
    assert main([*command, "--annotators", "duration"]) == 0
    assert by_rule(clips / "a.missing.jsonl") == expected()


def test_a_rule_may_be_lifted_and_the_index_says_so(clips, capsys):
    out = clips / "out"
    command = ["prep", "pack", "--manifest", str(clips / "answered.jsonl"), "--out", str(out)]
    assert main([*command, "--allow", "silent", "cancelled"]) == 0
    kept = {key for key, rule in expected().items() if rule in ("silent", "cancelled")}
    assert by_rule(out / "index.rejected.jsonl").keys() == expected().keys() - kept
    reader = IndexedReader(out)
    assert reader.index.file.rules == {"max_seconds": 30.0, "allow": ["cancelled", "silent"]}
    assert reader.doubtful is None
    assert main(command) == 2
    assert "--max-seconds or --allow: name another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wave", "allowed", "rule"), [(PAIR, "cancelled", "silent"), (SINE * 32_768, "scale", "clipped")]
)
def test_a_rule_that_is_lifted_hides_no_other(tmp_path, wave, allowed, rule):
    """Channels that cancel wholly leave silence; integers taken for floats leave a clip at full scale."""
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    levels = decode.examine(tmp_path / "a.wav")
    assert Rules().fault(levels).startswith(f"{allowed}: ")
    assert Rules(allow=(allowed,)).fault(levels).startswith(f"{rule}: ")
    assert Rules(allow=(allowed, rule)).fault(levels) is None


@pytest.mark.parametrize("subtype", ["PCM_U8", "ULAW", "ALAW", "PCM_24", "FLOAT"])
def test_clipping_is_known_in_encodings_whose_highest_sample_is_below_1(tmp_path, subtype):
    for wave, rule in ((np.clip(SINE * 6, -1, 1), "clipped"), (SINE, None)):
        soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype=subtype)
        for levels in (decode.examine(tmp_path / "a.wav"), decode.measured_pcm16(tmp_path / "a.wav")[1]):
            assert (Rules().fault(levels) or "").partition(":")[0] == (rule or "")
            assert levels.clipped > 6_000 or not rule  # of 8,000, above and below


@pytest.mark.parametrize("wave", [PAIR * 1e30, np.where(np.abs(PAIR) > 0.4, np.copysign(np.inf, PAIR), PAIR)])
def test_what_is_beyond_floating_point_is_named_without_a_warning(tmp_path, wave, recwarn):
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    for read_it in (decode.examine, lambda path: decode.measured_pcm16(path)[1]):
        try:
            assert Rules().fault(read_it(tmp_path / "a.wav")).startswith("scale: ")
        except decode.AudioError as error:
            assert "not finite" in str(error)
    assert not recwarn


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a", "a.flac"])
def test_a_file_without_a_byte_is_empty(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(decode.AudioError, match="the file is empty"):
        decode.examine(tmp_path / name)


def test_shards_that_no_rule_has_judged_are_read_and_their_audio_is_named(clips, capsys):
    pack(clips / "answered.jsonl", clips / "out", rules=Rules(allow=("silent", "cancelled", "clipped")))
    index = json.loads((clips / "out" / "index.json").read_text())
    (clips / "out" / "index.json").write_text(json.dumps({k: v for k, v in index.items() if k != "rules"}))
    reader, other = IndexedReader(clips / "out"), IndexedReader(clips / "out")
    for number in [*range(len(reader)), *range(len(reader))]:  # two epochs
        reader[number]
    assert reader.doubtful.summary == "clipped 2, silent 6"  # of mono, what cancelled is near to silence or is it
    said = capsys.readouterr().err
    reason = "all its samples are alike, but for rounding or dither"
    assert said.count("silent: ") == 1 and f"sample clip0: silent: {reason}; it is kept" in said
    other[0]
    assert Doubtful.merged([reader.doubtful, other.doubtful]).summary == "clipped 2, silent 6"


def test_a_stream_names_the_audio_that_no_rule_would_keep(clips, capsys):
    pack(clips / "answered.jsonl", clips / "out", rules=Rules(allow=("silent",)))
    reader = StreamReader(str(clips / "out"), seed=0, rank=0, world_size=1, buffer=1, skip=False)
    assert len(list(islice(reader.samples(30), 2 * len(USABLE) + 10))) == 2 * len(USABLE) + 10
    assert reader.doubtful.summary == "silent 5" and "silent: all its samples are alike" in capsys.readouterr().err


def lines(frames, rate):
    """A file of so many frames, of noise: its length alone matters."""
    return np.random.default_rng(0).uniform(-0.1, 0.1, frames).astype(np.float32)


@given(st.integers(1, 60_000), st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 44_056, 48_000]))
@settings(max_examples=40)
def test_the_length_is_that_of_the_resampled_audio(frames, rate):
    levels = Levels(rate, 1).add(lines(frames, rate))
    assert levels.samples == len(soxr.resample(lines(frames, rate), rate, 16_000))


def reader_of(seconds: int) -> SpeechReader:
    """A reader that takes audio up to that length."""
    reader = SpeechReader.__new__(SpeechReader)
    reader.longest_seconds = seconds
    return reader


@pytest.mark.parametrize(
    ("frames", "rate", "fits"),
    [(1_323_001, 44_100, True), (1_323_002, 44_100, False), (240_001, 8_000, False), (1_440_002, 48_000, False)],
)
def test_what_ingest_and_pack_take_is_what_training_takes(tmp_path, frames, rate, fits):
    """Of about 30 s, by the commands' own limit."""
    soundfile.write(tmp_path / "a.flac", lines(frames, rate), rate)
    (tmp_path / "own.jsonl").write_text('{"id": "a", "audio": "a.flac", "text": "hi"}\n')
    main(["prep", "ingest", "jsonl", "--root", str(tmp_path / "own.jsonl"), "--out", str(tmp_path / "ingested.jsonl")])
    write_manifest(tmp_path / "m.jsonl", [record("a", tmp_path / "a.flac")])
    main(["prep", "pack", "--manifest", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "out")])
    ingested, packed = (tmp_path / "ingested.jsonl").exists(), (tmp_path / "out" / "index.json").exists()
    try:
        reader_of(30).check_audio([decode.load(tmp_path / "a.flac")], "")
        trains = True
    except UserError:
        trains = False
    assert (ingested, packed, trains) == (fits, fits, fits)


@pytest.mark.parametrize(("frames", "fits"), [(44_100, True), (44_101, True), (44_102, False)])
def test_one_limit_is_measured_in_one_way(tmp_path, frames, fits):
    """A window of 1 s at 44.1 kHz, as 1,323,002 frames are to one of 30 s."""
    soundfile.write(tmp_path / "a.wav", lines(frames, 44_100), 44_100)
    (tmp_path / "own.jsonl").write_text('{"id": "a", "audio": "a.wav", "text": "hi"}\n')
    listing, out = tmp_path / "own.jsonl", tmp_path / "own.manifest.jsonl"
    if fits:
        assert ingest("jsonl", listing, out, max_seconds=1.0).count == 1
    else:
        with pytest.raises(UserError, match=r"no usable record, the first of 1: a: .*16,001 samples"):
            ingest("jsonl", listing, out, max_seconds=1.0)
    write_manifest(tmp_path / "m.jsonl", [record("a", tmp_path / "a.wav")])
    if fits:
        pack(tmp_path / "m.jsonl", tmp_path / "out", rules=Rules(1.0))
    else:
        with pytest.raises(UserError, match=r"a: long: 16,001 samples at 16 kHz, more than 1 s"):
            pack(tmp_path / "m.jsonl", tmp_path / "out", rules=Rules(1.0))
    waveform = decode.load(tmp_path / "a.wav")
    if fits:
        reader_of(1).check_audio([waveform], "")
    else:
        with pytest.raises(UserError, match="exceeds the model's window of 1 s"):
            reader_of(1).check_audio([waveform], "")


@pytest.mark.parametrize("policy", ["truncate", "split"])
@pytest.mark.parametrize("limit", [1.0, 0.7, 0.33336])
def test_what_is_cut_fits(tmp_path, policy, limit, capsys):
    for rate in (11_025, 22_050, 44_100):
        soundfile.write(tmp_path / f"{rate}.wav", lines(round(2.0001 * rate), rate), rate)
    rows = [{"id": str(rate), "audio": f"{rate}.wav", "text": "hi"} for rate in (11_025, 22_050, 44_100)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["prep", "ingest", "jsonl", "--root", str(tmp_path / "own.jsonl"), "--out", str(tmp_path / "m.jsonl")]
    assert main([*command, "--max-seconds", str(limit), "--too-long", policy]) == 0
    answered = [
        {**row, "messages": record("x", tmp_path / "x")["messages"], "response": "Yes.",
         "audios": [{**entry, "path": str(tmp_path / entry["path"])} for entry in row["audios"]]}
        for row in read(tmp_path / "m.jsonl")
    ]  # fmt: skip
    write_manifest(tmp_path / "answered.jsonl", answered)
    pack(tmp_path / "answered.jsonl", tmp_path / "out", rules=Rules(limit))
    assert not (tmp_path / "out" / "index.rejected.jsonl").exists()


def test_a_part_that_lies_beyond_its_file_is_rejected(tmp_path):
    tone(tmp_path / "a.wav", 300, 1.0)
    with pytest.raises(decode.AudioError, match=r"only 0\.50 of 1\.00 s are there"):
        decode.load(tmp_path / "a.wav", 0.5, 1.0)
    for read_it in (decode.load, decode.measured_pcm16):
        with pytest.raises(decode.AudioError, match="a part from 2 s on begins after the end of its file"):
            read_it(tmp_path / "a.wav", 2.0, 1.0)


def test_the_levels_of_blocks_are_those_of_the_whole():
    rng = np.random.default_rng(1)
    wave = rng.normal(0, 0.6, (10_000, 2)).astype(np.float32)
    whole, parts = Levels(16_000, 2), Levels(16_000, 2)
    whole.add(wave, wave.mean(1))
    for block in np.split(wave, [1, 17, 5_000]):
        parts.add(block, block.mean(1))
    assert (whole.peak, whole.low, whole.high, whole.clipped, whole.frames) == (
        parts.peak, parts.low, parts.high, parts.clipped, parts.frames)  # fmt: skip
    assert_close(parts.power, whole.power, 800)
    assert_close(parts.mono_power, whole.mono_power, 400)
    assert len(whole.low) == len(whole.power) == 10_000 / 400
    assert faults(whole) == faults(parts)
    pcm = pcm16.to_pcm16(wave[:, 0])
    assert Levels(16_000, 1).add(pcm).clipped == Levels(16_000, 1).add(pcm / np.float32(32_768)).clipped


@pytest.mark.parametrize(
    "kind", [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("FLAC", "PCM_24"), ("WAV", "PCM_U8")]
)
def test_silence_is_known_in_whatever_format(tmp_path, kind):
    soundfile.write(tmp_path / "a", np.zeros(16_000), 16_000, format=kind[0], subtype=kind[1])
    assert Rules().fault(decode.examine(tmp_path / "a")).startswith("silent: all its samples are alike")


@pytest.mark.parametrize(("subtype", "steps"), [("PCM_16", 1), ("PCM_U8", 256), ("ULAW", 8), ("ALAW", 8)])
def test_silence_is_known_by_the_steps_of_an_encoding(tmp_path, subtype, steps):
    """Its lowest bit in motion is silence, and a few more are not."""
    noise = np.random.default_rng(0).integers(-1, 2, 16_000) * steps
    for loud, expected in ((1, "silent"), (3, "")):
        soundfile.write(tmp_path / "a.wav", (noise * loud).astype("<i2"), 16_000, subtype=subtype)
        assert (Rules().fault(decode.examine(tmp_path / "a.wav")) or "").partition(":")[0] == expected


@pytest.mark.parametrize("level", [-20, -50, -65])
def test_quiet_speech_and_that_of_two_microphones_is_usable(tmp_path, level):
    pytest.importorskip("espeakng_loader")
    speech = speak("The meeting begins at nine, and nobody has told the others.", "en-us", 170, 50)
    speech *= 10 ** (level / 20) / np.sqrt(np.mean(np.square(speech)))
    room = np.random.default_rng(0).normal(0, 1e-4, (2, len(speech)))
    for late in (0, 3, 20, 60):  # samples by which the second microphone hears it later
        pair = np.stack([speech, 0.7 * np.roll(speech, late)]) + room
        soundfile.write(tmp_path / "a.wav", pair.T, 16_000)
        assert Rules().fault(decode.examine(tmp_path / "a.wav")) is None
    soundfile.write(tmp_path / "a.wav", speech, 16_000)
    assert Rules().fault(decode.examine(tmp_path / "a.wav")) is None
