"""Dynamic-SUPERB's forms on disk, in miniature."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

COUNTING, MATCHING = "SpeakerCounting_LibriTTS-TestClean", "SpeakerVerification_VCTK-multiaudio"
PLAIN, SPOKEN = "SpeakerVerification_VCTK", "SpokenTermDetection_LJSpeech"
SOUND = "ChordClassification_AcousticGuitarAndPiano"
SPAN = "<start_audio><|AUDIO|><end_audio>\n"


def wave(k):
    rng = np.random.default_rng(k)
    return (rng.standard_normal(8000) * 0.2 * rng.random()).astype(np.float32)


def wav_bytes(k):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave(k), 16000, format="WAV")
    return buffer.getvalue()


def second(count):
    return [{"bytes": wav_bytes(10 + k), "path": None} for k in range(count)]


def row(instance, label="male", clips=("0.wav",), **fields):
    turns = [{"role": "system", "content": "hello"}, {"role": "user", "content": SPAN * len(clips) + "who speaks ?"}]
    audios = [{"path": clip, "text": "it rains"} for clip in clips]
    return {"audios": audios, "messages": turns, "label": label, "category": f"DS@{instance}", **fields}


def write_jsonl(folder, lines, name="test.jsonl"):
    folder.mkdir(exist_ok=True)
    for k in range(3):
        soundfile.write(folder / f"{k}.wav", wave(k), 16000)
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / name).write_text("\n".join(text) + "\n")
    return folder


def table(count, **columns):
    labels = ["male" if k % 2 else "female" for k in range(count)]
    audio = [{"bytes": wav_bytes(k), "path": f"{k}.wav"} for k in range(count)]
    return pa.table({"audio": audio, "instruction": ["who speaks ?"] * count, "label": labels, **columns})


def write_parquet(folder, instance, rows, **kwargs):
    (folder / instance / "data").mkdir(parents=True)
    pq.write_table(rows, folder / instance / "data" / "test-00000-of-00001.parquet", **kwargs)


def write_saved(folder, instance, rows):
    """What `datasets.save_to_disk` leaves: streams, and a state that names them."""
    place = folder / instance
    place.mkdir(parents=True)
    for k, part in enumerate((rows.slice(0, 2), rows.slice(2))):
        with pa.ipc.new_stream(place / f"data-{k:05d}-of-00002.arrow", part.schema) as stream:
            stream.write_table(part)
    shutil.copy(place / "data-00000-of-00002.arrow", place / "cache-0.arrow")
    files = [{"filename": f"data-{k:05d}-of-00002.arrow"} for k in (0, 1)]
    (place / "state.json").write_text(json.dumps({"_data_files": files, "_split": "test"}))
    (place / "dataset_info.json").write_text("{}")


def reasons(benchmark):
    return {rejected["id"]: rejected["reason"] for rejected in benchmark.rejected}
