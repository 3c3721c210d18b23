"""How long a clip is, and whether all of it is there."""

import numpy as np
import pytest
import soundfile

from caad_ds.data.audio.decode import AudioError, examine


@pytest.mark.parametrize("subtype", ["WAV", "AIFF", "AU", "FLAC"])
def test_a_file_that_is_cut_short_is_rejected_and_one_without_padding_is_not(tmp_path, subtype):
    path = tmp_path / "a"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, 320_000), 16_000, format=subtype)
    assert examine(path).seconds == 20.0
    whole = path.read_bytes()
    path.write_bytes(whole[: round(0.98 * len(whole))])
    with pytest.raises(AudioError, match=r"cut short|lost sync"):
        examine(path)
    if subtype != "FLAC":  # whose last frame is lost as a whole
        path.write_bytes(whole[:-40])
        assert examine(path).seconds == pytest.approx(20.0, abs=0.01)  # 40 bytes are at most 1.3 ms


@pytest.mark.parametrize("claimed", [0x7FFFF000, 0x80000000 - 44, 0xFFFFFFFF])
def test_a_wav_that_was_piped_is_whole(tmp_path, tone, claimed):
    """What sox and eSpeak, arecord, and ffmpeg write as the length where they cannot go back to it."""
    path = tone("piped.wav")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = claimed.to_bytes(4, "little")
    path.write_bytes(data)
    assert examine(path).seconds == pytest.approx(1.2)


@pytest.mark.parametrize(("loud_first", "reason"), [(True, "it continues after"), (False, "or it is an MP3 that")])
def test_an_mp3_whose_length_is_a_guess_is_not_cut_silently(tmp_path, loud_first, reason):
    """libsndfile extrapolates from the bit rate of the first frame; the table that LAME writes is more exact."""
    path = tmp_path / "a.mp3"
    wave = np.random.default_rng(0).uniform(-0.3, 0.3, 256_000) * (np.arange(256_000) < 128_000)
    kind = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.3}
    with soundfile.SoundFile(path, "w", 16_000, 1, **kind) as file:
        file.write(wave if loud_first else wave[::-1])
    assert examine(path).seconds == pytest.approx(16.0)
    data = path.read_bytes()
    path.write_bytes(data[data.index(data[:2], 2) :])  # without the first frame, which holds the table
    with pytest.raises(AudioError, match=reason):
        examine(path)
