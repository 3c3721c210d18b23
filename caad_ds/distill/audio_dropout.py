"""Audio dropout: a share of the samples gets the negative instead of its audio."""

import zlib

import torch

from caad_ds.data.batch import Batch, PairedBatch


class AudioDropout:
    """Replaces the audio of a share of the samples with the negative; share 0 changes nothing.

    The draw depends only on seed, step and sample, not on the rank that holds the sample.
    """

    def __init__(self, share: float, seed: int):
        self.share, self.seed = share, seed

    def __call__(self, step: int, batch: PairedBatch) -> PairedBatch:
        """Return the batch with audio dropped."""
        if not self.share or batch.negative is None:
            return batch
        drawn = [zlib.crc32(f"{self.seed}:{step}:{key}".encode()) / 2**32 for key in batch.keys]
        return PairedBatch(drop_audio(batch.student, batch.negative, torch.tensor(drawn) < self.share))


def drop_audio(batch: Batch, negative: Batch, dropped: torch.Tensor) -> Batch:
    """Return the batch with the samples in `dropped` (bool [B]) taken from the negative."""
    size = len(batch.keys)
    return Batch.cat([batch, negative]).select(torch.arange(size) + size * dropped)
