"""The answers of Stage 1 by id, stored on disk."""

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from caad_ds.utils.errors import UserError
from caad_ds.utils.journal import Journal
from data_prep.common.jsonl import Rejected
from data_prep.stage1.engines import Answer

CHECK, ENGINE = "check", "engine"


@dataclass(frozen=True)
class RejectedAnswer(Rejected):
    """A rejected answer with its text, the question, and the right label if known.

    `by` is CHECK or ENGINE: an answer rejected by a check may pass other checks; one rejected by the engine, such as a
    truncated one, stays rejected.
    """

    response: str
    question: str = ""
    label: str = ""
    by: str = CHECK


class Answers:
    """Answers in a journal; only ids and file offsets are in memory."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._places = {_answer(row, where).id: place for where, place, row in journal.placed()}

    def add(self, answer: Answer) -> None:
        """Store an answer; it is on disk when this returns."""
        self._places[answer.id] = self._journal.append(vars(answer))

    def __contains__(self, identity: object) -> bool:
        return identity in self._places

    def __getitem__(self, identity: str) -> Answer:
        return Answer(**self._journal.read(self._places[identity]))


def _answer(row: dict, where: str) -> Answer:
    try:
        return TypeAdapter(Answer).validate_python(row)
    except ValidationError as error:
        raise UserError(f"{where}: no answer of Stage 1; remove that line, and its record is answered again") from error
