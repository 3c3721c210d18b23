"""Collate samples for teacher and student: a batch each, with the same answers, and the batch of the second path."""

from collections.abc import Sequence

from caad_ds.data.batch import IGNORE, Batch, PairedBatch
from caad_ds.data.decoded_sample import Sample
from caad_ds.distill.teacher_cache.cache_store import Store
from caad_ds.models import negatives
from caad_ds.models.prompts.prompt_encoder import Encoded
from caad_ds.models.reader import Reader
from caad_ds.models.shared_vocabulary import SharedVocabulary
from caad_ds.utils.errors import UserError


class Pairing:
    """Collates samples for teacher and student, once if both read alike.

    Both get the answer's ids of the student's tokenizer after its own template. `negative` names the second path,
    `partners` supplies audio of other samples for it. `store` holds cached states of the teacher; if `teacher_runs` is
    false, no batch is made for it.
    """

    def __init__(
        self,
        student: Reader,
        teacher: Reader | None = None,
        negative: str | None = None,
        shared: SharedVocabulary | None = None,
        partners: negatives.Partners | None = None,
        store: Store | None = None,
    ):
        self.student, self.teacher = student, teacher
        self.alike = teacher is not None and student.identity() == teacher.identity()
        self.negative = None if negative is None else negatives.find(negative)
        self.shared, self.partners = shared, partners
        self.store, self.teacher_runs = store, True

    def __call__(self, samples: Sequence[Sample]) -> PairedBatch:
        """Make the samples' batches, on the CPU; UserError names a sample that one of the models cannot read."""
        student = self.student.collate(samples)
        stored = None if self.store is None else self.store.read(samples, student)
        if not self.teacher_runs:
            return PairedBatch(student, stored=stored)
        teacher = student if self.alike else None
        if self.teacher is not None and not self.alike:
            answers = [row[row != IGNORE].tolist() for row in student.labels]
            teacher = self.teacher.collate(samples, answers=answers)
        return PairedBatch(student, teacher, self._second(teacher or student, samples), stored)

    def check(self, sample: Sample, room: int = 0) -> Encoded:
        """Encode a sample's texts with both readers; UserError names it if one fails or the answers differ.

        `room`: tokens to reserve for an answer that the student draws.
        """
        encoded = self.student.check(sample, room=room)
        if self.teacher is None or self.alike:
            return encoded
        theirs = self.teacher.check(sample, room=room)
        if theirs.answer != encoded.answer:
            raise UserError(
                f"sample {sample.key}: teacher and student make other tokens of its answer (the first: "
                f"{_first_difference(theirs.answer, encoded.answer)}); leave it out, or take models of one tokenizer"
            )
        if self.shared is not None and (others := [t for t in encoded.answer if not self.shared.holds(t)]):
            token = self.student.tokenizer.convert_ids_to_tokens(others[0])
            raise UserError(
                f"sample {sample.key}: its answer holds {token!r} ({others[0]}), which is another token to the "
                "teacher; change its text"
            )
        return encoded

    def length(self, sample: Sample) -> int:
        """Return the most positions that a sample takes in either model."""
        return max(reader.length(sample) for reader in self.readers)

    def positions_of(self, seconds: float) -> int:
        """Return the most positions that audio of this length takes in either model."""
        return max(reader.positions_of(seconds) for reader in self.readers)

    @property
    def readers(self) -> list[Reader]:
        """The readers in use, the student's first."""
        return [self.student] if self.teacher is None or self.alike else [self.student, self.teacher]

    @property
    def truncated(self) -> int:
        """How many answers were truncated."""
        return self.student.prompts.truncated

    def _second(self, batch: Batch, samples: Sequence[Sample]) -> Batch | None:
        if self.negative is None:
            return None
        return self.negative(batch, samples, self.teacher or self.student, self.partners)


def _first_difference(theirs: Sequence[int], ours: Sequence[int]) -> str:
    position = next((n for n, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), None)
    position = min(len(theirs), len(ours)) if position is None else position
    tokens = [str(answer[position]) if position < len(answer) else "none" for answer in (theirs, ours)]
    return f"{tokens[0]} and {tokens[1]} at {position}"
