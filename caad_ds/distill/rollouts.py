"""Answers that the student draws during training, in the place of some samples' pseudo ground truth."""

import zlib
from collections.abc import Sequence
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


@dataclass(frozen=True)
class Drawn:
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

    @property
    def settings(self) -> OnPolicySection:
        """How they are drawn."""
        assert self.objective.on_policy is not None
        return self.objective.on_policy

    @torch.no_grad()
    def draw(self, step: int, batches: Sequence[Batch]) -> list[Drawn]:
        """The answers to some of the samples of a window's prepared student batches; every rank calls it.

        All ranks gather the weights together, and each decodes alone: no rank waits for another's longer answers.
        """
        chosen = [self._chosen(step, batch) for batch in batches]
        prompts = [batch.prompts(rows) for batch, rows in zip(batches, chosen, strict=True) if len(rows)]
        with self.student.filled() as lm:
            answers = self._written(lm, step, Batch.cat(prompts, pad="left")) if prompts else []
        drawn = []
        for batch, rows in zip(batches, chosen, strict=True):
            taken, answers = answers[: len(rows)], answers[len(rows) :]
            drawn.append(Drawn(rows, taken))
            self._count(batch, drawn[-1])
        return drawn

    def read_counts(self) -> dict[str, float]:
        """What was drawn since the last call, as sums: see `rollout_means`."""
        counts, self.counts = self.counts, {}
        return counts

    def _chosen(self, step: int, batch: Batch) -> Tensor:
        """The samples of a batch, int64 [k], that are answered anew; one without an answer never is."""
        draws = [zlib.crc32(f"{self.seed}:{step}:{key}:rollout".encode()) / 2**32 for key in batch.keys]
        answered = (batch.labels != IGNORE).any(1)
        return ((torch.tensor(draws) < self.settings.share).to(answered.device) & answered).nonzero().squeeze(-1)

    def _written(self, lm: AudioLM, step: int, prompts: Batch) -> list[Tensor]:
        if lm.trains_tower_inside:
            prompts = lm.heard(prompts)
        asked = self.settings
        named = replace(prompts, keys=[f"{step}:{key}" for key in prompts.keys])
        sampling = Sampling(asked.temperature, asked.top_p, asked.top_k, self.seed)
        tokens = generate(
            lm, named, max_new_tokens=asked.max_new_tokens, sampling=sampling, forbidden=self.forbidden
        )  # fmt: skip
        ends = torch.isin(tokens, torch.tensor(answer_ends(lm), device=tokens.device))
        lengths = torch.where(ends.any(1), ends.to(torch.uint8).argmax(1) + 1, tokens.shape[1])
        return [row[:length] for row, length in zip(tokens, lengths.tolist(), strict=True)]

    def _count(self, batch: Batch, drawn: Drawn) -> None:
        ends = answer_ends(self.student.lm)
        written = [answer.tolist() for answer in drawn.answers]
        given = [row[row != IGNORE].tolist() for row in batch.labels[drawn.samples]]
        found = {
            "rollout_answers": len(written),
            "rollout_tokens": sum(map(len, written)),
            "rollout_ended": sum(answer[-1] in ends for answer in written),
            "rollout_empty": sum(len(answer) == 1 and answer[0] in ends for answer in written),
            "rollout_distinct": len(set(map(tuple, written))),
            "rollout_same": sum(
                sum(a == b for a, b in zip(own, gold, strict=False)) / max(len(own), len(gold))
                for own, gold in zip(written, given, strict=True)
            ),
            "rollout_given": sum(min(len(gold), self.settings.max_new_tokens) for gold in given),
        }
        self.counts = {name: self.counts.get(name, 0.0) + value for name, value in found.items()}


def forbidden_tokens(lm: AudioLM, shared: SharedVocabulary | None) -> Tensor:
    """Bool [V]: the tokens of a student that no drawn answer may hold.

    Those that stand for audio or pictures, and those that are not the teacher's, or another token to it.
    """
    rows = len(lm.head().weight)
    if shared is None:
        forbidden = torch.zeros(rows, dtype=torch.bool)
    else:
        forbidden = torch.ones(rows, dtype=torch.bool)
        forbidden[torch.arange(shared.size) if shared.ids is None else shared.ids] = False
    ends = answer_ends(lm)
    forbidden[[token for token in lm.placeholders if token < rows and token not in ends]] = True
    return forbidden
