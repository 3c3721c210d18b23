"""Duplicate samples, and audios with several prompts."""

from dataclasses import dataclass

import numpy as np

from data_prep.verify.shard_check import DIGEST

WORDS = DIGEST // 8
LISTED = 10


@dataclass(frozen=True)
class Duplicates:
    """Samples that share their audio.

    Args:
        copies: [C, 2] numbers of a sample and of an earlier one with the same audio and prompt; a fault, since they
            count twice in training.
        audios: number of different audios.
        shared: number of audios with several prompts, which is normal: several questions about a clip.
        most: first sample and number of prompts of the audios with the most prompts.
    """

    copies: np.ndarray
    audios: int
    shared: int
    most: list[tuple[int, int]]


def find_duplicates(numbers: np.ndarray, digests: bytes | bytearray) -> Duplicates:
    """Find duplicates; `numbers` int64 [N] of the samples, `digests`: of audio and prompt of each, concatenated."""
    rows = np.frombuffer(digests, dtype="<u8").reshape(len(numbers), 2 * WORDS)
    first, sample = _groups(rows)
    copies = np.flatnonzero(first[sample] != np.arange(len(rows)))
    audio_first, audio = _groups(rows[:, :WORDS])
    prompts = np.bincount(audio[first], minlength=len(audio_first))
    most = [k for k in np.lexsort((numbers[audio_first], -prompts))[:LISTED] if prompts[k] > 1]
    return Duplicates(
        copies=np.stack([numbers[copies], numbers[first[sample[copies]]]], axis=1),
        audios=len(audio_first),
        shared=int((prompts > 1).sum()),
        most=[(int(numbers[audio_first[k]]), int(prompts[k])) for k in most],
    )


def _groups(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group equal rows; returns the first row of each group, and the group of each row."""
    order = np.lexsort(rows.T)  # stable: equal rows keep their order
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    group = np.empty(len(rows), dtype=np.int64)
    group[order] = np.cumsum(new) - 1
    return order[new], group
