"""Samples that are there twice, and audios that several prompts are about."""

from dataclasses import dataclass

import numpy as np

from data_prep.verify.shard_check import DIGEST

WORDS = DIGEST // 8
LISTED = 10


@dataclass(frozen=True)
class Duplicates:
    """Which samples share their audio.

    `copies` [C, 2]: samples with the audio and the prompt of an earlier one, and that one; a fault, since they count
    twice in training. `audios`: how many different ones there are; `shared`: how many of them have several prompts,
    which is how corpora ask several questions about a clip; `most`: the first sample of those with the most prompts,
    and how many prompts it has.
    """

    copies: np.ndarray
    audios: int
    shared: int
    most: list[tuple[int, int]]


def find_duplicates(numbers: np.ndarray, digests: bytes | bytearray) -> Duplicates:
    """Compare samples, given their numbers int64 [N] and of each the digest of its audio and that of its prompt."""
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
    """The first row of each group of equal rows, and of every row its group."""
    order = np.lexsort(rows.T)  # stable: of equal rows the first one comes first
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    group = np.empty(len(rows), dtype=np.int64)
    group[order] = np.cumsum(new) - 1
    return order[new], group
