"""The differences of transformers families, as data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """A family of audio LLMs.

    Args:
        model_type: of its config.json.
        model: the name of its class with the head, in transformers.
        tower: path of the audio encoder in that class's base model.
        connector: path of the projection of its states to embeddings; it may be inside the tower.
        longest_seconds: longest audio, by its processor, which would silently truncate longer ones.
        shortest_seconds: shortest audio; its forward misreads shorter ones.
        most_audios: most audios in a prompt; None: any number.
        windows: whether the processor cuts an audio into windows, each a row of its inputs.
        alone: whether an audio's inputs depend on others in the processor's call; then each is extracted alone.
        idle: modules of its base model whose weights no audio forward uses; they are never trained.
        part: key of that class's config in the published config of a larger model; None: it is the published config.
        packages: what its processor imports besides transformers; the extra of this project has the family's name.
        logits_factor: by its config, a factor of its logits that its class in transformers may omit.
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
    """Return the seconds of the whole windows that a processor keeps; it cuts the rest, even below `max_audio_len`."""
    window = processor.feature_extractor.chunk_length
    return processor.max_audio_len // window * window
