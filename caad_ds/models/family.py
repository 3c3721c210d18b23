"""What differs by family of transformers, as data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """A family of audio LLMs.

    Args:
        model_type: of its config.json.
        model: the name of its class with the head, in transformers.
        tower: where the audio encoder is in that class' base model.
        connector: where what turns its states into embeddings is; it may lie inside the tower.
        longest_seconds: of an audio, by its processor, which would cut what is longer without a word.
        shortest_seconds: of an audio; what is shorter its forward mistakes for something else.
        most_audios: how many a prompt may have; None: any number.
        windows: whether the processor cuts an audio into windows, each a row of its inputs.
        alone: whether the processor's inputs of an audio depend on those beside it, so that each is extracted alone.
        idle: modules of its base model with weights that no forward about audio uses; they are never trained.
        part: where the config of that class is in a published one, which is of a larger model; None: it is its own.
        packages: what its processor imports beside transformers; the extra of this project has the family's name.
        logits_factor: by its config, a factor that its logits have, which its class in transformers may leave out.
    """

    model_type: str
    model: str
    tower: str
    connector: str
    longest_seconds: Callable[[Any], float]
    shortest_seconds: float = 0.0
    most_audios: int | None = None
    windows: bool = False
    alone: bool = False
    idle: tuple[str, ...] = ()
    part: str | None = None
    packages: tuple[str, ...] = ()
    logits_factor: Callable[[Any], float] | None = None


def whole_windows(processor: Any) -> float:
    """Seconds of the whole windows that a processor keeps of an audio; it cuts the rest, also below `max_audio_len`."""
    window = processor.feature_extractor.chunk_length
    return processor.max_audio_len // window * window
