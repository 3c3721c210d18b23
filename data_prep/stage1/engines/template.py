"""The toy engine: answers with the right statement from the metadata."""

from collections.abc import Container, Iterable, Iterator
from itertools import chain

from caad_ds.data.record import Record
from caad_ds.utils.errors import UserError
from data_prep.common.prompt_metadata import prompt_of
from data_prep.stage1.engines import Answer, PreparedEngine
from data_prep.stage1.engines.engine_options import EngineOptions

MISSING = (
    "record: its prompt has no statement for the template engine to answer with; run `caad-ds prep describe`, or "
    "take --engine transformers"
)


def prepare(options: EngineOptions) -> PreparedEngine:
    """Prepare the engine, which has no settings."""
    options.refuse_switches("template")
    return PreparedEngine({}, TemplateEngine)


class TemplateEngine:
    """Answers with the statement that `prep describe` recorded with the prompt.

    For toy vocabularies such as the demo's only: its answers are the instruction file's statements, one per option. It
    replaces an LLM where a model learns these few sentences from scratch.
    """

    def answers(self, blocks: Iterable[list[Record]], done: Container[str]) -> Iterator[Answer]:
        for record in chain.from_iterable(blocks):
            if record["id"] not in done:
                yield _answer(record)


def _answer(record: Record) -> Answer:
    try:
        statement = prompt_of(record).get("statement")
    except UserError as error:
        return Answer(record["id"], reason=f"record: {error}")
    return Answer(record["id"], statement) if statement else Answer(record["id"], reason=MISSING)
