"""Split a run's data into global batches, and these into micro-batches."""

import hashlib
from copy import copy

import numpy as np

from caad_ds.config.schema import Config
from caad_ds.data.decoded_sample import Sample
from caad_ds.data.sampler import GlobalOrder, Order, TokenBudgetOrder
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.data.stream import StreamReader
from caad_ds.distill.pairing import Pairing
from caad_ds.models.negatives import Partners
from caad_ds.utils.errors import UserError

PROBED_SAMPLES = 16  # samples that are read for what the index does not hold


def batch_shape(cfg: Config, world_size: int) -> tuple[int, int]:
    """Return (samples per rank and micro-step, accumulation steps); (1, steps) for a token budget."""
    opt = cfg.optimizer
    if opt.batch_tokens is not None and opt.micro_tokens is not None:
        accumulation, rest = divmod(opt.batch_tokens, opt.micro_tokens * world_size)
        if rest or accumulation == 0:
            raise UserError(
                f"optimizer.batch_tokens {opt.batch_tokens} is not a multiple of {world_size} ranks x micro_tokens "
                f"{opt.micro_tokens}; change one of them"
            )
        return 1, accumulation
    micro = opt.micro_batch or opt.batch_size // world_size
    accumulation, rest = divmod(opt.batch_size, max(1, micro * world_size))
    if micro == 0 or rest or accumulation == 0:
        each = f" x micro_batch {opt.micro_batch}" if opt.micro_batch else ""
        raise UserError(
            f"optimizer.batch_size {opt.batch_size} is not a multiple of {world_size} ranks{each}; change one of them"
        )
    return micro, accumulation


def teacher_batch(cfg: Config, placed: str, accumulation: int) -> int:
    """Return the micro-batches of a step that one forward of the teacher takes.

    `placed` is where its weights are; the default for those in host memory or on NVMe is all.
    """
    given = cfg.teacher.batch if cfg.teacher is not None else None
    return min(given or (accumulation if placed in ("cpu", "nvme") else 1), accumulation)


def partners_of(reader: IndexedReader | StreamReader) -> Partners | None:
    """Return a function from (sample, number of its audio) to another sample's audio; None for a stream.

    It depends on the sample alone, and stays that of `partners_identity` if the reader leaves out samples later.
    """
    if isinstance(reader, StreamReader):
        return None
    reader = copy(reader)

    def partner(sample: Sample, number: int) -> np.ndarray:
        first = int.from_bytes(hashlib.sha256(f"{sample.key}:{number}".encode()).digest()[:8]) % len(reader)
        for step in range(len(reader)):
            other = reader[(first + step) % len(reader)]
            # Several prompts may be about one audio.
            if other.waveforms and not any(np.array_equal(other.waveforms[0], own) for own in sample.waveforms):
                return other.waveforms[0]
        raise UserError("negative shuffled: there is no other sample with audio; choose another negative")

    return partner


def partners_identity(reader: IndexedReader | StreamReader) -> str:
    """Hash what `partners_of` draws from: key and audio of every sample, in order."""
    if isinstance(reader, StreamReader):
        return "a stream"
    digest = hashlib.sha256()
    for entry in reader.index.samples:
        digest.update(f"{entry.key} {entry.pcm}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def data_order(cfg: Config, reader: IndexedReader, pairing: Pairing) -> Order:
    """Return the order of the data: batches by number of samples (grouped by audio or not), or by a token budget."""
    opt, entries = cfg.optimizer, reader.index.samples
    if opt.batch_tokens is not None and opt.micro_tokens is not None:
        # The index estimates text and has audio lengths; what the template adds is measured on a few samples.
        some = range(0, len(reader), max(1, len(reader) // PROBED_SAMPLES))
        estimates = [entry.tokens + pairing.positions_of(entry.seconds) for entry in entries]
        added = max(pairing.length(reader.without_audio(n)) - estimates[n] for n in some)
        lengths = [estimate + added for estimate in estimates]
        if over := [entry.key for entry, length in zip(entries, lengths, strict=True) if length > opt.micro_tokens]:
            raise UserError(
                f"{cfg.data.train}: {len(over)} samples have more than optimizer.micro_tokens {opt.micro_tokens} "
                f"({over[0]}, ...; the longest about {max(lengths)}); raise it"
            )
        per_step = opt.batch_tokens // opt.micro_tokens
        return TokenBudgetOrder(lengths, opt.micro_tokens, per_step, opt.bucket_window, cfg.run.seed)
    # Grouped by the decoded audio: records may give one audio different names.
    groups = [entry.pcm for entry in entries] if cfg.data.group_by_audio else None
    return GlobalOrder(len(reader), opt.batch_size, cfg.run.seed, groups)
