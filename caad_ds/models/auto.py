"""Find the family of a model folder or hub id, and load the model."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import torch

from caad_ds.models import families
from caad_ds.models.architecture import is_architecture, read_architecture
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.hub_models import snapshot
from caad_ds.models.reader import Reader
from caad_ds.models.transformers_lm import TransformersLM
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import read_json
from caad_ds.utils.model_names import check_model_folder, is_hub_id

# Files of a model; a repository may hold other formats of the weights as well.
PROCESSOR = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
WEIGHTS = ("*.safetensors",)
TOKENIZERS = ("tokenizer_config.json", "tekken.json")  # one of them is in the folder of any processor
# Why known models of other types cannot be distilled, by a part of model_type; the first match counts.
NO_LLM = "a CTC or transducer model, which has no language model"
NO_ANSWERS = "an encoder-decoder model, whose decoder writes no answers to questions"
STREAMING = "a streaming model, whose audio has no span in a prompt"
SPEAKS = "a model that writes audio, not text"
UNTRIED = "it is untested here; docs/models.md explains how to add an audio LLM"
UNFIT = {
    "realtime": STREAMING,
    "kyutai": STREAMING,
    "moshi": STREAMING,
    "whisper": NO_ANSWERS,
    "seamless": NO_ANSWERS,
    "speech_to_text": NO_ANSWERS,
    "cohere_asr": NO_ANSWERS,
    "canary": NO_ANSWERS,
    "moonshine": NO_ANSWERS,
    "wav2vec2": NO_LLM,
    "hubert": NO_LLM,
    "wavlm": NO_LLM,
    "parakeet": NO_LLM,
    "granite_speech5": NO_LLM,
    "nemotron_asr": NO_LLM,
    "nemotron3_5_asr": NO_LLM,
    "vibevoice_asr": "its audio is encoded with random noise, at 24 kHz",
    "vibevoice": SPEAKS,
    "higgs_audio": SPEAKS,
    "phi4_multimodal": "its forward does not mask the padding of audio, so that states would depend on the batch",
    "gemma3n": "its vision tower is one of timm, without which nothing of it can be checked here",
    "muse_spark": "its audio is sampled at 24 kHz, and here it is at 16 kHz",
    "inkling": "its audio is made of integer codes, of which a second path with audio at 0 means nothing",
    "_thinker": "a part of an Omni model (give the folder of the whole, whose config.json has a thinker_config)",
    "qwen3_omni_moe": "its audio tower gives an audio of less than 1 s other states beside a longer one",
    "gemma4_unified": UNTRIED,
    "moss_": UNTRIED,
    "dots3_note": UNTRIED,
    "flamingo": UNTRIED,
    "voxtral": UNTRIED,
    "omni": UNTRIED,
    "speech": UNTRIED,
    "asr": UNTRIED,
}


def supported() -> list[str]:
    """Return the `model_type` of every supported family."""
    return sorted(module.name for module in iter_modules(families.__path__))


def local_folder(name: str | Path, files: tuple[str, ...] = (*PROCESSOR, *WEIGHTS)) -> Path:
    """Return a model's folder; for a hub id the local copy, to which missing `files` are downloaded.

    UserError if there is neither.
    """
    path = Path(name)
    if not is_hub_id(str(name)):
        check_model_folder(path)
        return path
    return snapshot(str(name), files)


def family_of(folder: Path) -> ModuleType:
    """Return the module of a model folder's family; UserError if it is not supported."""
    config = read_json(folder / "config.json", "give the folder of a model")
    return family(str(config.get("model_type")), str(folder))


def family(kind: str, where: str) -> ModuleType:
    """Return the module of a `model_type`; UserError, which begins with `where`, if it is not supported."""
    if kind in supported():
        return import_module(f"{families.__name__}.{kind}")
    known = ", ".join(supported())
    why = next((f": {reason}" for part, reason in UNFIT.items() if part in kind), "")
    raise UserError(f"{where}: a model of type {kind} is not supported{why}; supported are {known} (docs/models.md)")


def load(name: str | Path, dtype: torch.dtype = torch.float32) -> AudioLM:
    """Load the model of a folder or hub id in `dtype`, with its reader."""
    folder = local_folder(name)
    model = family_of(folder).load(folder, dtype)
    model.module.name_or_path = str(name)  # saved adapters refer to it
    return model


def load_reader(name: str | Path, processor: str | Path | None = None) -> Reader:
    """Load a model's reader without its weights; for an architecture file it uses `processor`."""
    if is_architecture(name):
        module, folder = (
            family(str(read_architecture(name)["model_type"]), str(name)),
            _processor_folder(processor or name),
        )
    else:
        folder = local_folder(name)
        module = family_of(folder)
    if hasattr(module, "load_reader"):
        return module.load_reader(folder)
    return module.build.keywords.get("lm", TransformersLM).reads.load(module.FAMILY, folder)


def build(architecture: str, processor: str | Path) -> AudioLM:
    """Build a model with random weights from an architecture file (.json), and the processor of a folder or hub id."""
    module = family(str(read_architecture(architecture)["model_type"]), architecture)
    if not hasattr(module, "build"):
        raise UserError(f"{architecture}: a whole {module.FAMILY} has parts, not one architecture; use student.llm")
    return module.build(architecture, _processor_folder(processor))


def _processor_folder(name: str | Path) -> Path:
    """Return the folder of a processor, which may lack a config.json."""
    local = any((Path(name) / file).is_file() for file in TOKENIZERS)
    return Path(name) if local else local_folder(name, PROCESSOR)
