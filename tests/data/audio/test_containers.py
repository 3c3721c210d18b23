"""What libsndfile does not read: AAC and others, by PyAV, which makes the test's files too."""

import builtins
import json

import numpy as np
import pytest
import soundfile

from caad_ds.cli import main
from caad_ds.data.audio.decode import AudioError, examine, load, measured_pcm16

av = pytest.importorskip("av")
RATE = 16_000


def speech(frames, rate):
    """Noise in bursts, of which every moment is known."""
    rng = np.random.default_rng(0)
    smooth = np.convolve(rng.normal(0, 1, frames + 31), np.hanning(32), "valid")[:frames]
    return (0.1 * smooth * (np.arange(frames) // (rate // 10) % 2 + 0.2)).astype(np.float32)


def write(path, wave, rate, codec="aac", kind=None, options=None, streams=1, picture=False, video=False):
    """A file of one wave, in each of its audio streams."""
    with av.open(str(path), "w", format=kind, options=options or {}) as file:
        if video:
            shown = file.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        made = [file.add_stream(codec, rate=rate, layout="mono") for _ in range(streams)]
        for stream in made:
            stream.bit_rate = 12_200 if codec == "amr_nb" else 64_000
        if video:
            for number in range(5):
                image = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * number, np.uint8), format="rgb24")
                file.mux(shown.encode(image))
            file.mux(shown.encode(None))
        for stream in made:
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            to = av.AudioResampler(stream.codec_context.format.name, "mono", rate)
            for part in to.resample(frame):
                file.mux(stream.encode(part))
            file.mux(stream.encode(None))
    return path


def offset(found, wave):
    """Return the delay in samples of the decoded audio against the original."""
    size = 1 << (len(wave) + len(found)).bit_length()
    product = np.fft.irfft(np.fft.rfft(found, size) * np.fft.rfft(wave, size).conj(), size)
    return int(((product.argmax() + size // 2) % size) - size // 2)


EXACT = [
    ("a.m4a", "aac", "ipod", {}), ("fast.m4a", "aac", "ipod", {"movflags": "faststart"}), ("a.mp4", "aac", "mp4", {}),
    ("a.mov", "aac", "mov", {}), ("a.3gp", "aac", "3gp", {}), ("lossless.m4a", "alac", "ipod", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "codec", "kind", "options"), EXACT, ids=[case[0] for case in EXACT])
@pytest.mark.parametrize("frames", [16_000, 32_777, 5_000])
def test_what_is_read_is_what_was_written(tmp_path, name, codec, kind, options, frames):
    """Neither the encoder's delay is there nor what fills its last frame."""
    wave = speech(frames, RATE)
    path = write(tmp_path / name, wave, RATE, codec, kind, options)
    found = load(path)
    assert len(found) == frames and abs(offset(found, wave)) <= 1
    assert examine(path).seconds == frames / RATE and len(measured_pcm16(path)[0]) == frames
    part = load(path, 0.1, 0.15)
    np.testing.assert_array_equal(part, found[1_600:4_000])
    with open(path, "rb") as file:
        np.testing.assert_array_equal(load(file), found)


@pytest.mark.parametrize("rate", [16_000, 48_000])
@pytest.mark.parametrize("kind", ["webm", "matroska"])
def test_opus_in_matroska_is_exact(tmp_path, rate, kind):
    wave = speech(2 * rate + rate // 7, rate)
    found = load(write(tmp_path / "a.webm", wave, rate, "libopus", kind))
    assert len(found) == round(len(wave) * RATE / rate)
    assert abs(offset(found, load_wave(tmp_path, wave, rate))) <= 1


def load_wave(folder, wave, rate):
    soundfile.write(folder / "plain.wav", wave, rate)
    return load(folder / "plain.wav")


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
INEXACT = [
    ("aac", "adts", 16_000, {}), ("aac", "matroska", 16_000, {}), ("aac", "mp4", 16_000, FRAGMENTS),
    ("wmav2", "asf", 44_100, {}), ("amr_nb", "amr", 8_000, {}),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "kind", "rate", "options"), INEXACT, ids=[case[1] for case in INEXACT])
def test_what_does_not_say_how_much_its_encoder_added_is_read_with_it(tmp_path, codec, kind, rate, options):
    wave = speech(2 * rate, rate)
    path = write(tmp_path / "a", wave, rate, codec, kind, options)
    assert 2.0 - 1_024 / rate <= examine(path).seconds <= 2.0 + 3 * 2_048 / rate
    found = load(path)
    lag = offset(found, load_wave(tmp_path, wave, rate))
    assert (0 if kind != "asf" else -744) <= lag <= 2_048 * RATE / rate  # FFmpeg drops the first frame of WMA


def test_the_sound_of_a_film_is_read(tmp_path):
    wave = speech(8_000, RATE)
    path = write(tmp_path / "a.mp4", wave, RATE, kind="mp4", video=True)
    assert len(load(path)) == 8_000 and abs(offset(load(path), wave)) <= 1


@pytest.mark.parametrize(("streams", "reason"), [(2, "2 audio streams"), (0, "no audio streams")])
def test_several_audio_streams_or_none_are_refused(tmp_path, streams, reason):
    path = write(tmp_path / "a.mp4", speech(8_000, RATE), RATE, kind="mp4", video=True, streams=streams)
    with pytest.raises(AudioError, match=reason):
        load(path)


CUT = [("fast", "ipod", {"movflags": "faststart"}), ("a", "ipod", {}), ("a", "webm", {}), ("a", "matroska", {})]


@pytest.mark.parametrize(("name", "kind", "options"), CUT)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_file_that_is_cut_is_an_error(tmp_path, name, kind, options, share):
    wave = speech(4 * 48_000, 48_000)
    path = write(tmp_path / name, wave, 48_000, "libopus" if kind == "webm" else "aac", kind, options)
    data = path.read_bytes()
    path.write_bytes(data[: round(share * len(data))])
    for read_it in (examine, load, measured_pcm16):
        with pytest.raises(AudioError):
            read_it(path)


def test_without_pyav_the_error_names_the_extra(tmp_path, monkeypatch):
    path = write(tmp_path / "a.m4a", speech(8_000, RATE), RATE, kind="ipod")
    plain = builtins.__import__

    def without(name, *rest):
        if name == "av":
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(AudioError, match=r"an MP4 or QuickTime file, which needs PyAV: pip install 'caad-ds\[audio\]'"):
        load(path)


def test_a_playlist_is_not_followed(tmp_path):
    write(tmp_path / "a.m4a", speech(8_000, RATE), RATE, kind="ipod")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\na.m4a\n#EXT-X-ENDLIST\n")
    with pytest.raises(AudioError, match=r"^Format not recognised$"):
        load(tmp_path / "list.m3u8")


def test_an_m4a_is_ingested(tmp_path):
    write(tmp_path / "a.m4a", speech(20_000, RATE), RATE, kind="ipod")
    (tmp_path / "own.jsonl").write_text('{"id": "a", "audio": "a.m4a"}\n')
    assert (
        main(["prep", "ingest", "jsonl", "--root", str(tmp_path / "own.jsonl"), "--out", str(tmp_path / "m.jsonl")])
        == 0
    )
    assert json.loads((tmp_path / "m.jsonl").read_text())["audios"][0]["duration"] == 1.25
