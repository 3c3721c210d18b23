"""The instruction files of the shipped configurations."""

from pathlib import Path

from caad_ds.data.instructions import Instructions

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = [CONFIGS / name / "instructions.yaml" for name in ("demo", "recorded", "paper")]
DEMO = Instructions.load(FILES[0])
