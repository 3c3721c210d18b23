"""AccentDB: accent and speaker are the names of folders."""


def test_a_clip_is_recognised_by_its_folders(corpus, ingest):
    corpus("data/british/speaker_01/british_s01_176.wav")
    corpus("data/bangla/speaker_02/bangla_s02_001.wav")
    corpus("data/.DS_Store", "x")
    corpus("data/bangla/speaker_02/._bangla_s02_001.wav", "of macOS")
    found = ingest("accentdb")
    assert list(found.records) == ["bangla_s02_001", "british_s01_176"] and not found.rejected
    assert found.records["bangla_s02_001"]["metadata"] == {"accent": "bangla", "speaker": "bangla_speaker_02"}
    assert found.records["british_s01_176"]["audios"][0]["text"] == ""


def test_what_is_out_of_place_or_broken_is_rejected(corpus, ingest):
    corpus("data/welsh/speaker_01/welsh_s01_001.wav")
    corpus("data/welsh/welsh_s02_001.wav")
    noise = corpus("data/welsh/speaker_01/welsh_s01_002.wav", "noise")
    (noise.parent / "welsh_s01_003.wav").symlink_to("nowhere.wav")
    (noise.parent / "welsh_s01_004.wav").symlink_to(corpus("../outside.wav"))
    found = ingest("accentdb")
    assert list(found.records) == ["welsh_s01_001"]
    assert "in no speaker's folder" in found.rejected["welsh_s02_001"]
    assert "does not decode" in found.rejected["welsh_s01_002"]
    assert "no such file" in found.rejected["welsh_s01_003"]
    assert "a link that leads out of the root" in found.rejected["welsh_s01_004"]


def test_another_folder_is_refused(corpus, refused):
    corpus("british/speaker_01/british_s01_001.wav")
    assert "data does not exist: --root names the folder" in refused("accentdb")
