"""Load and save a model folder: SpeechLM, encoder, tokenizer and processor together.

Importing this registers SpeechLM, even with adapters, in transformers' auto classes, without the folder's own code.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from caad_ds.models.language_model import lora
from caad_ds.models.language_model.llm_checks import check_llm, check_vocabulary
from caad_ds.models.language_model.tokenizer import load_tokenizer
from caad_ds.models.origin_names import drop_folder_names
from caad_ds.models.pretrained import pretrained
from caad_ds.models.prompts.answer_turn import FORM, form_of
from caad_ds.models.speech_lm.encoder_folder import encoder_of, load_encoder, unloaded_encoder
from caad_ds.models.speech_lm.huggingface import save_whole
from caad_ds.models.whisper_qformer.config import SpeechLMConfig
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.files import follow_umask
from caad_ds.utils.model_names import check_model_folder


def load(folder: str | Path, dtype: torch.dtype = torch.float32) -> tuple[SpeechLM, SpeechEncoder, Any]:
    """Load the SpeechLM of a model folder in `dtype`, with its encoder in fp32 and its tokenizer."""
    folder = Path(folder)
    check_model_folder(folder)
    model: SpeechLM = pretrained(SpeechLM, folder, "SpeechLM", dtype=dtype)
    config = model.config
    source = encoder_of(folder, config.encoder)
    if source != folder and isinstance(source, Path):
        config.encoder = None  # a relative path is invalid in a copy of this model
    encoder = load_encoder(source, config.taps or [], config.window_seconds, final_norm=config.final_norm)
    generation = folder / "generation_config.json"
    if generation.is_file():
        model.llm.generation_config = GenerationConfig.from_pretrained(folder)
    check_llm(model.llm, str(folder))
    tokenizer = load_tokenizer(folder)
    check_vocabulary(model.llm, tokenizer, str(folder))
    return model, encoder, tokenizer


def load_reading(folder: Path) -> tuple[Any, SpeechEncoder, int]:
    """Load what a model folder's prompts depend on: its tokenizer, its encoder without weights, K."""
    check_model_folder(folder)
    config = SpeechLMConfig.from_pretrained(folder)
    source = encoder_of(folder, config.encoder)
    with torch.device("meta"):
        encoder = unloaded_encoder(source, config.taps or [], config.window_seconds)
    return load_tokenizer(folder), encoder, config.num_queries


def save(folder: str | Path, model: SpeechLM, encoder: SpeechEncoder, tokenizer: Any) -> None:
    """Write a model folder for `load`, and for transformers with the code that is copied into it."""
    folder = Path(folder)
    tokenizer.init_kwargs[FORM] = form_of(tokenizer)
    save_whole(folder, model, encoder, tokenizer)
    drop_folder_names(folder)
    tokenizer.save_pretrained(folder)
    follow_umask(folder)


SpeechLM.inject_adapters = staticmethod(lora.inject)
