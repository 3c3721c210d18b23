"""Generation without the defaults of a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import GenerationConfig, PreTrainedModel


@contextmanager
def plain_generation(llm: PreTrainedModel) -> Iterator[None]:
    """Set aside the checkpoint's generation config, from which `generate` takes its defaults."""
    own, llm.generation_config = llm.generation_config, GenerationConfig()
    try:
        yield
    finally:
        llm.generation_config = own
