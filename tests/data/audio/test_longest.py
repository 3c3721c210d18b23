"""Audio that lasts longer than it may is refused before it is decoded, whatever its header says."""

import io
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr

from caad_ds.data.audio import decode
from caad_ds.data.audio.decode import AudioError, measured

RATE = 16_000


def written(samples: np.ndarray, rate: int = RATE, format: str = "WAV", subtype: str | None = None) -> io.BytesIO:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF"])
def test_the_longest_is_taken_and_more_is_not(format):
    rng = np.random.default_rng(0)
    file = written(0.1 * rng.standard_normal(2 * RATE), format=format)
    seconds = len(measured(file)[0]) / RATE
    for limit in (seconds, seconds + 1):
        file.seek(0)
        assert len(measured(file, longest=limit)[0]) == seconds * RATE
    file.seek(0)
    with pytest.raises(AudioError, match=f"it lasts more than {seconds - 0.01:g} s"):
        measured(file, longest=seconds - 0.01)


@pytest.mark.parametrize("claims", [True, False])
@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_a_container_is_read_no_further(tmp_path, kind, claims, monkeypatch):
    av = pytest.importorskip("av")
    from caad_ds.data.audio.containers import Container

    path = tmp_path / f"a.{kind}"
    with av.open(str(path), "w", format=kind) as file:
        stream = file.add_stream("aac" if kind == "mp4" else "libopus", rate=48_000, layout="mono")
        for second in range(30):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 48_000), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48_000, 48_000 * second
            to = av.AudioResampler(stream.codec_context.format.name, "mono", 48_000)
            for block in to.resample(frame):
                file.mux(stream.encode(block))
        file.mux(stream.encode(None))
    data = path.read_bytes()
    assert len(measured(io.BytesIO(data), longest=31)[0]) > 29 * RATE
    read: list[int] = []
    own = Container.read
    monkeypatch.setattr(Container, "read", lambda self, frames, dtype: read.append(frames) or own(self, frames))
    if not claims:
        monkeypatch.setattr(Container, "_claimed", lambda self: None)
    with pytest.raises(AudioError, match="it lasts more than 2 s"):
        measured(io.BytesIO(data), longest=2)
    assert (not read) == claims and sum(read) <= 2 * 48_000 + 3


def test_hours_of_silence_take_no_memory():
    file = written(np.zeros(3600 * RATE, np.int16), format="FLAC")
    tracemalloc.start()
    try:
        with pytest.raises(AudioError, match="it lasts more than 30 s"):
            measured(file, longest=30)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("rate", "channels"), [(192_000, 2), (391, 1000)])
def test_memory_follows_the_samples_that_are_kept(rate, channels):
    """A minute of 192 kHz in stereo takes 92 MB, at 16 kHz in mono 3.8 MB."""
    seconds = 60 if rate > RATE else 20
    file = written(np.zeros((seconds * rate, channels), np.int16), rate, "FLAC" if channels < 8 else "WAV")
    tracemalloc.start()
    try:
        assert len(measured(file, longest=seconds)[0]) == seconds * RATE
        assert tracemalloc.get_traced_memory()[1] < 2 * 4 * seconds * RATE + (20 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rate", [8000, RATE, 44_100, 48_000])
def test_blocks_change_no_sample(rate, monkeypatch):
    samples = 0.1 * np.random.default_rng(0).standard_normal((3 * rate, 2)).astype(np.float32)
    file = written(samples, rate, subtype="FLOAT")
    whole, levels = measured(file)
    monkeypatch.setattr(decode, "READ_VALUES", 7001)
    file.seek(0)
    blocks, same = measured(file)
    assert np.array_equal(blocks, whole) and same.peak == levels.peak and same.high == levels.high
    mono = samples.sum(1) / np.float32(2)
    assert np.array_equal(whole, mono if rate == RATE else soxr.resample(mono, rate, RATE))


def test_a_second_of_too_many_values_is_refused():
    file = written(np.zeros((1000, 8)), 96_000)
    with pytest.raises(AudioError, match=r"8 channels at 96000 Hz are more than 400,000 values a second"):
        measured(file, longest=30)
    file.seek(0)
    assert len(measured(file)[0])
