"""Read published DeSTA connectors: their key names, the model's settings by their shapes, and the model around them.

Sources: github.com/kehanlu/DeSTA2 (`qformer_connector.pth`, the connector alone) and github.com/kehanlu/DeSTA2.5-Audio
(`model.safetensors`, all trained weights). Their Q-Former is BERT's encoder with cross-attention and without a mask,
so every query sees every other; apart from dropout it computes the same as BLIP-2's layers, under other names.
"""

import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from caad_ds.models.language_model.load_llm import load_llm
from caad_ds.models.speech_lm.build_speech_lm import build
from caad_ds.models.speech_lm.encoder_folder import load_encoder
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.models.whisper_qformer.llm_forward import embedding_width
from caad_ds.models.whisper_qformer.qformer import DESTA_FEED_FORWARD
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.utils.errors import UserError, first_line

FILES = ("model.safetensors", "qformer_connector.pth")
WINDOW_SECONDS = 30
ANCHOR = "layer_weights"  # a key of every checkpoint; the connector's prefix precedes it

# Theirs -> ours, below the connector. In addition `layer_prompts` are stacked and `layer_weights` transposed.
NAMES = (
    (r"proj\.0\.", "norm."),
    (r"proj\.1\.", "project."),
    (r"qformer\.layer\.(\d+)\.(attention|crossattention)\.self\.", r"qformer.encoder.layer.\1.\2.attention."),
    (r"qformer\.layer\.(\d+)\.(attention|crossattention)\.output\.", r"qformer.encoder.layer.\1.\2.output."),
    (r"qformer\.layer\.(\d+)\.(intermediate|output)\.", r"qformer.encoder.layer.\1.\2_query."),
)


@dataclass(frozen=True)
class DestaConnector:
    """A connector read from a checkpoint: `weights` under the names of `QFormerConnector`, and its shape."""

    weights: dict[str, Tensor]
    taps: int
    num_queries: int
    layers: int
    encoder_dim: int
    llm_dim: int


def read_connector(path: str | Path) -> DestaConnector:
    """Read the connector of a checkpoint: a .safetensors or torch file, or a folder with one.

    UserError if it cannot be read or is not a DeSTA connector. A torch file is read with weights_only.
    """
    file = _file(Path(path))
    theirs = _connector_part(_tensors(file), file)
    try:
        prompts = [theirs.pop(f"layer_prompts.{n}") for n in range(theirs[ANCHOR].shape[1])]
        weights = {"queries": torch.cat(prompts), "layer_weights": theirs.pop(ANCHOR).T.contiguous()}
        weights |= {_our_name(name, file): tensor for name, tensor in theirs.items()}
        taps, num_queries, encoder_dim = weights["queries"].shape
        feed_forward = weights["qformer.encoder.layer.0.intermediate_query.dense.weight"].shape[0]
        llm_dim = weights["project.weight"].shape[0]
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise UserError(f"{file}: not a whole DeSTA connector ({error}); give another checkpoint") from error
    if feed_forward != DESTA_FEED_FORWARD:
        raise UserError(
            f"{file}: its feed-forward is {feed_forward} wide, not {DESTA_FEED_FORWARD}; give a DeSTA checkpoint"
        )
    layers = len({name.split(".")[3] for name in weights if name.startswith("qformer.")})
    return DestaConnector(weights, taps, num_queries, layers, encoder_dim, llm_dim)


def tapped_layers(encoder_layers: int, taps: int) -> list[int]:
    """Return the layers that DeSTA taps: the last of `taps` equal parts, 5, 11, 17, 23 of whisper-medium's 24."""
    return [(n + 1) * encoder_layers // taps - 1 for n in range(taps)]


def load_tapped_encoder(name: str, connector: DestaConnector) -> SpeechEncoder:
    """Load the encoder that the connector was trained with, with DeSTA's taps."""
    encoder = load_encoder(name, [0], WINDOW_SECONDS, final_norm=False)
    if encoder.dim != connector.encoder_dim:
        raise UserError(
            f"--encoder {name}: its states are {encoder.dim} wide, the checkpoint's connector reads "
            f"{connector.encoder_dim}; give the Whisper that it was trained on"
        )
    encoder.taps = tapped_layers(encoder.whisper.config.encoder_layers, connector.taps)
    return encoder


def assemble(connector: DestaConnector, llm: str, encoder: SpeechEncoder, encoder_name: str | None) -> SpeechLM:
    """Build the SpeechLM of connector, LLM and encoder; the LLM keeps its checkpoint's dtype."""
    weights = load_llm(llm, "auto")
    width = embedding_width(weights)
    if width != connector.llm_dim:
        raise UserError(
            f"--llm {llm}: it is {width} wide, the checkpoint's connector writes {connector.llm_dim}; "
            "give the LLM that it was trained on"
        )
    with torch.device("meta"):  # only for its shapes: the connector's weights come from the checkpoint
        model = build(
            weights,
            encoder,
            encoder_name,
            num_queries=connector.num_queries,
            qformer_layers=connector.layers,
            qformer_heads=encoder.whisper.config.encoder_attention_heads,
            connector="desta",
        )
    try:
        model.connector.load_state_dict(connector.weights, assign=True)
    except RuntimeError as error:
        raise UserError(f"the checkpoint is no whole DeSTA connector: {' '.join(str(error).split())[:200]}") from error
    return model


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    file = next((path / name for name in FILES if (path / name).is_file()), None)
    if file is None:
        raise UserError(f"{path}: no {' or '.join(FILES)} there; give the checkpoint's file or folder")
    return file


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        values = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{file}: no such checkpoint; give a .safetensors or torch file, or its folder") from None
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        reason = first_line(error)
        raise UserError(f"{file}: no checkpoint that loads ({reason}); download it again") from error
    if isinstance(values, dict) and isinstance(values.get("state_dict"), dict):
        values = values["state_dict"]
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise UserError(f"{file}: not a state dict of tensors; give a DeSTA checkpoint")
    return values


def _connector_part(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    prefixes = [name.removesuffix(ANCHOR) for name in tensors if name.split(".")[-1] == ANCHOR]
    if len(prefixes) != 1:
        raise UserError(f"{file}: {len(prefixes)} tensors named {ANCHOR}, a DeSTA connector has one; give another file")
    if lora := next((name for name in tensors if "lora_" in name), None):
        raise UserError(f"{file}: it holds LoRA weights of the LLM ({lora}), which are not read; merge them into --llm")
    prefix = prefixes[0]
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _our_name(name: str, file: Path) -> str:
    for pattern, ours in NAMES:
        renamed, count = re.subn(rf"^{pattern}", ours, name)
        if count:
            return renamed
    raise UserError(f"{file}: {name} is no part of a DeSTA connector that is known here; give another checkpoint")
