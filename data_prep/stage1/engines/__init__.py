"""Engines that answer records: the toy template, a text LLM from the seed description, an audio LM from the audio.

An engine of this package is a module of it whose name is one of `ENGINES`, with

- `prepare(options: EngineOptions) -> PreparedEngine` (engine_options.py), which loads no weights: it raises UserError
  for options that the engine does not support, and returns what the answers depend on. Importing the module must not
  import PyTorch.

An engine outside this package is a module with a dotted name that has

- `load(model: str | None, generation: GenerationSettings) -> Engine`: the value of --model and the generation settings
  (generation_settings.py);
- `BLOCK`, if its answers depend on which records are batched: the number of consecutive records in a block (default 1).
"""

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Protocol

from caad_ds.data.record import Record
from caad_ds.utils.plugins import plugin_module
from caad_ds.utils.progress import waiting
from data_prep.stage1.engines.engine_options import EngineOptions

ENGINES = ("template", "transformers", "vllm", "openai", "speech")


@dataclass(frozen=True)
class Answer:
    """The answer to one record, or the `reason` why it cannot be used: "rule: details".

    With a reason, `response` is the unusable text, such as a truncated one; "" if there is none.
    """

    id: str
    response: str = ""
    reason: str = ""


class Engine(Protocol):
    """Answers records block by block; yields each answer as soon as it is ready.

    A block is a list of consecutive records. The answers of a block may come in any order, but how it is split into
    batches must depend on the block alone: a batch with some records in `done` is computed again as a whole, so that an
    interrupted run gives the same texts as an uninterrupted one. Records in `done` are not yielded. A record that
    cannot be answered gets an answer with a reason and does not stop the others.
    """

    def answers(self, blocks: Iterable[list[Record]], done: Container[str]) -> Iterator[Answer]: ...


@dataclass(frozen=True)
class PreparedEngine:
    """An engine ready to be loaded, with the settings that its answers depend on (stored with the output).

    The server's address, the device and the number of processes are not among the settings: a run may resume
    elsewhere.
    """

    settings: dict[str, Any]
    load: Callable[[], Engine]
    block: int = 1


def find(name: str) -> Callable[[EngineOptions], PreparedEngine]:
    """Return the `prepare` of an engine; UserError for an unknown name."""
    module = plugin_module("--engine", name, __name__, ENGINES, ("load",))
    return module.prepare if name in ENGINES else partial(_prepare_own, name, module)


def _prepare_own(name: str, module: ModuleType, options: EngineOptions) -> PreparedEngine:
    """Prepare an engine outside this package; its settings are the model's name and the generation settings."""

    def load() -> Engine:
        with waiting(f"loading {name}"):
            return module.load(options.model, options.generation)

    model = {"model": options.model} if options.model else {}
    return PreparedEngine(model | options.generation.content(), load, getattr(module, "BLOCK", 1))
