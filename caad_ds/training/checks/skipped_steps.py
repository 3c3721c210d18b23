"""Steps that are skipped since a loss or a gradient is not finite: which samples did it, how often, when to stop."""

import json
import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from caad_ds.data.batch import PairedBatch, len_of
from caad_ds.distill.step import DistillStep, Terms
from caad_ds.training.checks.finite_weights import not_finite, own_optimizer, own_weights
from caad_ds.utils.command import is_main
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import write_atomic, write_json
from caad_ds.utils.ranks import agreed, gathered
from caad_ds.utils.text import read_text

LOG = "skipped.jsonl"
DIAGNOSIS = "not_finite.json"
SHOWN = 8  # ids in a line of progress; the log has all


class Skips:
    """The steps that a run has skipped, counted alike on every rank.

    `in_row` are those since the last step that was applied; `too_many` says that they reach `limit`. Rank 0 keeps a
    line per skipped step in `output_dir/skipped.jsonl`.
    """

    def __init__(self, output_dir: Path, limit: int):
        self.log = output_dir / LOG
        self.diagnosis = output_dir / DIAGNOSIS
        self.limit = limit
        self.total = self.in_row = 0
        self.records: list[dict] = []

    @property
    def too_many(self) -> bool:
        """Whether so many steps in a row were skipped that the run must stop."""
        return self.in_row >= self.limit

    def restore(self, step: int, total: int, in_row: int) -> None:
        """Begin after `step` steps with these counts; every rank calls it. Lines of later steps are dropped."""
        self.total, self.in_row = total, in_row
        self.records = agreed(lambda: self._read(step))
        agreed(lambda: self._begin() if is_main() else None)

    def applied(self) -> None:
        """Count a step that was applied."""
        self.in_row = 0

    def skipped(self, step: int, found: dict) -> str:
        """Count a skipped step and keep what was found of it; returns what to say. Every rank calls it."""
        self.total, self.in_row = self.total + 1, self.in_row + 1
        self.records.append({"step": step, **found})
        agreed(lambda: self._write() if is_main() else None)
        return f"skipped: {reason(self.records[-1])} ({self.in_row} in a row, {self.total} in all)"

    @property
    def told(self) -> str:
        """What to say of the steps in a row that were skipped."""
        last = f", the last since {reason(self.records[-1])}" if self.records else ""  # its log may have been removed
        count = "1 step was" if self.in_row == 1 else f"{self.in_row} steps in a row were"
        return f"{count} skipped{last}"

    def write_diagnosis(self, values: dict[str, Any]) -> None:
        """Write `values`, what is known of a run that stops, with the steps in a row that were skipped before."""
        counts = {"skipped": self.total, "skipped_in_row": self.in_row}
        write_json(self.diagnosis, values | counts | {"row": self.records[len(self.records) - self.in_row :]})

    def _read(self, last: int) -> list[dict]:
        """The lines up to step `last`; UserError if the log is damaged."""
        if not self.log.is_file():
            return []
        try:
            records = [json.loads(line) for line in read_text(self.log).splitlines()]
            return [record for record in records if record["step"] <= last]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.log}: damaged ({error}); remove it, the checkpoint has the counts") from error

    def _begin(self) -> None:
        self._write()
        self.diagnosis.unlink(missing_ok=True)  # of a run that had stopped, and is started again

    def _write(self) -> None:
        if self.records or self.log.exists():
            write_atomic(self.log, "".join(json.dumps(r, allow_nan=False) + "\n" for r in self.records).encode())


def reason(record: dict) -> str:
    """What a record of a skipped step says, in words."""
    named = shown([sample["id"] for sample in record["samples"]])
    if record["not_finite"] == "audio":
        return f"the audio of {named} is not finite, nor is the gradient; the losses are"
    if record["not_finite"] == "gradient":
        return f"its losses are finite, the gradient is not; samples: {named}"
    every = "every sample, " if len(record["samples"]) == record["batch"] else ""
    return f"the loss is not finite of {every}{named}"


def shown(ids: Sequence[str]) -> str:
    """The first of some ids in words, and how many more there are."""
    return ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")


@torch.no_grad()
def culprits(
    step: DistillStep, read: Sequence[PairedBatch], window: Sequence[PairedBatch], terms: Sequence[Terms]
) -> dict:
    """What of a skipped step was not finite, and which samples gave it, over all ranks; every rank calls it.

    `window` holds the batches of the step and `terms` their terms; `read` are the batches as they were read, before
    audio dropout. The samples of a batch whose loss is not finite are evaluated again, each alone. Where all losses are
    finite, the samples are named whose audio is not: one that dropout has left without a place in the text still
    passes through the connector. Where all of that is finite too, nothing tells whose gradient is not, and all samples
    of the step are named.
    """
    losses = [kd + ce for kd, ce, _ in terms]
    finite = torch.stack(losses).isfinite().tolist() if losses else []
    # Where the student has drawn answers, with the pseudo ground truth and with these.
    both = list(zip(window, *([step.window.batches] if step.window else []), strict=True))
    suspects = [(batch, row) for batch, whole in zip(both, finite, strict=True) if not whole
                for row in range(len(batch[0].keys))]  # fmt: skip
    keys = list(chain(*gathered([key for batch in window for key in batch.keys])))
    rounds = max(gathered(len(suspects)))
    if rounds == 0:
        if heard := list(chain(*gathered([key for batch in read for key in _not_finite_audio(step, batch)]))):
            return {"not_finite": "audio", "batch": len(keys), "samples": [{"id": key} for key in heard]}
        return {"not_finite": "gradient", "batch": len(keys), "samples": [{"id": key} for key in keys]}
    asked = []
    step.engine.eval()
    with step.teacher_head():
        for number in range(rounds):  # the same number on every rank, whose engines run together
            batch, row = suspects[number] if number < len(suspects) else (both[0], 0)
            found = [_evaluated(step, _only(each, row)) for each in batch]
            if number < len(suspects):
                worst = next((each for each in found if str in map(type, each)), found[0])
                asked.append({"id": batch[0].keys[row], "kd": worst[0], "ce": worst[1]})
    step.engine.train()
    told = list(chain(*gathered(asked)))
    # None gives it alone where only the sum of a batch overflows.
    bad = [sample for sample in told if isinstance(sample["kd"], str) or isinstance(sample["ce"], str)]
    return {"not_finite": "loss", "batch": len(keys), "samples": bad or told}


def diagnosis(step: DistillStep) -> dict[str, list[str]]:
    """The names of weights and optimizer states that are not finite, over all ranks; every rank calls it."""
    parts = {"student": own_weights(step.engine.module), "optimizer": own_optimizer(step.engine)}
    if step.teacher is not None:
        parts["teacher"] = own_weights(step.teacher)
    found = {name: not_finite(tensors) for name, tensors in parts.items()}
    return {name: sorted({each for rank in gathered(found) for each in rank[name]}) for name in found}


def number_of(value: torch.Tensor | float) -> float | str:
    """A number as JSON takes it: of NaN and infinity the name."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _not_finite_audio(step: DistillStep, batch: PairedBatch) -> list[str]:
    """The ids of the samples with audio whose features, or what the student makes of them outside its engine, are not
    finite."""
    asked = batch.student
    finite = torch.ones(len_of(asked.audio), dtype=torch.bool)
    for audio in (asked.audio, step.student.encode(asked.audio)):
        for each in audio.values():
            finite &= each.isfinite().flatten(1).all(1).cpu()
    bad = asked.audio_sample[~finite[asked.audio_index]]
    return [batch.keys[number] for number in bad.unique().tolist()]


def _evaluated(step: DistillStep, batch: PairedBatch) -> tuple[float | str, float | str]:
    """kd and ce of a batch."""
    kd, ce, _ = step.evaluate(batch, max(1, len(batch.student.targets)))
    return number_of(kd), number_of(ce)


def _only(batch: PairedBatch, row: int) -> PairedBatch:
    """The batch with the answer of one sample alone."""
    others = torch.arange(len(batch.keys), device=batch.student.labels.device) != row
    return batch.ignoring(others)
