"""Run a pass over the validation data."""

from collections.abc import Callable

import torch

from caad_ds.data.batch import PairedBatch
from caad_ds.data.loader import Collate, once
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.distill.step import DistillStep
from caad_ds.training.metrics.metric_sums import MetricSums
from caad_ds.utils.ranks import agreed, gathered, world


def validate(
    step: DistillStep,
    reader: IndexedReader,
    collate: Collate,
    weigh: Callable[[PairedBatch], float],
    sums: MetricSums,
    batch_size: int,
) -> tuple[dict[str, float], list[str]]:
    """Return the means over all samples, and the ids of samples in batches whose loss is not finite.

    Every rank calls it with empty `sums`, and gets the same. `weigh` returns the weight of a batch in the means.
    """
    losses: list[tuple[list[str], torch.Tensor]] = []
    step.engine.eval()
    with step.teacher_head():
        rounds = once(reader, collate, *world(), batch_size)
        while (batch := agreed(lambda: next(rounds, None))) is not None:
            # A round may hold only repeats for this rank; they must not count, and the loss must not divide by 0.
            weight = weigh(batch)
            kd, ce, diagnostics = step.evaluate(batch.to(sums.device), max(1.0, weight))
            sums.add_output(kd, ce, diagnostics, weight)
            losses.append((batch.keys, kd + ce))
    step.engine.train()
    finite = torch.stack([loss for _, loss in losses]).isfinite().tolist()
    bad = {key for (keys, _), whole in zip(losses, finite, strict=True) if not whole for key in keys}
    return sums.means(), sorted(set().union(*gathered(bad)))
