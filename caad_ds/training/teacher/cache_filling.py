"""Filling a teacher cache apart from a training: every sample of the data once, whatever is there already left out."""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import partial

import numpy as np
import torch

from caad_ds.config.deepspeed_files import check_deepspeed
from caad_ds.config.schema import Config
from caad_ds.data.audio.decoded import Sample
from caad_ds.data.loader import Loader
from caad_ds.data.reader import IndexedReader
from caad_ds.distill.teacher_cache.signals import FillingTeacher
from caad_ds.distill.teacher_cache.store import content_of, named
from caad_ds.training import engines
from caad_ds.training.checks.usable_samples import check_lengths, check_texts
from caad_ds.training.teacher.build import build_teacher
from caad_ds.training.teacher.cache import TeacherCache, seen
from caad_ds.training.teacher_and_student import load_models, pair
from caad_ds.utils.array_part import Part
from caad_ds.utils.progress import Heartbeat
from caad_ds.utils.ranks import agreed, from_main, gathered, world
from caad_ds.utils.wording import counted, gigabytes

ROUNDS = 64  # batches of a rank after which what is stored gets its name


class CacheFilling:
    """The teacher with a cache to fill; a context, which releases the engine at its end. Every rank makes it."""

    def __init__(self, cfg: Config, device: torch.device, heartbeat: Heartbeat, part: Part):
        self.cfg, self.device, self.heartbeat, self.part = cfg, device, heartbeat, part
        self.seen = from_main(partial(seen, cfg))
        agreed(self._load)
        folder = cfg.teacher.cache.path  # type: ignore[union-attr]
        unusable = check_texts(
            dict.fromkeys(self.readers, self.pairing.check), folder, False, cfg.data.skip_broken, heartbeat
        )
        models = self.student, self.teacher, self.cache
        with ExitStack() as held:
            filling, _ = build_teacher(cfg, *models, self.pairing, unusable, heartbeat, held, nullcontext)
            assert isinstance(filling, FillingTeacher)
            self.filling = filling
            self.held = held.pop_all()

    def _load(self) -> None:
        """Everything that a user's mistake can break."""
        cfg = self.cfg
        self.heartbeat.begin("loading models and data")
        folders = [cfg.data.train, *filter(None, [cfg.data.validation])]
        self.readers = [IndexedReader(str(folder)) for folder in folders]
        check_deepspeed(cfg)
        engines.check_attention(cfg)
        assert self.seen is not None
        self.cache = TeacherCache(cfg, self.seen, self.readers[0], self.readers, part=self.part, refill=True)
        self.student, self.teacher = load_models(cfg, self.device)
        self.pairing = pair(cfg, self.student, self.teacher, self.readers[0], self.cache)
        for reader in self.readers:
            check_lengths(reader, self.pairing.readers)
        engines.check_finite(cfg, self.student, self.teacher)

    def run(self, batch: int) -> None:
        """Compute and store what is missing of this part, `batch` samples per rank and forward."""
        computed = sum(self._fill(reader, batch) for reader in self.readers)
        store = self.filling.store
        found = f"{counted(len(store), 'sample')}, {gigabytes(store.size)} GB in {self.cache.folder}"
        self.heartbeat.say(f"teacher.cache: {counted(computed, 'sample')} computed; {found}")

    def _fill(self, reader: IndexedReader, batch: int) -> int:
        """Fill what is missing of a data set; returns how many samples that were."""
        rank, ranks = world()
        numbers = self._missing(reader)
        rounds = -(-len(numbers) // (batch * ranks))

        def wanted(step: int) -> np.ndarray:
            return (step * ranks + rank) * batch + np.arange(batch)

        def samples(step: int) -> list[list[Sample]]:
            return [[reader[numbers[place % len(numbers)]] for place in wanted(step).tolist()]]

        loader = Loader(samples, self.pairing, self.cfg.data.workers)
        with torch.no_grad():
            for step, read in enumerate(loader.steps(0, rounds)):
                done = step * batch * ranks
                self.heartbeat.turn_to(lambda done=done: f"teacher cache: {done}/{len(numbers)} samples")  # type: ignore[misc]
                [made] = agreed(read)
                # What a last round repeats is stored by another rank.
                made = made.ignoring(torch.from_numpy(wanted(step) >= len(numbers))).to(self.device)
                with self.filling.head():
                    self.filling.states([made], [self.student.prepare(made.student)])
                if step % ROUNDS == ROUNDS - 1 or step == rounds - 1:
                    self.filling.publish()
        return len(numbers)

    def _missing(self, reader: IndexedReader) -> list[int]:
        """The numbers of the samples of this part without rows, by length; over all ranks, which look at a share each.

        Those whose key is in the cache are read: a text or an audio may have changed since.
        """
        entries, store = reader.index.samples, self.filling.store
        mine = list(self.part.take(range(len(reader))))
        new = set(store.lacks(named(entries[number]) for number in mine))
        rank, ranks = world()
        known = [number for number in mine if entries[number].key not in new]
        self.heartbeat.turn_to(lambda: f"looking for changed samples among {len(known)}")
        changed = agreed(lambda: [n for n in known[rank::ranks] if not self._there(reader[n])])
        found = {n for n in mine if entries[n].key in new} | {n for each in gathered(changed) for n in each}
        return sorted(found, key=lambda n: (entries[n].tokens + 50 * entries[n].seconds, n))

    def _there(self, sample: Sample) -> bool:
        answer: Sequence[int] = self.pairing.student.check(sample).answer[: self.cfg.data.max_answer_tokens]
        return content_of(sample, answer) in self.filling.store

    def __enter__(self) -> "CacheFilling":
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()
