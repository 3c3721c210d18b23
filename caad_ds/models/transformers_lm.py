"""An audio LLM of transformers by what its families have in common: one forward from tokens and audio to states."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoProcessor, GenerationConfig, PreTrainedModel

from caad_ds.data.batch import Audio, Batch
from caad_ds.models.architecture import read_architecture
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.language_model import lora
from caad_ds.models.language_model.dropout import turn_off_dropout
from caad_ds.models.language_model.layers import keep_first_layers
from caad_ds.models.language_model.llm import TOKENIZER_FILES, at_rest, check_audio_head, check_stops, check_vocabulary
from caad_ds.models.pretrained import pretrained
from caad_ds.models.processor_reader import ProcessorReader
from caad_ds.models.whisper_qformer.embedded_batch import positions
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import follow_umask, read_json

# By what they are, of each of which one must be there.
PROCESSOR_FILES = {
    "a feature extractor": ("processor_config.json", "preprocessor_config.json"),
    "the tokenizer's settings": ("tokenizer_config.json",),
    "a tokenizer": ("tokenizer.*", *TOKENIZER_FILES[1:]),
}


@dataclass(frozen=True)
class Family:
    """What differs by family.

    Args:
        model_type: of its config.json.
        model: the name of its class with the head, in transformers.
        tower: where the audio encoder is in that class' base model.
        connector: where what turns its states into embeddings is.
        longest_seconds: of an audio, by its processor, which would cut what is longer without a word.
        shortest_seconds: of an audio; what is shorter its forward mistakes for something else.
    """

    model_type: str
    model: str
    tower: str
    connector: str
    longest_seconds: Any
    shortest_seconds: float = 0.0


class TransformersLM(AudioLM):
    """A model of a family of transformers; all of it lies in the engine."""

    reader: ProcessorReader

    def __init__(self, family: Family, model: PreTrainedModel, processor: Any, **reading: Any):
        super().__init__()
        turn_off_dropout(model)
        self.of, self.family, self.module = family, family.model_type, model
        bounds = (family.longest_seconds, family.shortest_seconds)
        self.reader = ProcessorReader(processor, family.model_type, *bounds, **reading)
        self.random = False  # whether its weights have learned nothing yet
        self._lora: dict[str, Any] | None = None
        self._silent: Batch | None = None

    @property
    def generator(self) -> PreTrainedModel:
        """The family's own class."""
        return self.module

    @property
    def decoder(self) -> PreTrainedModel:
        """Its language model, without the head."""
        return cast(PreTrainedModel, self.module.get_decoder())

    @property
    def connector(self) -> nn.Module:
        """Its projector."""
        return self.module.base_model.get_submodule(self.of.connector)

    @property
    def tower(self) -> nn.Module:
        """Its audio tower."""
        return self.module.base_model.get_submodule(self.of.tower)

    # -- what it computes ---------------------------------------------------------------------------------------------

    def hidden(self, batch: Batch) -> Tensor:
        """By the family's own forward up to the head."""
        return self.hidden_and_path(batch)[0]

    def hidden_and_path(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same, and a number of the last position of audio."""
        if not len(batch.audio_index):
            # A sample that is added lets the tower run in every batch: ZeRO-3 expects the same modules each time.
            batch = Batch.cat([batch, self._only_audio().to(batch.input_ids.device)])
        states = self._states(batch).flatten(0, 1)
        return states[batch.answer_rows], states[batch.audio_mask.flatten().nonzero()[-1, 0], 0]

    def _states(self, batch: Batch) -> Tensor:
        """Final hidden states [B, S, H]."""
        mask = batch.attention_mask
        body = self.module.base_model
        return body(
            input_ids=batch.input_ids,
            attention_mask=mask,
            position_ids=positions(mask),
            use_cache=False,
            **self._audio(batch),
        ).last_hidden_state

    def _audio(self, batch: Batch) -> Audio:
        """The forward's audio inputs, in the weights' dtype: not every family casts them."""
        placed = batch.placed() if len(batch.audio_index) else {}
        return {name: each.to(self.dtype) if each.is_floating_point() else each for name, each in placed.items()}

    @property
    def dtype(self) -> torch.dtype:
        """That of the connector's weights: under ZeRO-3 too."""
        return next(self.connector.parameters()).dtype

    def _only_audio(self) -> Batch:
        """A sample of nothing but a short audio, made once."""
        if self._silent is None:
            self._silent = self.reader.only_audio()
        return self._silent

    def check_hearing(self, name: str) -> None:
        """Run a short audio through it; UserError, which begins with `name`, where it does not take its processor's."""
        try:
            with at_rest(self.module):
                self._states(self._only_audio())
        except Exception as error:  # whatever a family's code raises on features or placeholders of another model
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise UserError(
                f"{name}: its forward fails on the audio of the processor {self.reader.tokenizer.name_or_path} "
                f"({reason}); take the processor of this model, or correct its config"
            ) from error

    def generation_inputs(self, batch: Batch) -> dict[str, Any]:
        """Tokens with their placeholders, and the audio inputs."""
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **self._audio(batch)}

    def parts(self) -> dict[str, nn.Module]:
        """Tower, projector and language model."""
        llm = nn.ModuleList([self.decoder, self.module.get_output_embeddings()])
        return {"encoder": self.tower, "connector": self.connector, "llm": llm}

    # -- what training does to it -------------------------------------------------------------------------------------

    @property
    def lora(self) -> dict[str, Any] | None:
        """Those that were put on it here."""
        return self._lora

    def add_adapters(self, settings: dict[str, Any]) -> None:
        """Fresh adapters on the language model, and on the tower where asked for."""
        lora.inject(self.decoder, settings)
        if settings["encoder"]:
            lora.inject(cast(PreTrainedModel, self.tower), settings | {"targets": "all-linear"})
        self._lora = settings

    def merge_adapters(self) -> None:
        """Of language model and tower."""
        if self._lora is not None:
            lora.merge(self.module)
            self._lora = None

    def keep_first_layers(self, layers: int) -> None:
        """The language model's."""
        keep_first_layers(self.decoder, [self.module.config.get_text_config(decoder=True)], layers)
        self.module.name_or_path = ""  # no folder holds this one

    def choose_weights(self, mode: str) -> None:
        """As everywhere; where all weights are random, `all` trains the tower too, which could hear nothing else."""
        super().choose_weights(mode)
        if mode == "all" and self.random:
            self.tower.requires_grad_(True)

    def freeze_running_parts(self) -> None:
        """A frozen tower stays in evaluation, but for the dropout of adapters that it may have."""
        if self.random and next(self.tower.parameters()).requires_grad:
            return
        training = self.module.training
        self.tower.eval()
        for name, part in self.tower.named_modules():
            if name.endswith("lora_dropout"):
                part.train(training)

    def rebuilt(self, weights: Mapping[str, Tensor], dtype: torch.dtype) -> "TransformersLM":
        """The model around trained weights."""
        with torch.device("meta"):
            model = type(self.module)(deepcopy(self.module.config))
        made = object.__new__(TransformersLM)
        made.__dict__.update(self.__dict__ | {"module": model, "_lora": None})
        if self._lora is not None:
            made.add_adapters(self._lora)
        model.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, strict=False, assign=True)
        for name, buffer in self.module.named_buffers():  # those too that no checkpoint holds
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, buffer.cpu())
        model.tie_weights()
        model.generation_config = deepcopy(self.module.generation_config)
        model.name_or_path = self.module.name_or_path
        return made

    def save(self, folder: Path) -> None:
        """The layout that the family's `from_pretrained` and its processor read; adapters as a folder of PEFT."""
        if self._lora is not None:
            self._save_adapters(folder, self._lora)
            return
        own = self.module.generation_config
        # By hand: transformers refuses to write settings of sampling that it reads.
        self.module.generation_config = GenerationConfig()
        self.module.save_pretrained(folder)
        self.module.generation_config = own
        (folder / "generation_config.json").write_text(own.to_json_string(), encoding="utf-8")  # type: ignore[union-attr]
        self.reader.processor.save_pretrained(folder)
        follow_umask(folder)

    def _save_adapters(self, folder: Path, settings: dict[str, Any]) -> None:
        if not self.module.name_or_path:
            raise UserError(
                "--keep-adapters: the student began as no model folder (student.path is an architecture, or "
                "student.keep_layers cut it), so that adapters would have nothing to stand on; leave it out"
            )
        base = self.module.base_model_prefix
        lora.save_peft(folder, self.module, settings, f"{base}.{self.of.connector}")
        self.reader.processor.save_pretrained(folder)
        follow_umask(folder)


def load(family: Family, folder: Path, dtype: torch.dtype, **reading: Any) -> TransformersLM:
    """The model of a folder in `dtype`, with its processor.

    UserError where weights, or a file of the processor, are missing, or what is computed around it does not hold.
    """
    cls = getattr(transformers, family.model)
    model = pretrained(cls, folder, f"{family.model_type} model", dtype=dtype)
    return checked(TransformersLM(family, model, load_processor(folder), **reading), str(folder))


def build(family: Family, name: str, processor: str | Path, **reading: Any) -> TransformersLM:
    """A model of an architecture file with random weights in fp32, and the processor of a folder."""
    values = read_architecture(name)
    try:
        config = AutoConfig.for_model(**values)
        # A published config names the dtype of its weights, for each part; random ones are made in fp32.
        for part in (config, *(getattr(config, part) for part in config.sub_configs)):
            part.dtype = None
        model = getattr(transformers, family.model)(config)
    except Exception as error:  # whatever a family's code raises on settings that do not fit together
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: no model can be built of it: {reason}; change its settings") from error
    lm = checked(TransformersLM(family, model, load_processor(processor), **reading), name)
    lm.random = True
    return lm


def load_processor(folder: str | Path) -> Any:
    """The processor of a folder; UserError where one of its files is missing, which transformers would make up."""
    folder = Path(folder)
    for what, names in PROCESSOR_FILES.items():
        if not any(next(folder.glob(name), None) for name in names):
            raise UserError(f"{folder}: its processor lacks {what} ({' or '.join(names)}); give a whole folder")
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder}: no processor there that loads ({reason}); give a whole folder") from error
    if not hasattr(processor, "feature_extractor") or not hasattr(processor, "audio_token"):
        raise UserError(f"{folder}: its processor files are those of no audio model; give a whole folder")
    if processor.audio_token not in processor.tokenizer.get_vocab():
        raise UserError(f"{folder}: its tokenizer has no token {processor.audio_token!r}; give a whole folder")
    stored = read_json(folder / "tokenizer_config.json", "give a whole folder").get("chat_template")
    if not stored and not any(folder.glob("chat_template.*")):
        raise UserError(f"{folder}: it has no chat template (chat_template.jinja); give an instruct model's folder")
    return processor


def checked(lm: TransformersLM, name: str) -> TransformersLM:
    """Refuse a model whose stops, vocabulary, head or audio are not what is built around it."""
    model = lm.module
    check_stops(model.generation_config.stop_strings, name)  # type: ignore[union-attr]
    check_vocabulary(model, lm.reader.tokenizer, name)
    check_audio_head(model, name, avoid=lm.reader.prompts.placeholder)
    lm.check_hearing(name)
    return lm
