"""Train a SentencePiece tokenizer for small vocabularies, saved for `AutoTokenizer`."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
from transformers import AutoTokenizer

from caad_ds.data.audio_markers import END_AUDIO, START_AUDIO

USER, ASSISTANT = "<user>", "<assistant>"
TEMPLATE = (
    "<s>{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: str | Path) -> Any:
    """Train a BPE SentencePiece model on `texts`, save it with a chat template in `folder`, and return the tokenizer.

    `vocab_size` is an upper bound: few texts give fewer pieces.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="bpe",
        hard_vocab_limit=False,
        character_coverage=1.0,
        user_defined_symbols=[USER, ASSISTANT, START_AUDIO, END_AUDIO, "\n"],
        remove_extra_whitespaces=False,
        pad_id=3,
        num_threads=1,
        minloglevel=2,
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "chat_template": TEMPLATE, "add_bos_token": False, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer
