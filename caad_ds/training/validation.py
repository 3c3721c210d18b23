"""A pass over the validation data."""

from collections.abc import Callable

import torch

from caad_ds.data.batch import PairedBatch
from caad_ds.data.loader import Collate, once
from caad_ds.data.reader import IndexedReader
from caad_ds.distill.step import DistillStep
from caad_ds.training.metrics.sums import MetricSums
from caad_ds.utils.ranks import agreed, gathered, world


def validate(
    step: DistillStep,
    reader: IndexedReader,
    collate: Collate,
    weigh: Callable[[PairedBatch], float],
    sums: MetricSums,
    batch_size: int,
) -> tuple[dict[str, float], list[str]]:
    """The means over all samples, with `sums` empty before, and the ids of batches whose loss is not finite.

    Every rank calls it, and gets the same. `weigh` gives what a batch counts in the means.
    """
    told: list[tuple[list[str], torch.Tensor]] = []
    step.engine.eval()
    with step.teacher_head():
        rounds = once(reader, collate, *world(), batch_size)
        while (batch := agreed(lambda: next(rounds, None))) is not None:
            # A round may hold nothing but repeats for this rank; the sums must not count it, nor the loss divide by 0.
            weight = weigh(batch)
            kd, ce, diagnostics = step.evaluate(batch.to(sums.device), max(1.0, weight))
            sums.add_output(kd, ce, diagnostics, weight)
            told.append((batch.keys, kd + ce))
    step.engine.train()
    finite = torch.stack([loss for _, loss in told]).isfinite().tolist()
    bad = {key for (keys, _), whole in zip(told, finite, strict=True) if not whole for key in keys}
    return sums.means(), sorted(set().union(*gathered(bad)))
