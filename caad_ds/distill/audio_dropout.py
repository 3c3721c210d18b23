"""Audio dropout: a share of the samples hears the negative in the place of its audio."""

import zlib

import torch

from caad_ds.data.batch import Batch, PairedBatch


class AudioDropout:
    """Exchanges the audio of a share of the samples for the negative, or leaves all batches alone (share 0).

    The draw depends on seed, step and sample alone, not on who holds the sample.
    """

    def __init__(self, share: float, seed: int):
        self.share, self.seed = share, seed

    def __call__(self, step: int, batch: PairedBatch) -> PairedBatch:
        """The batch as a step takes it."""
        if not self.share or batch.negative is None:
            return batch
        drawn = [zlib.crc32(f"{self.seed}:{step}:{key}".encode()) / 2**32 for key in batch.keys]
        return PairedBatch(drop_audio(batch.student, batch.negative, torch.tensor(drawn) < self.share))


def drop_audio(batch: Batch, negative: Batch, dropped: torch.Tensor) -> Batch:
    """The batch with the samples in `dropped` (bool [B]) as they are in the negative."""
    size = len(batch.keys)
    return Batch.cat([batch, negative]).select(torch.arange(size) + size * dropped)
