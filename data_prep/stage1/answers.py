"""The answers of Stage 1 by id, kept on disk."""

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from caad_ds.utils.errors import UserError
from caad_ds.utils.journal import Journal
from data_prep.common.jsonl import Rejected
from data_prep.stage1.engines import Answer

CHECK, ENGINE = "check", "engine"


@dataclass(frozen=True)
class RejectedAnswer(Rejected):
    """An answer that is rejected, with its text, what was asked, and the right label where one is known.

    `by` is CHECK or ENGINE: an answer that a check rejects may pass other checks; one that the engine rejects, such as
    a truncated one, stays rejected.
    """

    response: str
    question: str = ""
    label: str = ""
    by: str = CHECK


class Answers:
    """Answers in a journal; memory holds an id and a file offset each."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._places = {_answer(row, where).id: place for where, place, row in journal.placed()}

    def add(self, answer: Answer) -> None:
        """Keep an answer, on disk when this returns."""
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
