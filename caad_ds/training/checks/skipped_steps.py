"""Steps skipped because a loss or a gradient is not finite: which samples caused it, how often, when to stop."""

import json
import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from caad_ds.data.batch import PairedBatch, len_of
from caad_ds.distill.step import DistillStep, Terms
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_atomic, write_json
from caad_ds.utils.launch import is_main
from caad_ds.utils.ranks import agreed, gathered
from caad_ds.utils.text import read_text

LOG = "skipped.jsonl"
DIAGNOSIS = "not_finite.json"
SHOWN = 8  # ids in a line of progress; the log has all


class Skips:
    """Count the steps that a run has skipped, the same on every rank.

    `in_row` counts those since the last applied step; `too_many` is true once they reach `limit`. Rank 0 writes a line
    per skipped step to `output_dir/skipped.jsonl`.
    """

    def __init__(self, output_dir: Path, limit: int):
        self.log = output_dir / LOG
        self.diagnosis = output_dir / DIAGNOSIS
        self.limit = limit
        self.total = self.in_row = 0
        self.records: list[dict] = []

    @property
    def too_many(self) -> bool:
        """Whether the run must stop: too many steps in a row were skipped."""
        return self.in_row >= self.limit

    def restore(self, step: int, total: int, in_row: int) -> None:
        """Start after `step` steps with these counts; every rank calls it. Lines of later steps are dropped."""
        self.total, self.in_row = total, in_row
        self.records = agreed(lambda: self._read(step))
        agreed(lambda: self._begin() if is_main() else None)

    def applied(self) -> None:
        """Count a step that was applied."""
        self.in_row = 0

    def skipped(self, step: int, causes: dict) -> str:
        """Count a skipped step and log its causes; return a message for the user. Every rank calls it."""
        self.total, self.in_row = self.total + 1, self.in_row + 1
        self.records.append({"step": step, **causes})
        agreed(lambda: self._write() if is_main() else None)
        return f"skipped: {reason(self.records[-1])} ({self.in_row} in a row, {self.total} in all)"

    @property
    def summary(self) -> str:
        """How many steps in a row were skipped, and why the last was."""
        last = f", the last because {reason(self.records[-1])}" if self.records else ""  # its log may have been removed
        count = "1 step was" if self.in_row == 1 else f"{self.in_row} steps in a row were"
        return f"{count} skipped{last}"

    def write_diagnosis(self, values: dict[str, Any]) -> None:
        """Write `values` of a run that stops, with the steps in a row that were skipped before."""
        counts = {"skipped": self.total, "skipped_in_row": self.in_row}
        write_json(self.diagnosis, values | counts | {"row": self.records[len(self.records) - self.in_row :]})

    def _read(self, last: int) -> list[dict]:
        """Read the lines up to step `last`; UserError if the log is damaged."""
        if not self.log.is_file():
            return []
        try:
            records = [json.loads(line) for line in read_text(self.log).splitlines()]
            return [record for record in records if record["step"] <= last]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.log}: damaged ({error}); remove it, the checkpoint has the counts") from error

    def _begin(self) -> None:
        self._write()
        self.diagnosis.unlink(missing_ok=True)  # left by a run that stopped and now starts again

    def _write(self) -> None:
        if self.records or self.log.exists():
            write_atomic(self.log, "".join(json.dumps(r, allow_nan=False) + "\n" for r in self.records).encode())


def reason(record: dict) -> str:
    """Describe a record of a skipped step in words."""
    named = shown([sample["id"] for sample in record["samples"]])
    if record["not_finite"] == "audio":
        return f"the audio of {named} and the gradient are not finite, the losses are finite"
    if record["not_finite"] == "gradient":
        return f"its losses are finite, the gradient is not; samples: {named}"
    every = "every sample, " if len(record["samples"]) == record["batch"] else ""
    return f"the loss is not finite of {every}{named}"


def shown(ids: Sequence[str]) -> str:
    """List the first ids, and how many more there are."""
    return ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")


@torch.no_grad()
def non_finite_causes(
    step: DistillStep, read: Sequence[PairedBatch], window: Sequence[PairedBatch], terms: Sequence[Terms]
) -> dict:
    """Find out what was not finite in a skipped step, and which samples caused it, over all ranks; every rank calls it.

    `window` holds the batches of the step and `terms` their terms; `read` are the batches as they were read, before
    audio dropout. If the loss of a batch is not finite, each of its samples is evaluated again alone. If all losses are
    finite, the samples with non-finite audio are named: audio that dropout has removed from the text still passes
    through the connector. If that is finite too, the gradient's sample is unknown, and all samples of the step are
    named.
    """
    losses = [kd + ce for kd, ce, _ in terms]
    finite = torch.stack(losses).isfinite().tolist() if losses else []
    # With the pseudo ground truth and, if the student draws answers, with those.
    both = list(zip(window, *([step.window.batches] if step.window else []), strict=True))
    suspects = [(batch, row) for batch, whole in zip(both, finite, strict=True) if not whole
                for row in range(len(batch[0].keys))]  # fmt: skip
    keys = list(chain(*gathered([key for batch in window for key in batch.keys])))
    rounds = max(gathered(len(suspects)))
    if rounds == 0:
        if bad_audio := list(chain(*gathered([key for batch in read for key in _not_finite_audio(step, batch)]))):
            return {"not_finite": "audio", "batch": len(keys), "samples": [{"id": key} for key in bad_audio]}
        return {"not_finite": "gradient", "batch": len(keys), "samples": [{"id": key} for key in keys]}
    evaluated = []
    step.engine.eval()
    with step.teacher_head():
        for number in range(rounds):  # the same number on every rank: their engines run in step
            batch, row = suspects[number] if number < len(suspects) else (both[0], 0)
            losses_alone = [_evaluated(step, _only(part, row)) for part in batch]
            if number < len(suspects):
                worst = next((pair for pair in losses_alone if str in map(type, pair)), losses_alone[0])
                evaluated.append({"id": batch[0].keys[row], "kd": worst[0], "ce": worst[1]})
    step.engine.train()
    samples = list(chain(*gathered(evaluated)))
    # None is bad alone if only the sum of a batch overflows.
    bad = [sample for sample in samples if isinstance(sample["kd"], str) or isinstance(sample["ce"], str)]
    return {"not_finite": "loss", "batch": len(keys), "samples": bad or samples}


def number_of(value: torch.Tensor | float) -> float | str:
    """Return a value that JSON can hold: the name of NaN or infinity, else the number."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _not_finite_audio(step: DistillStep, batch: PairedBatch) -> list[str]:
    """Return the ids of samples whose audio features, or encoding outside the student's engine, are not finite."""
    inputs = batch.student
    finite = torch.ones(len_of(inputs.audio), dtype=torch.bool)
    for audio in (inputs.audio, step.student.encode(inputs.audio)):
        for each in audio.values():
            finite &= each.isfinite().flatten(1).all(1).cpu()
    bad = inputs.audio_sample[~finite[inputs.audio_index]]
    return [batch.keys[number] for number in bad.unique().tolist()]


def _evaluated(step: DistillStep, batch: PairedBatch) -> tuple[float | str, float | str]:
    """Return kd and ce of a batch."""
    kd, ce, _ = step.evaluate(batch, max(1, len(batch.student.targets)))
    return number_of(kd), number_of(ce)


def _only(batch: PairedBatch, row: int) -> PairedBatch:
    """Return the batch with the answer of one sample only."""
    others = torch.arange(len(batch.keys), device=batch.student.labels.device) != row
    return batch.ignoring(others)
