"""The demo's tokenizer: SentencePiece, trained on the demo's vocabulary."""

from pathlib import Path
from typing import Any

from caad_ds.models.prompts.train_tokenizer import train_tokenizer
from caad_ds.utils.files import parse_yaml
from caad_ds.utils.text import read_text
from data_prep.synthetic.sentences import SLOTS
from examples.demo.corpus import INSTRUCTIONS

VOCABULARY = 512


def make_tokenizer(folder: Path) -> Any:
    """Train on the instructions' texts and the sentences' words, so that every word is one or a few pieces."""
    content = parse_yaml(read_text(Path(INSTRUCTIONS)))
    texts = list(content["irrelevant"])
    for attribute in content["attributes"].values():
        texts += [*attribute["questions"], *attribute["options"].values()]
    words = [f" {word}" for words in SLOTS.values() for word in words.split()]
    return train_tokenizer((texts + words) * 20, VOCABULARY, folder)
