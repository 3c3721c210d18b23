"""Time of `caad-ds check-teacher` compared with `caad-ds evaluate`, per row, condition and decoded signal.

    OMP_NUM_THREADS=1 python benchmarks/check_teacher.py [--models demo 135M] [--clips 240] [--rounds 1]

The commands are timed as a whole, on a benchmark of noise clips with transcriptions of ten words and the questions of
configs/demo/instructions.yaml. `evaluate` answers greedily; `check-teacher` scores every option under 17 signals and
decodes 5 (z_pos, and z_c of four negatives). `demo` is the teacher in this repository; `135M` has the shapes of
SmolLM2-135M and Whisper-tiny with random weights, and spends most of the time on the prompt.
"""

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import WhisperConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import cpu_name
from caad_ds.cli import main as caad_ds
from caad_ds.data.instructions import Instructions
from caad_ds.evaluation.benchmarks.benchmark import CONDITIONS
from caad_ds.evaluation.tables_and_plots.tables import markdown
from caad_ds.models.language_model.tokenizer import load_tokenizer
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.folder import save
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder

ROOT = Path(__file__).resolve().parents[1]
DEMO, INSTRUCTIONS = ROOT / "examples/demo/teacher_model", ROOT / "configs/demo/instructions.yaml"
DECODED = 5  # z_pos, and z_c of four negatives
SECONDS = 3
SMOL = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}  # fmt: skip
WHISPER = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}


def write_benchmark(folder: Path, clips: int) -> None:
    """Write a benchmark with `clips` rows, each about another clip, equally many per attribute."""
    instructions = Instructions.load(INSTRUCTIONS)
    noise, words = np.random.default_rng(0), random.Random(0)
    vocabulary = "the window door river book is open old round blue green small in of my on".split()
    for name, attribute in instructions.attributes.items():
        labels, rows = list(attribute.options), []
        (folder / name / "audio").mkdir(parents=True)
        for k in range(clips // len(instructions.attributes)):
            gt, other = labels[k % len(labels)], labels[(k + 1) % len(labels)]
            waveform = 0.1 * noise.standard_normal(16_000 * SECONDS).astype(np.float32)
            soundfile.write(folder / name / "audio" / f"{k}.wav", waveform, 16_000)
            rows.append({
                "audio": f"{k}.wav", "gt": gt, "neutral": attribute.questions[k % len(attribute.questions)],
                "faithful": attribute.options[gt], "adversarial": attribute.options[other],
                "irrelevant": words.choice(instructions.irrelevant), "text": " ".join(words.choices(vocabulary, k=10)),
            })  # fmt: skip
        (folder / name / f"{name}.json").write_text(json.dumps(rows))


def random_model(folder: Path) -> Path:
    """Save a model of SmolLM2-135M's shape with random weights and the demo's tokenizer; returns its folder."""
    torch.manual_seed(0)
    encoder = SpeechEncoder.from_config(WhisperConfig(**WHISPER, decoder_layers=0), [1, 3])
    save(folder, build(SMOL, encoder, None, num_queries=64, qformer_layers=2, qformer_heads=6), encoder,
         load_tokenizer(DEMO))  # fmt: skip
    return folder


def seconds(*command: object) -> float:
    """Run a command without showing its output; returns its time in seconds, exits if it fails."""
    shown = io.StringIO()
    began = time.perf_counter()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        status = caad_ds([str(part) for part in command])
    if status:
        sys.exit(f"{' '.join(map(str, command))} ended with status {status}:\n{shown.getvalue()[-2000:]}")
    return time.perf_counter() - began


def measured(model: Path, benchmark: Path, work: Path, rounds: int) -> tuple[float, float]:
    """Return the median times over rounds of `evaluate` and `check-teacher`, in seconds."""
    given = "--model", model, "--benchmark", benchmark, "--device", "cpu"
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        out = work / f"{model.name}-{number}"
        evaluated = seconds("evaluate", *given, "--out", out)
        checked = seconds("check-teacher", *given, "--instructions", INSTRUCTIONS, "--out", out / "check.json")
        times.append((evaluated, checked))
    evaluated, checked = np.median(times, axis=0)
    return float(evaluated), float(checked)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("demo", "135M"), default=["demo", "135M"])
    parser.add_argument("--clips", type=int, nargs="+", default=[240, 24], help="for each model (default 240 24)")
    parser.add_argument("--rounds", type=int, default=1, help="of which the median is shown (default 1)")
    args = parser.parse_args()
    rows = []
    for name, clips in zip(args.models, args.clips, strict=False):
        with tempfile.TemporaryDirectory() as place:
            work = Path(place)
            write_benchmark(work / "benchmark", clips)
            model = DEMO if name == "demo" else random_model(work / "135M")
            evaluated, checked = measured(model, work / "benchmark", work, args.rounds)
        one, other = (1000 * t / (clips * len(CONDITIONS)) for t in (evaluated, checked / DECODED))
        cells = f"{evaluated:.1f}", f"{checked:.1f}", f"{one:.1f}", f"{other:.1f}", f"{one / other:.2f}"
        rows.append([name, str(clips), *cells])
    header = ["model", "clips", "evaluate, s", "check-teacher, s", "ms each", "ms each, check-teacher", "speed"]
    print(f"torch {torch.__version__}, {cpu_name()}, {torch.get_num_threads()} threads, float32\n")
    print(markdown(header, rows))
    print(f"\nms each: per clip, condition and decoded signal ({DECODED} of check-teacher, 1 of evaluate)")


if __name__ == "__main__":
    main()
