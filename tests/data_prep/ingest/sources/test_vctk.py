"""VCTK 0.92: ragged columns, two microphones, speakers without texts."""

import pytest

INFO = """ID  AGE  GENDER  ACCENTS  REGION COMMENTS 
p225  23  F    English    Southern  England
p261  26  F    NorthernIrish    Belfast
p280  25  F    Unknown    France (mic2 files unavailable)
p315  18  M    American    New  England (Text and mic2 files unavailable)
p326  26  M    Australian  English    Sydney
p362  29  F    American 
"""


@pytest.fixture
def vctk(corpus):
    corpus("speaker-info.txt", INFO)
    corpus("wav48_silence_trimmed/log.txt", "how the silences were cut")
    for speaker in ("p225", "p261", "p280", "p326", "p362"):
        corpus(f"wav48_silence_trimmed/{speaker}/{speaker}_001_mic1.flac")
        corpus(f"txt/{speaker}/{speaker}_001.txt", "Please call Stella.\n")
    corpus("wav48_silence_trimmed/p225/p225_001_mic2.flac")
    return corpus


def test_every_utterance_has_its_speakers_attributes(vctk, ingest):
    found = ingest("vctk")
    assert not found.rejected
    metadata = {name: record["metadata"] for name, record in found.records.items()}
    known = {"speaker": "p225", "gender": "female", "age": "23", "accent": "english", "region": "Southern England"}
    assert metadata.pop("p225_001") == known
    assert metadata["p261_001"]["accent"] == "northern irish"
    assert metadata["p280_001"] == {"speaker": "p280", "gender": "female", "age": "25", "region": "France"}
    assert metadata["p326_001"]["accent"] == "australian" and metadata["p326_001"]["region"] == "Sydney"
    assert metadata["p362_001"]["accent"] == "american" and "region" not in metadata["p362_001"]
    (audio,) = found.records["p225_001"]["audios"]
    assert audio["text"] == "Please call Stella." and audio["path"].endswith("p225_001_mic1.flac")


def test_what_lacks_a_text_a_recording_or_a_speaker_is_rejected(tmp_path, vctk, ingest):
    vctk("wav48_silence_trimmed/p315/p315_001_mic1.flac")
    vctk("txt/p362/p362_002.txt", "It has no recording.")
    vctk("txt/p225/p225_002.txt", " \n")
    vctk("wav48_silence_trimmed/p225/p225_002_mic1.flac")
    vctk("wav48_silence_trimmed/p225/p225_003_mic1.flac")
    (tmp_path / "corpus/txt/p225/p225_003.txt").symlink_to("nowhere.txt")
    vctk("txt/p999/p999_001.txt", "Nobody knows me.")
    vctk("wav48_silence_trimmed/p999/p999_001_mic1.flac")
    found = ingest("vctk")
    assert len(found.records) == 5
    assert set(found.rejected) == {"p315_001", "p362_002", "p225_002", "p225_003", "p999_001"}
    assert "no transcription" in found.rejected["p315_001"] and "no transcription" in found.rejected["p225_002"]
    assert "no transcription" in found.rejected["p225_003"]
    assert "no p362_002_mic1.flac" in found.rejected["p362_002"]
    assert "no line for speaker p999" in found.rejected["p999_001"]


def test_a_broken_line_of_the_speakers_is_named(vctk, ingest):
    vctk("speaker-info.txt", INFO.replace("23  F ", "23    "))
    found = ingest("vctk")
    assert "it is no line 'ID AGE GENDER ACCENT REGION'" in found.reason("speaker-info.txt line 2")
    assert "no line for speaker p225" in found.rejected["p225_001"] and len(found.records) == 4


def test_another_folder_is_refused(corpus, refused):
    corpus("p225/p225_001_mic1.flac")
    assert "wav48_silence_trimmed does not exist: --root names" in refused("vctk")
