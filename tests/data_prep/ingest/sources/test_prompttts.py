"""PromptSpeech: a table of style prompts over LibriTTS."""

import pytest

HEADER = "item_name,spk_id,gender,pitch,speaking_speed,energy,style_prompt\n"
ROW = '1089_134686_000003_000000,1089,M,low,slow,high,"A man speaks loudly, slowly and deep."\n'


@pytest.fixture
def clip(corpus):
    def write(subset: str, name: str, text: str | None) -> None:
        speaker, chapter, *_ = name.split("_")
        stem = f"LibriTTS/{subset}/{speaker}/{chapter}/{name}"
        corpus(f"{stem}.wav")
        if text is not None:
            corpus(f"{stem}.normalized.txt", text)

    return write


def test_a_line_of_the_table_finds_its_clip(corpus, clip, ingest):
    corpus("Real_training.csv", "\ufeff" + HEADER + ROW)
    corpus("Real_test.csv", HEADER + "84_121123_000007_000001,84,F,high,fast,normal,Her voice is high.\n")
    corpus("LibriTTS/README_librispeech.txt", "x")
    clip("test-clean", "1089_134686_000003_000000", "He hoped there would be stew.\n")
    clip("dev-clean", "84_121123_000007_000001", "But in less than five minutes.")
    found = ingest("prompttts")
    assert set(found.records) == {"1089_134686_000003_000000", "84_121123_000007_000001"} and not found.rejected
    record = found.records["1089_134686_000003_000000"]
    assert record["audios"][0]["text"] == "He hoped there would be stew."
    assert record["metadata"] == {
        "speaker": "1089",
        "gender": "male",
        "pitch": "low",
        "speaking_rate": "slow",
        "energy": "high",
        "style_prompt": "A man speaks loudly, slowly and deep.",
    }


def test_a_broken_line_and_a_missing_clip_or_text_are_rejected(corpus, clip, ingest):
    rows = [
        ROW,
        ROW.replace("low,slow", "low,medium"),
        "1089_134686_000004_000000,1089,M\n",
        "../../secret,1089,M,low,slow,high,x\n",
        ROW.replace("000003", "000005"),
        ROW.replace('deep."', "deep."),
        ROW.replace("000003", "000006"),
    ]
    corpus("Real_training.csv", HEADER + "".join(rows))
    clip("test-clean", "1089_134686_000003_000000", "Stew.")
    clip("test-clean", "1089_134686_000006_000000", None)
    found = ingest("prompttts")
    assert len(found.records) == 1 and len(found.rejected) == 6
    assert "its speaking_speed is none of slow, normal, fast: 'medium'" in found.reason("Real_training.csv line 3")
    assert "its pitch is none of" in found.reason("line 4")
    assert "its item_name is none of LibriTTS" in found.reason("line 5")
    assert "its gender is none of M, F: None" in found.reason("line 7")
    assert "line 6: no part of LibriTTS has 1089/134686" in found.rejected["1089_134686_000005_000000"]
    assert "normalized.txt holds no transcription" in found.rejected["1089_134686_000006_000000"]


def test_a_table_of_other_columns_is_refused(corpus, refused):
    corpus("Real_training.csv", "item_name,gender\n")
    corpus("LibriTTS/dev-clean/BOOKS.txt", "x")
    assert "Real_training.csv: it has no column energy, pitch, speaking_speed" in refused("prompttts")


def test_prompts_without_speech_are_refused(corpus, refused):
    corpus("Synthesized_training.csv", HEADER)
    assert "LibriTTS does not exist" in refused("prompttts")
    corpus("LibriTTS/dev-clean/BOOKS.txt", "x")
    assert "Real_training.csv does not exist" in refused("prompttts")
