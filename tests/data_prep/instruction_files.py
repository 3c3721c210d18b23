"""The instruction files of the shipped configurations."""

from caad_ds.data.instructions import Instructions
from tests.root import CONFIGS

FILES = [CONFIGS / name / "instructions.yaml" for name in ("demo", "recorded", "paper")]
DEMO = Instructions.load(FILES[0])
