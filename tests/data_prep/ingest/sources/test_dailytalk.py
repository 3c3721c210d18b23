"""DailyTalk: the metadata name every utterance of every dialogue."""

import json


def entry(speaker: int, text: str | None, **other: object) -> dict:
    common = {"topic": "Ordinary Life", "emotion": "no emotion", "act": "question"}
    return {
        "utterance_idx": 0,
        "dialog_idx": 0,
        "index": 0,
        "turn": 0,
        "speaker": speaker,
        "text": text,
        **common,
        **other,
    }


def test_an_utterance_has_dialogue_speaker_emotion_and_act(corpus, ingest):
    utterances = {"0": entry(1, "How are you?"), "1": entry(0, "I am glad.", emotion="happiness", act="inform")}
    corpus("metadata.json", json.dumps({"47": utterances}))
    for name in ("0_1_d47", "1_0_d47"):
        corpus(f"data/47/{name}.wav")
        corpus(f"data/47/{name}.txt", "not read")
    found = ingest("dailytalk")
    assert list(found.records) == ["0_1_d47", "1_0_d47"] and not found.rejected
    assert found.records["0_1_d47"]["audios"][0]["text"] == "How are you?"
    assert found.records["0_1_d47"]["metadata"] == {
        "speaker": "dailytalk-1",
        "gender": "female",
        "emotion": "neutral",
        "act": "question",
        "topic": "Ordinary Life",
        "dialogue": "47",
        "turn": "0",
    }
    metadata = found.records["1_0_d47"]["metadata"]
    assert (metadata["gender"], metadata["emotion"], metadata["act"]) == ("male", "happy", "inform")


def test_an_entry_that_lacks_a_label_and_a_missing_clip_are_rejected(corpus, ingest):
    unlabelled = entry(0, "No.")
    del unlabelled["emotion"]
    utterances = {
        "0": entry(1, "Good."),
        "1": unlabelled,
        "2": entry(2, "Who?"),
        "3": entry(0, "Gone."),
        "4": "text",
        "5": entry(0, None),
        "6": entry(0, "Odd.", emotion=["joy"]),
    }
    corpus("metadata.json", json.dumps({"8": utterances, "9": []}))
    corpus("data/8/0_1_d8.wav")
    found = ingest("dailytalk")
    assert list(found.records) == ["0_1_d8"] and len(found.rejected) == 7
    assert "its 'emotion' is none of no emotion" in found.reason("metadata.json dialogue 8 utterance 1")
    assert "its 'speaker' is none of 0, 1: 2" in found.reason("dialogue 8 utterance 2")
    assert "no such file" in found.rejected["3_0_d8"]
    assert "it is no object" in found.reason("dialogue 8 utterance 4")
    assert "it has no 'text'" in found.reason("dialogue 8 utterance 5")
    assert "['joy']" in found.reason("dialogue 8 utterance 6")
    assert "it is no object" in found.reason("dialogue 9 utterance ?")


def test_a_cut_listing_is_refused(corpus, refused):
    corpus("metadata.json", '{"0": {"0": ')
    corpus("data/0/0_0_d0.wav")
    assert "metadata.json: it is no JSON" in refused("dailytalk")


def test_another_folder_is_refused(corpus, refused):
    corpus("data/0/0_0_d0.wav")
    assert "metadata.json does not exist: --root names the folder dailytalk" in refused("dailytalk")
