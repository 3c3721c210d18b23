"""On-policy answers: the student draws them during training, and they replace some samples' pseudo ground truth."""

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

ROWS = 64  # answers to decode together, limited by the memory of keys and values


@dataclass(frozen=True)
class DrawnAnswers:
    """The samples of a micro-batch with drawn answers, int64 [k], and these answers, int64 [T] each.

    An answer ends with its end token, unless it was cut at the maximum length.
    """

    samples: Tensor
    answers: list[Tensor]

    def put_into(self, batch: PairedBatch) -> PairedBatch:
        """Return the batch with the drawn answers, for both models and the second path."""

        def changed(part: Batch | None) -> Batch | None:
            return None if part is None else part.with_answers(self.samples, self.answers)

        student = batch.student.with_answers(self.samples, self.answers)
        teacher = student if batch.teacher is batch.student else changed(batch.teacher)
        return replace(batch, student=student, teacher=teacher, negative=changed(batch.negative))


@dataclass
class Rollouts:
    """Draws answers of the current student, once per window of micro-batches.

    The choice of samples and every random number are a function of (seed, step, sample): neither the world size nor a
    resume changes them. `forbidden`, bool [V], marks tokens that are never drawn. Source: on-policy distillation, GKD
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
        """The settings of drawing."""
        assert self.objective.on_policy is not None
        return self.objective.on_policy

    @torch.no_grad()
    def draw(self, step: int, batches: Sequence[Batch]) -> list[DrawnAnswers]:
        """Draw answers to some samples of a window's prepared student batches; every rank calls it.

        All ranks gather the weights together, and each decodes on its own: none waits for another's longer answers.
        """
        chosen = [self._chosen(step, batch) for batch in batches]
        prompts = [batch.prompts(rows) for batch, rows in zip(batches, chosen, strict=True) if len(rows)]
        with self.student.filled() as lm:
            answers = [answer for some in _decoding_batches(prompts) for answer in self._generate(lm, step, some)]
        drawn = []
        for batch, rows in zip(batches, chosen, strict=True):
            taken, answers = answers[: len(rows)], answers[len(rows) :]
            drawn.append(DrawnAnswers(rows, taken))
            self._count(batch, drawn[-1])
        return drawn

    def read_counts(self) -> tuple[dict[str, float], set[int]]:
        """Return and reset what was drawn since the last call: sums, and a hash of each distinct answer."""
        counts = self.counts, self.different
        self.counts, self.different = {}, set()
        return counts

    def _chosen(self, step: int, batch: Batch) -> Tensor:
        """Choose the samples of a batch, int64 [k], whose answers are drawn; never samples without an answer."""
        digests = [hashlib.sha256(f"{self.seed}:{step}:{key}:rollout".encode()).digest()[:8] for key in batch.keys]
        below = [int.from_bytes(digest) < self.settings.share * 2**64 for digest in digests]
        answered = (batch.labels != IGNORE).any(1)
        return (torch.tensor(below).to(answered.device) & answered).nonzero().squeeze(-1)

    def _generate(self, lm: AudioLM, step: int, prompts: Batch) -> list[Tensor]:
        if lm.trains_tower_inside:
            prompts = lm.with_tower_states(prompts)
        settings = self.settings
        named = replace(prompts, keys=[f"{step}:{key}" for key in prompts.keys])
        sampling = Sampling(settings.temperature, settings.top_p, settings.top_k, self.seed)
        tokens = generate(
            lm, named, max_new_tokens=settings.max_new_tokens, sampling=sampling, forbidden=self.forbidden
        )
        ends = torch.isin(tokens, torch.tensor(self.ends, device=tokens.device))
        lengths = torch.where(ends.any(1), ends.to(torch.uint8).argmax(1) + 1, tokens.shape[1])
        return [row[:length] for row, length in zip(tokens, lengths.tolist(), strict=True)]

    def _count(self, batch: Batch, drawn: DrawnAnswers) -> None:
        written = [answer.tolist() for answer in drawn.answers]
        given = [[token for token in row if token != IGNORE] for row in batch.labels[drawn.samples].tolist()]
        self.different |= {hash(tuple(answer)) for answer in written}
        counts = {
            "answers": len(written),
            "tokens": sum(map(len, written)),
            "ended": sum(answer[-1] in self.ends for answer in written),
            "empty": sum(len(answer) == 1 and answer[0] in self.ends for answer in written),
            "longer": sum(len(own) > len(gold) for own, gold in zip(written, given, strict=True)),
            "same": sum(
                sum(a == b for a, b in zip(own, gold, strict=False)) / max(len(own), len(gold))
                for own, gold in zip(written, given, strict=True)
            ),
            "given": sum(min(len(gold), self.settings.max_new_tokens) for gold in given),
        }
        self.counts = {name: self.counts.get(name, 0.0) + value for name, value in counts.items()}


def _decoding_batches(prompts: Sequence[Batch]) -> Iterator[Batch]:
    """Join a window's prompts to batches of ROWS or more; an answer does not depend on the rest of its batch."""
    waiting: list[Batch] = []
    for number, batch in enumerate(prompts, 1):
        waiting.append(batch)
        if number == len(prompts) or sum(len(each.keys) for each in waiting) >= ROWS:
            yield Batch.cat(waiting, pad="left")
            waiting = []


def forbidden_tokens(student: AudioLM, teacher: AudioLM, shared: SharedVocabulary | None) -> Tensor:
    """Return the student's tokens that no drawn answer may contain, bool [V].

    These are audio and image placeholders of either model (`generate` excludes the placeholder of the student's
    prompts), ids that its tokenizer does not have, and tokens that the teacher lacks or reads as another token.
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
