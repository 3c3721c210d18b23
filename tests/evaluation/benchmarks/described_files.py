"""The shipped descriptions' benchmarks in miniature, in their published forms, each with one broken row."""

import csv
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile


@dataclass(frozen=True)
class Miniature:
    """Writer of a folder, answers to its rows by id, scores computed by hand, and id and fault of the broken row.

    `figures` are by group and metric.
    """

    write: object
    answers: dict[str, str]
    figures: dict[str, dict[str, float]]
    broken: tuple[str, str]


def clip(path, k):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(k).standard_normal(8000) * 0.1
    soundfile.write(path, noise, 16000)


def video(path, k):
    """An MP4 with a picture and the sound of half a second, as MELD's clips are."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = (np.random.default_rng(k).standard_normal((1, 8000)) * 0.1).astype(np.float32)
    with av.open(str(path), "w") as file:
        pictures = file.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        sound = file.add_stream("aac", rate=16000, layout="mono")
        for number in range(5):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 40 * number, np.uint8), format="rgb24")
            file.mux(pictures.encode(picture))
        frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        for stream, last in ((pictures, None), (sound, frame), (sound, None)):
            file.mux(stream.encode(last))


def mmau(folder):
    rows = [
        ("a", "sound", ["Man", "Woman", "Child", "Robot"], "Man"),
        ("b", "sound", ["Car horn", "Dog bark", "Car alarm"], "Car horn"),
        ("c", "music", ["Two", "Three"], "Three"),
        ("d", "speech", ["['no_word']", "['other']"], "['no_word']"),
        ("e", "speech", ["Yes", "No"], "Maybe"),
    ]
    held = [
        {"id": name, "audio_id": f"./test-mini-audios/{name}.wav", "question": "Who speaks?", "choices": choices,
         "answer": answer, "dataset": "AudioSet", "task": task, "split": "test-mini", "category": "Reasoning",
         "sub-category": "Counting", "difficulty": "easy"}
        for name, task, choices, answer in rows
    ]  # fmt: skip
    folder.mkdir()
    (folder / "mmau-test-mini.json").write_text(json.dumps(held))
    for k, row in enumerate(held):
        clip(folder / row["audio_id"], k)


def mmar(folder):
    rows = [
        {"id": f"v{k}", "audio_path": f"./audio/v{k}.wav", "question": "What is it", "choices": choices,
         "answer": choices[0], "modality": modality, "category": "Signal Layer", "sub-category": "Counting",
         "language": None, "source": "youtube", "url": "", "timestamp": "00:00:00,00:00:01"}
        for k, (modality, choices) in enumerate(
            [("sound", ["Rain", "Wind"]), ("mix-sound-music", ["Entered", ""]), ("sound", ["One", "Two", "Three"])]
        )
    ]  # fmt: skip
    folder.mkdir()
    (folder / "MMAR-meta.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for k in range(2):
        clip(folder / f"audio/v{k}.wav", k)


def hallucination(folder):
    """In folders of Parquet, as the hub's data sets are downloaded."""
    labels = ["Yes", "No", "No", "No", "Yes"]
    for sampling in ("random", "popular"):
        place = folder / f"AudioHallucination_AudioCaps-{sampling.title()}"
        place.mkdir(parents=True)
        rows = {
            "entry_id": [*range(4), 3 if sampling == "popular" else 4],
            "audio_index": [f"Y{k % 2}" for k in range(5)],
            "prompt_text": [f"Is there a sound of {k}?" for k in range(5)],
            "object": ["rain"] * 5,
            "attribute": ["positive" if label == "Yes" else "negative" for label in labels],
            "label": labels,
            "sampling": [sampling] * 5,
        }
        pq.write_table(pa.table(rows), place / "test-00000-of-00001.parquet")
    place = folder / "AudioHallucination_AudioCaps-Adversarial-v2"
    place.mkdir()
    last = {"entry_id": [0], "audio_index": ["Y0"], "prompt_text": ["Is there rain?"], "label": ["No"]}
    pq.write_table(pa.table(last | {"sampling": ["adversarial"]}), place / "test-00000-of-00001.parquet")
    for k in range(2):
        clip(folder / f"audiocaps/Y{k}.wav", k)


def meld(folder, write=video, ending="mp4"):
    """Clips are published as video; `write` and `ending` are for other forms."""
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    emotions = ["surprise", "anger", "neutral", "boredom"]
    folder.mkdir()
    with open(folder / "test_sent_emo.csv", "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(header.split(","))
        for k, emotion in enumerate(emotions):
            text = "“Oh, that’s so”, she said"
            lines.writerow([k + 1, text, "Mark", emotion, "positive", 0, k, 3, 19, "00:14:38,127", "00:14:40,378"])
            write(folder / f"output_repeated_splits_test/dia0_utt{k}.{ending}", k)


def vocalsound(folder):
    labels = ["/m/01j3sz", "/m/0dl9sf8", "/m/07ppn3j", "/m/0nosuch"]
    rows = [{"wav": f"/data/sls/audio/f000{k}_0_x.wav", "labels": label} for k, label in enumerate(labels)]
    (folder / "datafiles").mkdir(parents=True)
    (folder / "datafiles" / "te.json").write_text(json.dumps({"data": rows}))
    for k in range(4):
        clip(folder / f"audio_16k/f000{k}_0_x.wav", k)


MINIATURES = {
    # a: the choice in words; b: "car" is the label's too, "alarm" another's alone; c: two choices; d: of odd names.
    "mmau-test-mini": Miniature(
        mmau,
        {"a": "It is a man.", "b": "a car horn, or a car alarm", "c": "Three", "d": "no_word"},
        {"all": {"accuracy": 3 / 4}, "sound": {"accuracy": 1 / 2}, "music": {"accuracy": 1}, "speech": {"accuracy": 1}},
        ("e", "its answer 'Maybe' is not among its choices: Yes, No"),
    ),
    "mmar": Miniature(
        mmar,
        {"v0": "rain", "v1": "<answer>Entered</answer>"},
        {"all": {"accuracy": 1}, "sound": {"accuracy": 1}, "mix-sound-music": {"accuracy": 1}},
        ("v2", "audio ./audio/v2.wav is not in"),
    ),
    # Of 5 + 4 + 1 rows 7 are to be answered no. Answers: yes, no, neither, yes, no; then yes, no, no, yes; then no.
    # Right: 0, 1, of popular 0, 1, 2 and the last; "no" among the answers: 1, 2, 4; 1, 2; 0, of which 1; 1, 2; 0 are
    # right.
    "audio-hallucination": Miniature(
        hallucination,
        {"random/0": "Yes.", "random/1": "No, there is none.", "random/2": "A dog.", "random/3": "yes",
         "random/4": "I can't hear it", "popular/0": "It contains rain", "popular/1": "does not contain it",
         "popular/2": "there is no rain", "popular/3": "Yes", "adversarial/0": "No."},
        {
            "all": {"accuracy": 0.6, "yes_share": 0.4, "precision_no": 4 / 6, "recall_no": 4 / 7, "f1_no": 8 / 13},
            "random": {"accuracy": 2 / 5, "precision_no": 1 / 3, "recall_no": 1 / 3, "f1_no": 1 / 3},
            "popular": {"accuracy": 3 / 4, "precision_no": 1, "recall_no": 2 / 3, "f1_no": 4 / 5},
        },
        ("popular/3", "id 'popular/3' is that of AudioHallucination_AudioCaps-Popular/test-00000-of-00001.parquet:3"),
    ),
    # By letter, in words, and two options named.
    "meld-emotion": Miniature(
        meld,
        {"dia0_utt0": "(E)", "dia0_utt1": "The answer is D.", "dia0_utt2": "neutral or joy"},
        {"all": {"accuracy": 2 / 3}, "meld-emotion": {"accuracy": 2 / 3}},
        ("dia0_utt3", "its answer 'boredom' is not among its choices"),
    ),
    "vocalsound": Miniature(
        vocalsound,
        {"f0000_0_x.wav": "A", "f0001_0_x.wav": "throat clearing", "f0002_0_x.wav": "Cough"},
        {"all": {"accuracy": 2 / 3}},
        ("f0003_0_x.wav", "its answer '/m/0nosuch' is none of /m/01j3sz"),
    ),
}  # fmt: skip
