"""IEMOCAP: labels and transcriptions of a dialogue, utterances of both actors."""

import pytest

LABELS = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
A-E3:\tval 3; act 2; dom  2;\t()

[10.0100 - 11.3925]\tSes01F_impro01_M000\tfru\t[2.0000, 4.0000, 3.3333]
C-E2:\tFrustration;\t()

[19.2900 - 20.7875]\tSes01F_impro01_M001\txxx\t[2.5000, 3.0000, 3.0000]
"""
TEXTS = """Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.
M: [LAUGHTER]
Ses01F_impro01_M000 [010.0100-011.3925]: Yeah.
Ses01F_impro01_M001 [019.2900-020.7875]: Is there a problem?
Ses01F_impro01_MXX0 [021.0000-022.0000]: It was not cut out.
"""
NAMES = ("F000", "M000", "M001")
LABEL_FILE = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
TEXT_FILE = "Session1/dialog/transcriptions/Ses01F_impro01.txt"


@pytest.fixture
def iemocap(corpus):
    corpus(LABEL_FILE, LABELS)
    corpus(TEXT_FILE, TEXTS)
    corpus("Session1/dialog/EmoEvaluation/._Ses01F_impro01.txt", "of macOS")
    for name in NAMES:
        corpus(f"Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_{name}.wav")
    return corpus


def test_an_utterance_has_its_label_text_and_the_one_who_speaks(iemocap, ingest):
    found = ingest("iemocap")
    assert list(found.records) == [f"Ses01F_impro01_{name}" for name in NAMES] and not found.rejected
    first, second, third = found.records.values()
    assert first["audios"][0]["text"] == "Excuse me."
    assert first["metadata"] == {
        "speaker": "Ses01F",
        "gender": "female",
        "emotion": "neutral",
        "valence": "2.5/5",
        "activation": "2.5/5",
        "dominance": "2.5/5",
        "style": "improvised",
        "dialogue": "Ses01F_impro01",
    }
    metadata = second["metadata"]  # in a dialogue named after her, he speaks
    assert (metadata["speaker"], metadata["gender"], metadata["emotion"]) == ("Ses01M", "male", "frustrated")
    assert "emotion" not in third["metadata"] and third["metadata"]["valence"] == "2.5/5"


def test_scripted_dialogue_is_recognised_by_its_name(corpus, ingest):
    name = "Ses05M_script01_1b_F010"
    corpus("Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav")
    corpus(f"Session5/sentences/wav/Ses05M_script01_1b/{name}.wav")
    label = f"[6.2 - 8.2]\t{name}\texc\t[4.0000, 4.5000, 2.0000]\n"
    corpus("Session5/dialog/EmoEvaluation/Ses05M_script01_1b.txt", label)
    corpus("Session5/dialog/transcriptions/Ses05M_script01_1b.txt", f"{name} [006.2000-008.2000]: Oh!\n")
    found = ingest("iemocap")
    metadata = found.records[name]["metadata"]
    assert (metadata["speaker"], metadata["emotion"], metadata["style"]) == ("Ses05F", "excited", "scripted")
    assert "Ses01F_impro01.txt has no label of it" in found.rejected["Ses01F_impro01_F000"]


def test_what_lacks_a_label_a_text_or_its_clip_is_rejected(iemocap, ingest):
    iemocap(LABEL_FILE, LABELS.replace("\txxx\t", "\tjoy\t") + "[30.0 - 31.0]\tSes01F_impro01_F009\tneu\t[3, 3, 3]\n")
    iemocap(TEXT_FILE, TEXTS.replace("[006.2901-008.2357]: ", ""))
    found = ingest("iemocap")
    assert list(found.records) == ["Ses01F_impro01_M000"]
    assert "it does not parse" in found.reason(f"{LABEL_FILE} line 10") and "joy" in found.reason("line 10")
    assert "it does not parse" in found.reason(f"{TEXT_FILE} line 1")
    assert "no transcription" in found.rejected["Ses01F_impro01_F000"]
    assert f"{LABEL_FILE} has no label" in found.rejected["Ses01F_impro01_M001"]
    assert "has no Ses01F_impro01_F009.wav" in found.rejected["Ses01F_impro01_F009"]
    assert len(found.rejected) == 5


def test_another_folder_is_refused(corpus, refused):
    corpus("IEMOCAP_full_release/Session1/README.txt", "one level too high")
    assert "Session1 does not exist: --root names the folder IEMOCAP_full_release" in refused("iemocap")
