"""Training runs at the paper's scale with random weights: what placements and student modes cost on this machine.

    python benchmarks/paper.py [--work DIR] [--rows NAME ...] [--steps 30] [--cap-gb 24] [--tiny]

What `caad-ds train` does, from loading to the written model. Models of the paper's shapes (Whisper-medium, 8B teacher,
3B student) are made once below --work, 24 GB there, with clips of noise and answers of some 100 random words. Every row
is a run of its own; its times are means over the last ten steps, as the run logs them, `start` is all that comes before
the first step and `end` what follows the last. --tiny makes models for a CPU, to try the script.
"""

import argparse
import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml
from mlflow import MlflowClient
from transformers import WhisperConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import cap_memory, cpu_name
from benchmarks.step import published
from caad_ds.cli import main as caad_ds
from caad_ds.config.inheritance import merged, read_files
from caad_ds.data.markers import user_content
from caad_ds.models.prompts.train_tokenizer import train_tokenizer
from caad_ds.models.speech_lm.build import build
from caad_ds.models.speech_lm.folder import save
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM

CLIPS, SECONDS, WORDS = 64, 5, 100
MEASURED = 10  # last steps; at least as many before them compile kernels and fill caches
TINY = {
    "whisper": {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64},
    "teacher": {"hidden_size": 64, "num_hidden_layers": 3},
    "student": {"hidden_size": 32, "num_hidden_layers": 2},
}  # fmt: skip
SMALL_CARD = {
    "optimizer": {"micro_batch": 1},
    "student": {"deepspeed": "student_24gb.json", "gradient_checkpointing": True},
}
COLUMNS = (
    "run", "s/step", "samples/s", "tokens/s", "MFU", "encoder", "teacher", "student", "loss", "data", "GB", "start, s",
    "end, s",
)  # fmt: skip
ROWS: dict[str, dict] = {
    "auto": {},
    "cpu": {"teacher": {"placement": "cpu"}},
    "nvme": {"teacher": {"placement": "nvme"}},
    "24 GB": SMALL_CARD,
    "LoRA": {"student": {"train": "lora", "gradient_checkpointing": True}},
    "ZeRO-3": {"student": {"deepspeed": "student_zero3.json"}},
}


def architectures(tiny: bool) -> dict[str, dict]:
    """Whisper's, the teacher's and the student's."""
    names = {
        "whisper": "whisper-medium", "teacher": "Llama-3.1-8B-Instruct", "student": "Llama-3.2-3B-Instruct",
    }  # fmt: skip
    found = {part: published(name) for part, name in names.items()}
    if not tiny:
        return found
    llama = {
        "model_type": "llama", "vocab_size": 500, "intermediate_size": 96, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 512, "tie_word_embeddings": True,
    }  # fmt: skip
    return {"whisper": TINY["whisper"]} | {part: llama | TINY[part] for part in ("teacher", "student")}


def make(work: Path, tiny: bool) -> None:
    """Shards, the encoder, the student's LLM and the teacher below `work`."""
    clips = work / "clips"
    clips.mkdir(parents=True)
    noise, words = np.random.default_rng(0), random.Random(0)
    vocabulary = ["".join(words.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(200)]
    records = []
    for n in range(CLIPS):
        soundfile.write(clips / f"{n}.wav", 0.1 * noise.standard_normal(16_000 * SECONDS).astype(np.float32), 16_000)
        records.append({
            "id": f"clip-{n}", "audios": [{"path": f"{n}.wav", "text": " ".join(words.choices(vocabulary, k=10)),
            "duration": float(SECONDS)}], "metadata": {}, "seed_description": "(Noise: white)", "source": "noise",
            "messages": [{"role": "user", "content": user_content("Describe the audio in your own words.")}],
            "response": " ".join(words.choices(vocabulary, k=words.randrange(WORDS - 20, WORDS + 20))),
        })  # fmt: skip
    manifest = clips / "answered.jsonl"
    manifest.write_text("".join(json.dumps(record) + "\n" for record in records))
    if caad_ds(["prep", "pack", "--manifest", str(manifest), "--out", str(work / "shards")]):
        sys.exit("packing failed")
    texts = [record["response"] + " Describe the audio in your own words." for record in records]
    tokenizer = train_tokenizer(texts, 400, work / "tokenizer")
    models(work, architectures(tiny), tokenizer, tiny)


def models(work: Path, shapes: dict[str, dict], tokenizer: object, tiny: bool) -> None:
    """The teacher's folder, with the encoder in it, and the student's LLM, in bfloat16."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(torch.bfloat16)
    torch.manual_seed(0)
    with torch.device(device):
        encoder = random_encoder(shapes["whisper"], tiny)
        for part in ("teacher", "student"):
            model = random_model(shapes[part], encoder)
            if part == "teacher":
                save(work / "teacher", model.to(torch.bfloat16), encoder, tokenizer)
            else:
                model.llm.to(torch.bfloat16).save_pretrained(work / "student")
            del model
    torch.set_default_dtype(torch.float32)


def random_encoder(whisper: dict, tiny: bool) -> SpeechEncoder:
    """A Whisper of that architecture, in the default dtype on the default device."""
    window, taps = (6, [0, 1]) if tiny else (30, [5, 11, 17, 23])
    return SpeechEncoder.from_config(
        WhisperConfig(**whisper | {"decoder_layers": 0, "max_source_positions": 50 * window}), taps
    )


def random_model(llm: dict, encoder: SpeechEncoder) -> SpeechLM:
    """An LLM of that architecture behind the paper's connector, in the default dtype on the default device."""
    heads = encoder.whisper.config.encoder_attention_heads
    return build(llm, encoder, None, num_queries=64, qformer_layers=2, qformer_heads=heads, connector="desta")


def config(work: Path, row: str, steps: int, tiny: bool) -> Path:
    """The YAML of one row: configs/paper/caad.yaml on these weights and shards."""
    paper = Path(__file__).resolve().parents[1] / "configs/paper/caad.yaml"
    values = merged(read_files(paper))
    values["run"] |= {"name": row, "output_dir": str(work / "runs" / row), "log_every": steps - MEASURED}
    values["data"]["train"] = str(work / "shards")
    values["teacher"]["path"] = str(work / "teacher")
    values["student"] |= {
        "llm": str(work / "student"), "encoder": str(work / "teacher/encoder"), "tokenizer": str(work / "teacher"),
    }  # fmt: skip
    if tiny:
        values["run"]["peak_tflops"] = 0.1
        values["student"] |= {"taps": [0, 1], "window_seconds": 6, "qformer_heads": 2}
    del values["optimizer"]["epochs"]
    values["optimizer"] |= {"steps": steps, "warmup_steps": 2}
    values["tracking"] = {"uri": f"sqlite:///{work}/mlflow.db", "experiment": "paper"}
    for section, keys in ROWS[row].items():
        values[section] |= keys
    if values["teacher"].get("placement") == "nvme":
        values["teacher"]["nvme_path"] = str(work / "nvme")
    path = work / f"{row}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def train(file: Path, cap_gb: float | None) -> None:
    """One run in this process, which may take no more than `cap_gb` of the device."""
    if cap_gb is not None:
        cap_memory(cap_gb)
    sys.exit(caad_ds(["train", "--config", str(file)]))


def measured(work: Path, row: str, began: float, ended: float) -> str:
    """A line of the table, of what MLflow holds of the newest run of that name."""
    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    experiment = client.get_experiment_by_name("paper")
    [run, *_] = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{row}'")
    points = {key: client.get_metric_history(run.info.run_id, f"train/{key}") for key in ("seconds_per_step", "lr")}
    last = run.data.metrics
    share = {name: last.get(f"train/share/{name}", 0.0) for name in ("encoder", "teacher", "student", "loss", "data")}
    first, final = (points["lr"][at].timestamp / 1000 for at in (0, -1))
    start = first - began - points["seconds_per_step"][0].value
    cells = [
        f"{last['train/seconds_per_step']:.2f}", f"{last['train/samples_per_second']:.1f}",
        f"{last['train/tokens_per_second']:.0f}", f"{last.get('train/mfu', float('nan')):.1%}",
        *(f"{share[name]:.0%}" for name in share), f"{last['train/memory_gb']:.1f}", f"{start:.0f}",
        f"{ended - final:.0f}",
    ]  # fmt: skip
    return f"| {row} | {' | '.join(cells)} |"


def main() -> None:
    """Makes what is missing below --work, runs the rows and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "caad-ds-paper")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cap-gb", type=float, help="of the GPU's memory, no more than this may be taken")
    parser.add_argument("--tiny", action="store_true", help="models for a CPU")
    args = parser.parse_args()
    if args.steps < 2 * MEASURED:
        parser.error(f"--steps {args.steps}: give {2 * MEASURED} or more")
    work = args.work / ("tiny" if args.tiny else "paper")
    spawn = multiprocessing.get_context("spawn")
    if not work.is_dir():
        began, partial = time.time(), work.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        maker = spawn.Process(target=make, args=(partial, args.tiny))
        maker.start()
        maker.join()
        if maker.exitcode:
            sys.exit(f"{work}: making the models failed")
        partial.rename(work)
        print(f"made {work} in {time.time() - began:.0f} s", flush=True)
    lines, failed = [], []
    for row in args.rows:
        file = config(work, row, args.steps, args.tiny)
        shutil.rmtree(work / "runs" / row, ignore_errors=True)  # a finished run would not be made again
        began = time.time()
        run = spawn.Process(target=train, args=(file, args.cap_gb))
        run.start()
        run.join()
        if run.exitcode:
            failed.append(row)
        lines.append(f"| {row} | failed |" if run.exitcode else measured(work, row, began, time.time()))
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    cap = "" if args.cap_gb is None else f", of which {args.cap_gb:g} GB may be taken"
    print(f"\ntorch {torch.__version__}, {where}{cap}; {args.steps} steps of 8 samples\n")
    print(f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *lines, sep="\n")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; what went wrong stands above")


if __name__ == "__main__":
    main()
