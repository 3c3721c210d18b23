"""What answers a record: the toy template, a text LLM from its seed description, or a SpeechLM from its audio.

An engine outside this package is a module, named with its dots, that has

- `load(model: str | None, asking: GenerationSettings) -> Engine`: what --model names, and how records are asked
  (settings.py);
- `BLOCK`, if its answers depend on which records it gets together: how many neighbours make a block (default 1).
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

from caad_ds.utils.plugins import plugin_module


@dataclass(frozen=True)
class Answer:
    """The answer to one record, or the `reason` why there is none to use: a rule's name, a colon, what was found.

    With a reason, `response` is the text that cannot be used, such as a truncated one; "" where there is none.
    """

    id: str
    response: str = ""
    reason: str = ""


class Engine(Protocol):
    """Anything that answers records, block by block, each answer yielded as soon as it is there.

    A block is a list of neighbouring records. Within it the order of the answers is free, but which records are
    answered together depends on the block alone: a batch of which some are `done` is computed again as a whole, so that
    a run that was cut off gives the texts of an undisturbed one. No record that is in `done` is yielded, and no
    record stops the others: one that cannot be asked gets an answer with a reason.
    """

    def answers(self, blocks: Iterable[list[dict]], done: Container[str]) -> Iterator[Answer]: ...


def own_engine(name: str) -> ModuleType | None:
    """The module of an engine outside this package, None for a plain name; UserError where there is no such module."""
    return plugin_module("--engine", name, __name__, (), ("load",)) if "." in name else None
