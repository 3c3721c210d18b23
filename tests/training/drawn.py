"""Answers that students draw in the ranks of a test, written down."""

import json
import os
from pathlib import Path

from caad_ds.distill.rollouts import Rollouts

DRAWN = "DRAWN_FILE"


def record_answers() -> None:
    """In a rank: write down each drawn answer, with its step and sample."""
    draw, rank = Rollouts.draw, os.environ["RANK"]

    def recorded(self, step, batches):
        drawn = draw(self, step, batches)
        with open(f"{os.environ[DRAWN]}.{rank}", "a", encoding="utf-8") as out:
            for batch, each in zip(batches, drawn, strict=True):
                for row, answer in zip(each.samples.tolist(), each.answers, strict=True):
                    out.write(json.dumps([step, batch.keys[row], answer.tolist()]) + "\n")
        return drawn

    Rollouts.draw = recorded


def answers(file: Path) -> dict[tuple[int, str], list[int]]:
    """What all ranks have drawn, by step and sample."""
    lines = [json.loads(line) for part in file.parent.glob(f"{file.name}.*") for line in part.read_text().splitlines()]
    found = {(step, key): answer for step, key, answer in lines}
    # A sample that stands twice in a step is answered alike.
    assert all(found[step, key] == answer for step, key, answer in lines)
    return found
