"""Files that were cut, damaged or left by a killed recorder: what their headers say and what bytes they hold."""

import struct

import numpy as np
import pytest
import soundfile

from caad_ds.data.audio import decode, pcm16


def wav(data, riff=None, size=None, after=b"", order="<"):
    """A WAV of 16 kHz mono 16-bit samples, whose lengths may be said otherwise."""
    form = struct.pack(f"{order}4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    head = struct.pack(f"{order}4sI", b"data", len(data) if size is None else size)
    body = b"WAVE" + form + head + data + after
    return struct.pack(f"{order}4sI", b"RIFF" if order == "<" else b"RIFX", len(body) if riff is None else riff) + body


SECOND = np.random.default_rng(2).integers(-9_000, 9_000, 16_000, dtype="<i2")
NOTE = b"LIST" + struct.pack("<I", 4) + b"INFO"


@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF, None])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_the_wav_of_a_recorder_that_was_killed_is_read(tmp_path, riff, size):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(SECOND.tobytes(), riff, size))
    assert decode.examine(path).seconds == 1.0
    np.testing.assert_array_equal(decode.measured_pcm16(path)[0], SECOND)
    np.testing.assert_array_equal(decode.measured_pcm16(path, 0.25, 0.5)[0], SECOND[4_000:12_000])
    with open(path, "rb") as file:
        np.testing.assert_array_equal(pcm16.to_pcm16(decode.load(file)), SECOND)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("frames", [15_999, 16_000])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_chunks_behind_samples_of_unknown_length_are_no_samples(tmp_path, order, size, frames, width):
    subtype = {1: "PCM_U8", 2: "PCM_16", 3: "PCM_24"}[width]
    path, endian = tmp_path / "a.wav", {"<": "LITTLE", ">": "BIG"}[order]
    soundfile.write(path, SECOND[:frames], 16_000, subtype, endian)
    expected = decode.measured_pcm16(path)[0]
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    info = b"INFOISFT" + struct.pack(f"{order}I", 6) + b"Lavf58" + b"IART" + struct.pack(f"{order}I", 1) + b"x\0"
    note = b"LIST" + struct.pack(f"{order}I", len(info)) + info
    samples = data[at + 4 : at + 4 + frames * width]
    for after in (note, note + b"id3 " + struct.pack(f"{order}I", 10) + b"ID3" + bytes(7), b"TAG" + bytes(125)):
        padded = samples + b"\0" * (len(samples) % 2)
        path.write_bytes(data[:at] + struct.pack(f"{order}I", size) + padded + after)
        np.testing.assert_array_equal(decode.measured_pcm16(path)[0], expected)
        assert decode.examine(path).frames == frames


def test_big_endian_and_odd_bytes_of_a_killed_recorder(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(SECOND.astype(">i2").tobytes(), 0, 0, order=">"))
    np.testing.assert_array_equal(decode.measured_pcm16(tmp_path / "a.wav")[0], SECOND)
    (tmp_path / "b.wav").write_bytes(wav(SECOND.tobytes() + b"\0", 0, 0))
    np.testing.assert_array_equal(decode.measured_pcm16(tmp_path / "b.wav")[0], SECOND)


@pytest.mark.parametrize("kind", ["AIFF", "AU", "CAF", "FLAC"])
def test_lengths_that_other_formats_say_too_low_are_errors(tmp_path, kind):
    path = tmp_path / "a"
    soundfile.write(path, SECOND, 16_000, format=kind, subtype="PCM_16")
    whole = bytearray(path.read_bytes())
    np.testing.assert_array_equal(decode.measured_pcm16(path)[0], SECOND)
    place, width, value = {
        "AIFF": (whole.find(b"SSND") + 4, 4, 16_008),
        "AU": (8, 4, 16_000),
        "CAF": (whole.find(b"data") + 4, 8, 16_004),
        "FLAC": (22, 4, 8_000),
    }[kind]
    whole[place : place + width] = value.to_bytes(width)
    path.write_bytes(whole)
    for read_it in (decode.examine, decode.load, decode.measured_pcm16):
        with pytest.raises(decode.AudioError, match="was its recorder killed"):
            read_it(path)
    if kind == "FLAC":
        whole[place : place + width] = bytes(width)
        path.write_bytes(whole)
        with pytest.raises(decode.AudioError, match="a FLAC that does not say its length"):
            decode.load(path)


def test_lengths_that_are_right_are_believed(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(b"", after=NOTE))
    with pytest.raises(decode.AudioError, match="the audio is empty"):
        decode.load(path)
    for after in (NOTE, b"\0" + NOTE, b"TAG" + bytes(125), b"\0"):
        path.write_bytes(wav(SECOND.tobytes(), after=after))
        assert decode.examine(path).seconds == 1.0


def test_samples_that_go_on_after_the_header_says_are_reported(tmp_path):
    """A recorder that writes its header now and then."""
    (tmp_path / "a.wav").write_bytes(wav(SECOND.tobytes(), None, 8_000))
    for read_it in (decode.examine, decode.load, decode.measured_pcm16):
        with pytest.raises(decode.AudioError, match="8000 bytes of samples, 32000 follow: was its recorder killed"):
            read_it(tmp_path / "a.wav")


@pytest.mark.parametrize("subtype", ["WAV", "AIFF", "AU", "WAVEX", "RF64", "W64", "NIST", "SVX"])
def test_a_file_that_is_cut_is_not_read_in_part(tmp_path, subtype):
    path = tmp_path / "a"
    soundfile.write(path, SECOND, 16_000, format=subtype)
    assert decode.examine(path).seconds == 1.0
    path.write_bytes(path.read_bytes()[:-8_000])
    for read_it in (decode.examine, decode.load, decode.measured_pcm16):
        with pytest.raises(decode.AudioError, match=r"cut short: 0\.\d\d of 1\.00 s"):
            read_it(path)


@pytest.mark.parametrize("form", ["VOC", "AVR", "PAF", "IRCAM", "MAT5", "PVF"])
def test_a_form_of_which_a_cut_file_looks_whole_is_refused(tmp_path, form):
    soundfile.write(tmp_path / "a", SECOND, 16_000, format=form)
    for read_it in (decode.examine, decode.load, decode.measured_pcm16):
        with pytest.raises(decode.AudioError, match="of which a cut one looks whole; convert it"):
            read_it(tmp_path / "a")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "ULAW"])
def test_a_sphere_file_is_read_as_its_header_says(tmp_path, subtype):
    path = tmp_path / "a.sph"
    soundfile.write(path, np.stack([SECOND, SECOND], axis=1), 16_000, format="NIST", subtype=subtype)
    assert decode.examine(path).seconds == 1.0
    path.write_bytes(path.read_bytes() + bytes(8_000))
    with pytest.raises(decode.AudioError, match="was its recorder killed"):
        decode.examine(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_damaged_ogg_is_rejected(tmp_path, subtype):
    path = tmp_path / "a.ogg"
    soundfile.write(path, np.tile(SECOND, 5), 16_000, format="OGG", subtype=subtype)
    whole = path.read_bytes()
    assert decode.examine(path).seconds == pytest.approx(5.0, abs=0.01)  # an encoder may pad within a block
    last = whole.rindex(b"OggS")
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 1
    pages = [place for place in range(len(whole)) if whole.startswith(b"OggS", place)]
    without = whole[: pages[-2]] + whole[last:]
    for data, reason in (
        (bytes(middle), "its checksum differs"), (whole[: last - 9], "cut short"), (without, "pages are missing"),
        (whole + whole, "another stream begins"), (whole[: pages[2]] + b"????" + whole[pages[2] :], "no page begins"),
    ):  # fmt: skip
        path.write_bytes(data)
        for read_it in (decode.examine, decode.load):
            with pytest.raises(decode.AudioError, match=reason):
                read_it(path)
