"""The vocabulary that teacher and student share, over which their distributions are compared."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from caad_ds.loss.head import LMHead
from caad_ds.models.reader import Reader
from caad_ds.utils.errors import UserError

LEAST = 0.5  # least shared part of the smaller vocabulary: below it the tokenizers are of different kinds


@dataclass(frozen=True)
class SharedVocabulary:
    """Ids of the same token, or of none, in both models; `ids` is None if they are the first `size`."""

    size: int
    ids: Tensor | None = None

    @classmethod
    def of(cls, student: Reader, teacher: Reader, rows: tuple[int, int]) -> "SharedVocabulary":
        """Find the vocabulary that two models share; `rows` are those of their heads, the student's first.

        UserError names both if their answers would have different tokens.
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
        """Restrict both heads and the labels [N] to the shared tokens; also return the number of these."""
        if self.ids is None:
            return student, teacher, labels, self.size
        ids = self.ids.to(labels.device)
        index = torch.searchsorted(ids, labels).clamp(max=self.size - 1)
        # A label that is not shared gets an index that the loss refuses; collation has already checked for that.
        index = torch.where(ids[index] == labels, index, self.size)
        return student.rows(ids), teacher.rows(ids), index, self.size

    def masked(self, z: Tensor) -> Tensor:
        """Mask logits [..., V] of one of the models: -inf at ids that are not shared."""
        if self.ids is None:
            return z[..., : self.size]
        kept = torch.full_like(z[..., : int(self.ids[-1]) + 1], -torch.inf)
        return kept.index_copy(-1, self.ids.to(z.device), z[..., self.ids.to(z.device)])

    def holds(self, token: int) -> bool:
        """Return whether a token is shared."""
        if self.ids is None:
            return token < self.size
        index = min(int(torch.searchsorted(self.ids, token)), self.size - 1)
        return int(self.ids[index]) == token


def _token(reader: Reader, number: int) -> Any:
    return reader.tokenizer.convert_ids_to_tokens(number)
