"""Toy sentences for the demo: four to six words, from a vocabulary of about sixty that names no attribute."""

import hashlib

import numpy as np

SLOTS = {
    "determiner": "the a this my our",
    "adjective": "big small old new red green blue warm dark bright happy round",
    "actor": "dog cat bird horse child teacher doctor farmer driver baker fox rabbit sailor singer",
    "verb": "sees finds likes holds wants takes brings keeps hides paints moves watches",
    "thing": "book table chair lamp box boat cake stone letter window basket ball flower river",
    "stuff": "water bread music paper",
    "when": "today again often here",
}
TEMPLATES = {
    4: ["determiner actor verb stuff"],
    5: ["determiner actor verb determiner thing", "determiner adjective actor verb stuff"],
    6: [
        "determiner adjective actor verb determiner thing",
        "determiner actor verb determiner adjective thing",
        "determiner actor verb determiner thing when",
    ],
}


def sentence(rng: np.random.Generator, words: int, share: range) -> str:
    """Draw a sentence of 4 to 6 `words` whose bucket is in `share`: disjoint shares give disjoint sentences."""
    while True:
        template = _pick(rng, TEMPLATES[words])
        text = " ".join(_pick(rng, SLOTS[slot].split()) for slot in template.split())
        if bucket(text) in share:
            return text


def bucket(text: str) -> int:
    """Return the bucket of a sentence, 0 to 99, by its hash."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100


def _pick(rng: np.random.Generator, choices: list[str]) -> str:
    return choices[rng.integers(len(choices))]
