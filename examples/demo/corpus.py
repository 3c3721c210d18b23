"""Builds the demo's shards and benchmarks with the commands of data preparation."""

from pathlib import Path

from examples.demo.commands import caad_ds

INSTRUCTIONS = "configs/demo/instructions.yaml"
SIZES = {"teacher": 4800, "distill": 2400, "validation": 200, "test": 300}
SHORT = {"distill": 48, "validation": 16, "test": 8}
# Several questions about a clip share a batch, which encodes it once (data.group_by_audio).
QUESTIONS = {"teacher": 4, "distill": 4, "validation": 1}
# Of the teacher's hints about the attribute in question, 95% agree with the audio: the text bias to remove. With fewer
# prompts without a hint, its connector learned only some attributes. Half of the distillation prompts have no hint,
# since students learn to use the audio from these; of the others 85% are faithful, the rest conflicting or irrelevant.
# The pseudo ground truth is always right.
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
    """Ingest a synthesised split; returns its manifest."""
    manifest = root / f"{split}.jsonl"
    caad_ds("prep", "ingest", "demo", "--root", root / "audio" / split, "--out", manifest)
    return manifest


def shards(root: Path, split: str) -> Path:
    """Run Stage 1 on a split and pack its shards; returns their folder."""
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
    """Write the conflict benchmark of a split in MCR-BENCH's format; returns its folder."""
    out = root / "benchmark" / split
    caad_ds(
        "prep", "conflict-benchmark", "--manifest", ingest(root, split), "--instructions", INSTRUCTIONS, "--out", out
    )
    return out
