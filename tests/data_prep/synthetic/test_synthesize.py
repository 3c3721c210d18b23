"""The demo's corpus: deterministic, disjoint, never cut, independent attributes."""

import numpy as np
import pytest
import soundfile

from caad_ds.utils.errors import UserError
from data_prep.synthetic import synthesize as command
from data_prep.synthetic.background_noise import background, scaled_to
from data_prep.synthetic.espeak import speak
from data_prep.synthetic.sentences import SLOTS, bucket, sentence
from data_prep.synthetic.speech_clips import MAX_SECONDS, SPLITS, Difficulty
from tests.data_prep.lines import read
from tests.tolerance import decibels

SIZES = ("--teacher", 12, "--distill", 8, "--validation", 2, "--test", 8)


def corpus_bytes(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    for name, size in zip(SIZES[::2], SIZES[1::2], strict=True):
        command.synthesize(root, name.removeprefix("--"), size, seed=3, workers=2)
    return root


def test_corpus_does_not_depend_on_the_number_of_workers(corpus, tmp_path, prep):
    assert prep(command, "--root", tmp_path, "--seed", 3, "--workers", 1, *SIZES) == 0
    assert corpus_bytes(tmp_path) == corpus_bytes(corpus)


def test_clips_are_16_khz_pcm_and_never_too_long(corpus):
    for row in read(corpus / "teacher" / "metadata.jsonl"):
        info = soundfile.info(corpus / "teacher" / row["audio"])
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert info.duration == pytest.approx(row["duration"], abs=1e-4)  # the metadata has tenths of a millisecond
        assert info.duration <= MAX_SECONDS


def test_values_lie_in_the_ranges_of_their_attribute(corpus):
    difficulty = Difficulty()
    for row in read(corpus / "teacher" / "metadata.jsonl"):
        low, high = getattr(difficulty, row["speaking_rate"])
        assert low <= row["words_per_minute"] <= high
        low, high = getattr(difficulty, row["noise"])
        assert low <= row["snr_db"] <= high
        assert row["voice"] in getattr(SPLITS["teacher"], row["gender"])


def test_splits_share_neither_voices_nor_sentences(corpus):
    voices = [set(split.female + split.male) for split in SPLITS.values()]
    shares = [set(split.share) for split in SPLITS.values()]
    for parts in (voices, shares):
        assert sum(map(len, parts)) == len(set().union(*parts))
    for name, split in SPLITS.items():
        assert all(bucket(row["text"]) in split.share for row in read(corpus / name / "metadata.jsonl"))


def test_finished_split_is_left_alone_and_one_with_other_settings_is_made_again(tmp_path):
    command.synthesize(tmp_path, "test", 2, workers=1)
    before = (tmp_path / "test" / "metadata.jsonl").stat().st_mtime_ns
    command.synthesize(tmp_path, "test", 2, workers=1)
    assert (tmp_path / "test" / "metadata.jsonl").stat().st_mtime_ns == before
    command.synthesize(tmp_path, "test", 1, workers=1)
    assert [path.name for path in (tmp_path / "test").glob("*.wav")] == ["test-00000.wav"]


def test_broken_settings_are_named(tmp_path):
    for name, text in (("metadata.jsonl", ""), ("settings.json", "{")):
        (tmp_path / "test").mkdir(exist_ok=True)
        (tmp_path / "test" / name).write_text(text)
    with pytest.raises(UserError, match=r"test/settings\.json: cannot be read as JSON .* remove .*/test to make"):
        command.synthesize(tmp_path, "test", 1)


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match="no split of the demo"):
        command.synthesize(tmp_path, "test", 1)
    assert (tmp_path / "test" / "mine.txt").exists()


def test_speech_depends_on_voice_and_rate_only_not_on_what_was_said_before():
    first = speak("the dog finds bread", "en-us+f3", 160, 50)
    slower = speak("the dog finds bread", "en-us+f3", 120, 50)
    np.testing.assert_array_equal(first, speak("the dog finds bread", "en-us+f3", 160, 50))
    assert len(slower) > 1.2 * len(first)
    assert not np.array_equal(first, speak("the dog finds bread", "en-gb-scotland+f3", 160, 50))


def test_every_voice_says_the_same_in_any_order():
    voices = [variant for split in SPLITS.values() for variant in split.female + split.male]
    said = {voice: speak("my dog finds a cake", f"en-us+{voice}", 200, 50).tobytes() for voice in voices}
    again = {voice: speak("my dog finds a cake", f"en-us+{voice}", 200, 50).tobytes() for voice in reversed(voices)}
    assert [voice for voice in voices if said[voice] != again[voice]] == []


def test_unknown_voice_is_refused():
    with pytest.raises(RuntimeError, match="no-such-language"):
        speak("the dog", "no-such-language", 160, 50)


@pytest.mark.parametrize("snr_db", [0.0, 12.5])
def test_noise_has_the_power_that_the_ratio_asks_for(snr_db):
    rng = np.random.default_rng(0)
    speech = rng.standard_normal(16_000) * 0.03
    noise = scaled_to(background(rng, 20_000), speech, snr_db)
    assert 10 * np.log10(np.mean(speech**2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=decibels(len(speech)))


def test_sentences_have_the_length_asked_for_and_name_no_attribute():
    rng = np.random.default_rng(0)
    words = {word for slot in SLOTS.values() for word in slot.split()}
    assert not words & {"male", "female", "slow", "fast", "clean", "noisy", "american", "british", "scottish"}
    for length in (4, 5, 6):
        text = sentence(rng, length, range(40))
        assert len(text.split()) == length and set(text.split()) <= words
