"""What answers a record: the toy template, a text LLM from its seed description, or an audio LM from its audio.

An engine of this package is a module of it whose name is one of `ENGINES`, with

- `prepare(options: EngineOptions) -> PreparedEngine` (options.py), which loads no weights: it raises UserError for
  options that the engine cannot work with, and says what the answers depend on. Importing the module loads no PyTorch.

An engine outside this package is a module, named with its dots, that has

- `load(model: str | None, asking: GenerationSettings) -> Engine`: what --model names, and how records are asked
  (settings.py);
- `BLOCK`, if its answers depend on which records it gets together: how many neighbours make a block (default 1).
"""

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Protocol

from caad_ds.data.record import Record
from caad_ds.utils.plugins import plugin_module
from caad_ds.utils.progress import waiting
from data_prep.stage1.engines.options import EngineOptions

ENGINES = ("template", "transformers", "vllm", "openai", "speech")


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

    def answers(self, blocks: Iterable[list[Record]], done: Container[str]) -> Iterator[Answer]: ...


@dataclass(frozen=True)
class PreparedEngine:
    """An engine that is ready to be loaded: what its answers depend on, as it stands in an output's settings, and how
    many neighbours make a block.

    A server's address, a device and a number of processes are no part of the settings, so that a run may go on
    elsewhere.
    """

    settings: dict[str, Any]
    load: Callable[[], Engine]
    block: int = 1


def find(name: str) -> Callable[[EngineOptions], PreparedEngine]:
    """The `prepare` of the engine of that name; UserError where there is no such engine."""
    module = plugin_module("--engine", name, __name__, ENGINES, ("load",))
    return module.prepare if name in ENGINES else partial(_prepare_own, name, module)


def _prepare_own(name: str, module: ModuleType, options: EngineOptions) -> PreparedEngine:
    """An engine outside this package, of which nothing is known but what it is given."""

    def load() -> Engine:
        with waiting(f"loading {name}"):
            return module.load(options.model, options.asking)

    model = {"model": options.model} if options.model else {}
    return PreparedEngine(model | options.asking.content(), load, getattr(module, "BLOCK", 1))
