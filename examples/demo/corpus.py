"""From nothing to shards and benchmarks, with the commands of data preparation."""

from pathlib import Path

from examples.demo.commands import caad_ds

INSTRUCTIONS = "configs/demo/instructions.yaml"
SIZES = {"teacher": 4800, "distill": 2400, "validation": 200, "test": 300}
SHORT = {"distill": 48, "validation": 16, "test": 8}
# Several questions about a clip stand together in a batch, which encodes it once (data.group_by_audio).
QUESTIONS = {"teacher": 4, "distill": 4, "validation": 1}
# A hint about what is asked agrees with the audio in 95% of the teacher's items; that is the text bias to remove. With
# fewer items without a hint its connector learned to hear some attributes and not others. Of the hinted distillation
# prompts 85% are faithful, the rest conflicting or irrelevant; half carry no hint, since those are what a
# student learns to hear from. The pseudo ground truth is always right.
HINTS = {
    "teacher": "none=0.45,faithful=0.494,adversarial=0.026,irrelevant=0.03",
    "distill": "none=0.5,faithful=0.425,adversarial=0.0375,irrelevant=0.0375",
    "validation": "none=0.5,faithful=0.425,adversarial=0.0375,irrelevant=0.0375",
}


def synthesize(root: Path, sizes: dict[str, int]) -> None:
    """Speak every split of `sizes` (name -> clips) below `root/audio`."""
    numbers = [f"--{split}={size}" for split, size in sizes.items()]
    caad_ds("prep", "synthesize", "--root", root / "audio", "--splits", *sizes, *numbers)


def ingest(root: Path, split: str) -> Path:
    """The manifest of a synthesised split."""
    manifest = root / f"{split}.jsonl"
    caad_ds("prep", "ingest", "demo", "--root", root / "audio" / split, "--out", manifest)
    return manifest


def shards(root: Path, split: str) -> Path:
    """Stage 1 and the shards of a split; returns their folder."""
    manifest, out = ingest(root, split), root / "shards" / split
    described, answered = root / f"{split}.described.jsonl", root / f"{split}.answered.jsonl"
    caad_ds(
        "prep", "describe", "--manifest", manifest, "--out", described, "--instructions", INSTRUCTIONS,
        "--hints", HINTS[split], "--questions-per-audio", QUESTIONS[split],
    )  # fmt: skip
    caad_ds("prep", "pseudo-gt", "--manifest", described, "--out", answered, "--engine", "template")
    caad_ds("prep", "pack", "--manifest", answered, "--out", out)
    return out


def benchmark(root: Path, split: str) -> Path:
    """The conflict benchmark of a split, in MCR-BENCH's format; returns its folder."""
    out = root / "benchmark" / split
    caad_ds(
        "prep", "conflict-benchmark", "--manifest", ingest(root, split), "--instructions", INSTRUCTIONS, "--out", out
    )
    return out
