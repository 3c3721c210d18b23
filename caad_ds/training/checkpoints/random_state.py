"""The random state of a rank: saved with a checkpoint, restored or reseeded on resume."""

import random
from typing import cast

import numpy as np
import torch


def random_state() -> dict:
    """Return the states of torch's, numpy's and Python's generators, as `torch.load(weights_only=True)` reads them."""
    kind, keys, position, has_gauss, gauss = cast(tuple[str, np.ndarray, int, int, float], np.random.get_state())
    version, words, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(words), gauss_next],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, words, gauss_next = state["python"]
    random.setstate((version, tuple(words), gauss_next))
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def seed_rank(seed: int, step: int, rank: int) -> None:
    """Seed this rank's generators by (seed, step, rank): ranks differ, repetitions do not."""
    drawn = int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
    torch.manual_seed(drawn)  # CUDA's too
    np.random.seed(drawn)
    random.seed(drawn)
