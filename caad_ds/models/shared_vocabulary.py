"""The tokens that teacher and student have in common: the vocabulary that their distributions are compared over."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from caad_ds.loss.head import LMHead
from caad_ds.models.reader import Reader
from caad_ds.utils.errors import UserError

LEAST = 0.5  # share of the smaller vocabulary that must be in common: below it the tokenizers are not of one kind


@dataclass(frozen=True)
class SharedVocabulary:
    """Ids that stand for the same token, or for none, in both models; `ids` is None where they are the first `size`."""

    size: int
    ids: Tensor | None = None

    @classmethod
    def of(cls, student: Reader, teacher: Reader, rows: tuple[int, int]) -> "SharedVocabulary":
        """What two models have in common; `rows` are those of their heads, the student's first.

        UserError, which names both, where their answers would be other tokens.
        """
        smaller = min(rows)
        ours, theirs = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
        names = f"teacher {teacher.tokenizer.name_or_path} and student {student.tokenizer.name_or_path}"
        unlike = {number for token, number in (ours.items() ^ theirs.items())}
        ids = torch.tensor([number for number in range(smaller) if number not in unlike], dtype=torch.long)
        needed = min(len(ours), len(theirs))
        alike = len(ours.items() & theirs.items())
        if alike < LEAST * needed:
            raise UserError(
                f"{names} have different vocabularies of answers: {alike} of {needed} tokens have the same id in both; "
                "distillation compares logits over one vocabulary, take models of one tokenizer"
            )
        ends = [(reader.prompts.turn.end, _token(reader, reader.prompts.turn.end)) for reader in (teacher, student)]
        if ends[0] != ends[1]:
            raise UserError(
                f"{names} end an answer differently: {ends[0][1]!r} ({ends[0][0]}), {ends[1][1]!r} ({ends[1][0]}); set "
                "student.tokenizer of a student.llm to the teacher's, or take models whose chat templates end a turn "
                "alike"
            )
        if len(ids) == smaller:
            return cls(smaller)
        prefix = bool(ids[-1] == len(ids) - 1)
        return cls(len(ids), None if prefix else ids)

    def applied(self, student: LMHead, teacher: LMHead, labels: Tensor) -> tuple[LMHead, LMHead, Tensor, int]:
        """Both heads, and the labels [N] by their place, over the shared tokens, and how many of the rows count."""
        if self.ids is None:
            return student, teacher, labels, self.size
        ids = self.ids.to(labels.device)
        place = torch.searchsorted(ids, labels).clamp(max=self.size - 1)
        # One that is not shared gets a place that the loss refuses: whoever collates has looked before.
        place = torch.where(ids[place] == labels, place, self.size)
        return student.rows(ids), teacher.rows(ids), place, self.size

    def masked(self, z: Tensor) -> Tensor:
        """Logits [..., V] of one of the models, over the shared tokens' ids: -inf at those between that are not."""
        if self.ids is None:
            return z[..., : self.size]
        kept = torch.full_like(z[..., : int(self.ids[-1]) + 1], -torch.inf)
        return kept.index_copy(-1, self.ids.to(z.device), z[..., self.ids.to(z.device)])

    def holds(self, token: int) -> bool:
        """Whether a token is shared."""
        if self.ids is None:
            return token < self.size
        place = min(int(torch.searchsorted(self.ids, token)), self.size - 1)
        return int(self.ids[place]) == token


def _token(reader: Reader, number: int) -> Any:
    return reader.tokenizer.convert_ids_to_tokens(number)
