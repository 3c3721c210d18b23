"""Decoding speed of the paper's teacher, the teacher with contrastive decoding, and the student.

    python benchmarks/decoding.py [--tokens 24] [--rounds 3] [--tiny]

Models of the paper's shapes with random weights are measured like in `caad-ds speed`: all answer the same noise clips
with the same number of tokens, in turns, one clip at a time and eight. On a GPU the LLMs are in bfloat16 and the shared
encoder in float32. --tiny uses models for a CPU, to try the script.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.paper import SECONDS, architectures, random_encoder, random_model
from caad_ds.data.audio_markers import user_content
from caad_ds.evaluation.benchmarks.items import Clip, Item
from caad_ds.evaluation.speed.compare_speed import System, measure
from caad_ds.evaluation.speed.speed_tables import speed_legend, speed_rows
from caad_ds.evaluation.tables_and_plots.tables import markdown
from caad_ds.generation.decoding import Contrast
from caad_ds.generation.model import Model
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.prompts.train_tokenizer import train_tokenizer
from caad_ds.utils.device import pick_device

BATCH = 8
QUESTION = "Describe the audio in your own words."


def items(folder: Path) -> list[Item]:
    """Write clips of noise below `folder`; returns a question about each."""
    noise, found = np.random.default_rng(0), []
    for n in range(BATCH):
        clip = Clip(folder / f"{n}.wav", "words that were said")
        soundfile.write(clip.path, 0.1 * noise.standard_normal(16_000 * SECONDS).astype(np.float32), 16_000)
        turn = {"role": "user", "content": user_content(QUESTION)}
        found.append(Item(f"clip-{n}", "noise", None, (clip,), (turn,), QUESTION, ""))
    return found


def systems(tiny: bool, device: torch.device, tokenizer: Any) -> dict[str, System]:
    """Return teacher, teacher with contrastive decoding at alpha 1, and student."""
    torch.manual_seed(0)
    shapes = architectures(tiny)
    with device:
        encoder = random_encoder(shapes["whisper"], tiny)
        torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
        teacher, student = (random_model(shapes[part], encoder).eval() for part in ("teacher", "student"))
        torch.set_default_dtype(torch.float32)

    def loaded(model: Any) -> Model:
        return Model(SpeechAudioLM(model, encoder, tokenizer), device)

    return {
        "teacher": System(loaded(teacher), None),
        "teacher + CD 1 zero_mel": System(loaded(teacher), Contrast(1.0, "zero_mel")),
        "student": System(loaded(student), None),
    }


def main() -> None:
    """Print the table of `caad-ds speed`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=24, help="of each answer (default 24)")
    parser.add_argument("--rounds", type=int, default=3, help="timed turns (default 3)")
    parser.add_argument("--tiny", action="store_true", help="models for a CPU")
    args = parser.parse_args()
    device = pick_device("cpu" if args.tiny else None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = train_tokenizer([QUESTION, "words that were said"], 400, folder / "tokenizer")
        found = measure(systems(args.tiny, device, tokenizer), items(folder), args.tokens, args.rounds)
    print(f"{args.rounds} rounds, {args.tokens} tokens an answer, clips of {SECONDS} s\n")
    print(markdown(*speed_rows(found)), speed_legend(found), sep="\n\n")


if __name__ == "__main__":
    main()
