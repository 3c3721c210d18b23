"""Files with which transformers runs a model folder without this package: processor, generation config, code."""

import shutil
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor, GenerationConfig

from caad_ds.data.audio_markers import AUDIO, END_AUDIO, START_AUDIO, user_content
from caad_ds.models.prompts.answer_turn import end_tokens, form_of
from caad_ds.models.prompts.prompt_encoder import PromptEncoder
from caad_ds.models.reader import holds_transcripts
from caad_ds.models.speech_lm.encoder_folder import INSIDE
from caad_ds.models.whisper_qformer import processor
from caad_ds.models.whisper_qformer.conditional_generation import SpeechLMForConditionalGeneration
from caad_ds.models.whisper_qformer.config import SpeechLMConfig
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.processor import CaadSpeechLMProcessor
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.errors import UserError

MAX_NEW_TOKENS = 128  # default of an answer by transformers
MAX_SHARD_SIZE = "5GB"  # of a safetensors file: uploads resume, and downloads run in parallel, by the file
CODE = Path(processor.__file__).parent  # its modules are copied beside the weights
AUTO_MAP = {
    "AutoConfig": "config.SpeechLMConfig",
    "AutoModel": "conditional_generation.SpeechLMForConditionalGeneration",
    "AutoModelForMultimodalLM": "conditional_generation.SpeechLMForConditionalGeneration",
}
PROCESSOR_MAP = {"AutoProcessor": "processor.CaadSpeechLMProcessor"}


def save_whole(folder: Path, model: SpeechLM, encoder: SpeechEncoder, tokenizer: Any) -> None:
    """Write config, weights including the encoder's, generation config, processor and code, but no tokenizer.

    If its prompts would differ from training's, the processor is left out, with a warning.
    """
    reading = processor_of(encoder, tokenizer, model.config.num_queries)
    inside = {INSIDE + name: weight for name, weight in encoder.whisper.state_dict().items()}
    model.save_pretrained(folder, state_dict=model.state_dict() | inside, max_shard_size=MAX_SHARD_SIZE)
    config = deepcopy(model.config)
    config.architectures = [SpeechLMForConditionalGeneration.__name__]
    config.encoder_config, config.audio_token_id = deepcopy(encoder.whisper.config), reading.audio_token_id
    config.auto_map = AUTO_MAP
    config.save_pretrained(folder)
    generation_of(model, tokenizer, reading.audio_token_id).save_pretrained(folder)
    if reads_alike(reading, tokenizer):
        reading.auto_map = PROCESSOR_MAP
        reading.to_json_file(folder / "processor_config.json")
    else:
        warnings.warn(
            f"{folder}: the chat template of {tokenizer.name_or_path} writes other prompts through transformers' "
            "processors than in training, so that the folder has no processor; ask the model with caad-ds",
            stacklevel=2,
        )
        encoder.extractor.save_pretrained(folder)
    for module in sorted(CODE.glob("[!_]*.py")):
        shutil.copyfile(module, folder / module.name)


def processor_of(encoder: SpeechEncoder, tokenizer: Any, num_queries: int) -> CaadSpeechLMProcessor:
    """Build the transformers processor with the same prompts as `PromptEncoder`."""
    return CaadSpeechLMProcessor(
        encoder.extractor, deepcopy(tokenizer), num_queries, AUDIO, START_AUDIO, END_AUDIO,
        transcripts=holds_transcripts(tokenizer), form=form_of(tokenizer),
    )  # fmt: skip


def reads_alike(reading: CaadSpeechLMProcessor, tokenizer: Any) -> bool:
    """Return whether the processor's ids equal training's, for a prompt of two clips, one with a transcription."""
    prompts = PromptEncoder(tokenizer, reading.num_queries, transcripts=reading.transcripts)
    texts, question = ["it is heard", ""], "What is it?"
    record: Any = {
        "id": "probe",
        "audios": [{"path": "", "text": text} for text in texts],
        "messages": [{"role": "user", "content": user_content(question, audios=len(texts))}],
    }
    try:
        ids, is_audio = prompts.prompt(record)
    except UserError:  # this tokenizer cannot encode the probe's words
        return True
    silence = np.zeros(1600, np.float32)
    transcribed = [{"type": "audio", "audio": silence, **({"text": t} if reading.transcripts else {})} for t in texts]
    chat = [{"role": "user", "content": [*transcribed, {"type": "text", "text": question}]}]
    options = {"tokenize": True, "add_generation_prompt": True, "return_dict": True}
    expected = [reading.audio_token_id if audio else token for token, audio in zip(ids, is_audio, strict=True)]
    return reading.apply_chat_template(chat, **options)["input_ids"][0] == expected


def generation_of(model: SpeechLM, tokenizer: Any, audio: int) -> GenerationConfig:
    """Return the generation config of `caad-ds ask` for transformers' `generate`: greedy, with the same end tokens."""
    ends = end_tokens(tokenizer, model.llm.generation_config.eos_token_id)
    in_vocabulary = audio < len(tokenizer) and audio not in ends
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.eos_token_id,
        suppress_tokens=[audio] if in_vocabulary else None,
    )


AutoConfig.register(SpeechLMConfig.model_type, SpeechLMConfig)
for auto in (AutoModel, AutoModelForMultimodalLM):
    auto.register(SpeechLMConfig, SpeechLMForConditionalGeneration)
AutoProcessor.register(SpeechLMConfig, CaadSpeechLMProcessor)
