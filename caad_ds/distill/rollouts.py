"""Answers that the student draws during training, in the place of some samples' pseudo ground truth."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.config.on_policy_section import OnPolicySection
from caad_ds.data.batch import IGNORE, Batch, PairedBatch
from caad_ds.distill.gathered_copy import GatheredCopy
from caad_ds.generation.decoding import answer_ends, generate
from caad_ds.generation.sampling import Sampling
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.shared_vocabulary import SharedVocabulary

ROWS = 64  # micro-batches are decoded together up to so many answers, for the memory of keys and values


@dataclass(frozen=True)
class DrawnAnswers:
    """The samples of a micro-batch that the student has answered itself, int64 [k], and their answers, int64 [T] each.

    An answer ends with its end token, unless it was cut at the longest length.
    """

    samples: Tensor
    answers: list[Tensor]

    def put_into(self, batch: PairedBatch) -> PairedBatch:
        """The same samples, these with the drawn answers, as both models and the second path read them."""

        def changed(each: Batch | None) -> Batch | None:
            return None if each is None else each.with_answers(self.samples, self.answers)

        student = batch.student.with_answers(self.samples, self.answers)
        teacher = student if batch.teacher is batch.student else changed(batch.teacher)
        return replace(batch, student=student, teacher=teacher, negative=changed(batch.negative))


@dataclass
class Rollouts:
    """Draws answers of the student as it is, once for a window of micro-batches.

    Which samples, and every number that is drawn, are a function of (seed, step, sample): neither the world size nor a
    resume changes them. `forbidden`, bool [V], are tokens that are never drawn. Source: on-policy distillation, GKD
    (arXiv 2306.13649).
    """

    objective: ObjectiveSection
    seed: int
    student: GatheredCopy
    forbidden: Tensor
    counts: dict[str, float] = field(default_factory=dict)
    different: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ends = answer_ends(self.student.lm)

    @property
    def settings(self) -> OnPolicySection:
        """How they are drawn."""
        assert self.objective.on_policy is not None
        return self.objective.on_policy

    @torch.no_grad()
    def draw(self, step: int, batches: Sequence[Batch]) -> list[DrawnAnswers]:
        """The answers to some of the samples of a window's prepared student batches; every rank calls it.

        All ranks gather the weights together, and each decodes alone: no rank waits for another's longer answers.
        """
        chosen = [self._chosen(step, batch) for batch in batches]
        prompts = [batch.prompts(rows) for batch, rows in zip(batches, chosen, strict=True) if len(rows)]
        with self.student.filled() as lm:
            answers = [answer for some in _parts(prompts) for answer in self._written(lm, step, some)]
        drawn = []
        for batch, rows in zip(batches, chosen, strict=True):
            taken, answers = answers[: len(rows)], answers[len(rows) :]
            drawn.append(DrawnAnswers(rows, taken))
            self._count(batch, drawn[-1])
        return drawn

    def read_counts(self) -> tuple[dict[str, float], set[int]]:
        """What was drawn since the last call: sums, and a number for each different answer."""
        found = self.counts, self.different
        self.counts, self.different = {}, set()
        return found

    def _chosen(self, step: int, batch: Batch) -> Tensor:
        """The samples of a batch, int64 [k], whose answers are drawn; samples without an answer are never chosen."""
        digests = [hashlib.sha256(f"{self.seed}:{step}:{key}:rollout".encode()).digest()[:8] for key in batch.keys]
        below = [int.from_bytes(digest) < self.settings.share * 2**64 for digest in digests]
        answered = (batch.labels != IGNORE).any(1)
        return (torch.tensor(below).to(answered.device) & answered).nonzero().squeeze(-1)

    def _written(self, lm: AudioLM, step: int, prompts: Batch) -> list[Tensor]:
        if lm.trains_tower_inside:
            prompts = lm.heard(prompts)
        asked = self.settings
        named = replace(prompts, keys=[f"{step}:{key}" for key in prompts.keys])
        sampling = Sampling(asked.temperature, asked.top_p, asked.top_k, self.seed)
        tokens = generate(lm, named, max_new_tokens=asked.max_new_tokens, sampling=sampling, forbidden=self.forbidden)
        ends = torch.isin(tokens, torch.tensor(self.ends, device=tokens.device))
        lengths = torch.where(ends.any(1), ends.to(torch.uint8).argmax(1) + 1, tokens.shape[1])
        return [row[:length] for row, length in zip(tokens, lengths.tolist(), strict=True)]

    def _count(self, batch: Batch, drawn: DrawnAnswers) -> None:
        written = [answer.tolist() for answer in drawn.answers]
        given = [[token for token in row if token != IGNORE] for row in batch.labels[drawn.samples].tolist()]
        self.different |= {hash(tuple(answer)) for answer in written}
        found = {
            "answers": len(written),
            "tokens": sum(map(len, written)),
            "ended": sum(answer[-1] in self.ends for answer in written),
            "empty": sum(len(answer) == 1 and answer[0] in self.ends for answer in written),
            "same": sum(
                sum(a == b for a, b in zip(own, gold, strict=False)) / max(len(own), len(gold))
                for own, gold in zip(written, given, strict=True)
            ),
            "given": sum(min(len(gold), self.settings.max_new_tokens) for gold in given),
        }
        self.counts = {name: self.counts.get(name, 0.0) + value for name, value in found.items()}


def _parts(prompts: Sequence[Batch]) -> Iterator[Batch]:
    """A window's prompts, in batches that end with ROWS or more; an answer does not depend on those beside it."""
    waiting: list[Batch] = []
    for number, batch in enumerate(prompts, 1):
        waiting.append(batch)
        if number == len(prompts) or sum(len(each.keys) for each in waiting) >= ROWS:
            yield Batch.cat(waiting, pad="left")
            waiting = []


def forbidden_tokens(student: AudioLM, teacher: AudioLM, shared: SharedVocabulary | None) -> Tensor:
    """Bool [V]: the tokens of a student that no drawn answer may hold.

    Those that stand for audio or pictures in either model (the placeholder of the student's prompts is left out by
    `generate`), those that are no token of its tokenizer, and those that are not the teacher's, or another token to it.
    """
    rows = len(student.head().weight)
    known = torch.zeros(rows, dtype=torch.bool)
    known[[token for token in student.reader.tokenizer.get_vocab().values() if token < rows]] = True
    if shared is not None:
        held = torch.zeros_like(known)
        held[torch.arange(shared.size) if shared.ids is None else shared.ids] = True
        known &= held
    ends = answer_ends(student)
    silent = {*student.placeholders, *teacher.placeholders, teacher.reader.prompts.placeholder}
    known[[token for token in silent if token < rows and token not in ends]] = False
    return ~known
