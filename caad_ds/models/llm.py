"""The causal LM inside a speech language model: what its config and its weights say, checked when it is loaded."""

from typing import Any

# Under these names configs of transformers give the longest sequence; the first that is there counts.
POSITION_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions", "n_ctx")


def position_limit(config: Any) -> int | None:
    """Return the most positions that a causal LM reads, by its config; None where the config names no limit."""
    text = config.get_text_config(decoder=True)
    for name in POSITION_NAMES:
        limit = getattr(text, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit
    return None
