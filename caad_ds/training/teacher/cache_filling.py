"""Fill a teacher cache before training: every sample of the data once, except those already stored."""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import partial

import numpy as np
import torch

from caad_ds.config.deepspeed_settings import check_deepspeed
from caad_ds.config.schema import Config
from caad_ds.data.decoded_sample import Sample
from caad_ds.data.loader import Loader
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.distill.teacher_cache.cache_store import content_of, named
from caad_ds.distill.teacher_cache.cached_signals import FillingTeacher
from caad_ds.training.checks.attention import check_attention
from caad_ds.training.checks.finite_weights import check_models
from caad_ds.training.checks.usable_samples import check_lengths, check_texts
from caad_ds.training.teacher.build_teacher import build_teacher
from caad_ds.training.teacher.cache import TeacherCache, seen
from caad_ds.training.teacher_and_student import load_models, pair
from caad_ds.utils.array_task import Part
from caad_ds.utils.formatting import counted, gigabytes
from caad_ds.utils.launch import is_main
from caad_ds.utils.progress import Heartbeat
from caad_ds.utils.ranks import agreed, from_main, gathered, world

ROUNDS = 64  # batches of a rank after which stored rows are published


class CacheFilling:
    """The teacher with a cache to fill; a context that releases the engine at its end. Every rank makes one."""

    def __init__(self, cfg: Config, device: torch.device, heartbeat: Heartbeat, part: Part):
        self.cfg, self.device, self.heartbeat, self.part = cfg, device, heartbeat, part
        self.seen = from_main(partial(seen, cfg))
        agreed(self._load)
        folder = cfg.teacher.cache.path  # type: ignore[union-attr]
        checks = dict.fromkeys(self.readers, self.pairing.check)
        unusable = check_texts(checks, folder, False, cfg.data.skip_broken, heartbeat, corpora=False)
        models = self.student, self.teacher, self.cache
        with ExitStack() as held:
            filling, _ = build_teacher(cfg, *models, self.pairing, unusable, heartbeat, held, nullcontext)
            assert isinstance(filling, FillingTeacher)
            self.filling = filling
            self.held = held.pop_all()

    def _load(self) -> None:
        """Load everything that a user error can break."""
        cfg = self.cfg
        self.heartbeat.begin("loading models and data")
        folders = [cfg.data.train, *filter(None, [cfg.data.validation])]
        self.readers = [IndexedReader(str(folder)) for folder in folders]
        check_deepspeed(cfg)
        check_attention(cfg)
        assert self.seen is not None
        self.cache = TeacherCache(cfg, self.seen, self.readers[0], self.readers, part=self.part, refill=True)
        if is_main():
            self.cache.make_folder()  # before models are loaded
        self.student, self.teacher = load_models(cfg, self.device)
        self.pairing = pair(cfg, self.student, self.teacher, self.readers[0], self.cache)
        for reader in self.readers:
            check_lengths(reader, self.pairing.readers)
        check_models(cfg, self.student, self.teacher)

    def run(self, batch: int) -> None:
        """Compute and store the missing samples of this part, `batch` per rank and forward."""
        computed = sum(self._fill(reader, batch) for reader in self.readers)
        self.filling.publish()  # samples that cannot be used, if nothing was computed
        from_main(self.cache.finish)
        store = self.filling.store
        stored = f"{counted(len(store), 'sample')}, {gigabytes(store.size)} GB in {self.cache.folder}"
        self.heartbeat.say(f"teacher.cache: {counted(computed, 'sample')} computed; {stored}")

    def _fill(self, reader: IndexedReader, batch: int) -> int:
        """Store the missing samples of a data set; return their number."""
        rank, ranks = world()
        numbers = self._missing(reader)
        rounds = -(-len(numbers) // (batch * ranks))

        def wanted(step: int) -> np.ndarray:
            return (step * ranks + rank) * batch + np.arange(batch)

        def samples(step: int) -> list[list[Sample]]:
            return [[reader[numbers[position % len(numbers)]] for position in wanted(step).tolist()]]

        loader = Loader(samples, self.pairing, self.cfg.data.workers)
        with torch.no_grad():
            for step, read in enumerate(loader.steps(0, rounds)):
                done = step * batch * ranks
                self.heartbeat.set_activity(lambda done=done: f"teacher cache: {done}/{len(numbers)} samples")  # type: ignore[misc]
                [pairs] = agreed(read)
                # Samples repeated in the last round are stored by another rank.
                pairs = pairs.ignoring(torch.from_numpy(wanted(step) >= len(numbers))).to(self.device)
                with self.filling.head():
                    self.filling.states([pairs], [self.student.prepare(pairs.student)])
                if step % ROUNDS == ROUNDS - 1 or step == rounds - 1:
                    self.filling.publish()
        return len(numbers)

    def _missing(self, reader: IndexedReader) -> list[int]:
        """Return the numbers of this part's samples without sound rows, by length; each rank checks a share.

        Samples whose key is in the cache are read, with their rows: a text or an audio may have changed since.
        """
        entries, store = reader.index.samples, self.filling.store
        mine = list(self.part.take(range(len(reader))))
        new = set(store.lacks(named(entries[number]) for number in mine))
        rank, ranks = world()
        known = [number for number in mine if entries[number].key not in new]
        self.heartbeat.set_activity(lambda: f"checking {len(known)} stored samples")
        changed = agreed(lambda: [n for n in known[rank::ranks] if not self._is_stored(reader[n])])
        missing = {n for n in mine if entries[n].key in new} | {n for each in gathered(changed) for n in each}
        return sorted(missing, key=lambda n: (entries[n].tokens + 50 * entries[n].seconds, n))

    def _is_stored(self, sample: Sample) -> bool:
        answer: Sequence[int] = self.pairing.student.check(sample).answer[: self.cfg.data.max_answer_tokens]
        return self.filling.store.is_sound(content_of(sample, answer), len(answer))

    def __enter__(self) -> "CacheFilling":
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()
