"""Build a new SpeechLM: a new connector around an existing LLM or its first layers."""

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from caad_ds.models.architecture import is_architecture, read_architecture
from caad_ds.models.language_model.load_llm import build_llm, load_llm
from caad_ds.models.whisper_qformer.config import SpeechLMConfig
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.qformer import ConnectorForm
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.errors import UserError


def build(
    llm: str | dict | PreTrainedModel,
    encoder: SpeechEncoder,
    encoder_name: str | None,
    *,
    num_queries: int,
    qformer_layers: int,
    qformer_heads: int,
    normalize_states: bool = False,
    connector: ConnectorForm = "blip2",
    keep_layers: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> SpeechLM:
    """Build a SpeechLM with a new connector in fp32 on `encoder`, around an LLM.

    `llm` is a hub id or folder (weights are loaded in `dtype`), an architecture: a dict or a .json file (random weights
    in fp32), or a causal LM from `load_llm`.
    `keep_layers` keeps only the LLM's first layers. `encoder_name` is recorded, to find the encoder when the model is
    loaded.
    """
    if isinstance(llm, str):
        if is_architecture(llm):
            llm = build_llm(read_architecture(llm), llm, keep_layers)
        else:
            llm = load_llm(llm, dtype, keep_layers)
    elif isinstance(llm, dict):
        llm = build_llm(llm, "student.llm", keep_layers)
    try:
        config = SpeechLMConfig(
            llm_config=llm.config.to_dict(),
            encoder=encoder_name,
            encoder_dim=encoder.dim,
            taps=encoder.taps,
            window_seconds=encoder.window_seconds,
            num_queries=num_queries,
            qformer_layers=qformer_layers,
            qformer_heads=qformer_heads,
            normalize_states=normalize_states,
            connector=connector,
        )
        return SpeechLM(config, llm)
    except (ValueError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"no model can be built of the student's llm and qformer_heads: {reason}; fix them") from error
