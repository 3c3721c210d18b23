"""An audio LLM of a transformers family: one forward from tokens and audio to states."""

import math
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel

from caad_ds.data.batch import Audio, Batch
from caad_ds.models.architecture import read_architecture
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.family import Family
from caad_ds.models.language_model import lora
from caad_ds.models.language_model.dropout import turn_off_dropout
from caad_ds.models.language_model.first_layers import keep_first_layers
from caad_ds.models.language_model.head_form import multiply_logits
from caad_ds.models.language_model.llm_checks import check_audio_head, check_stops, check_vocabulary, evaluation_mode
from caad_ds.models.origin_names import drop_folder_names
from caad_ds.models.pretrained import pretrained
from caad_ds.models.processor_reader import ProcessorReader
from caad_ds.models.whisper_qformer.embedded_batch import positions
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import follow_umask, read_json

APART = ("talker.", "token2wav.", "code2wav.")  # the speaking parts of an Omni model


class TransformersLM(AudioLM):
    """A model of a transformers family; all of it is in the engine.

    A family that differs from this has a subclass in its file, whose `reads` is its reader class.
    """

    reads: type[ProcessorReader] = ProcessorReader
    reader: ProcessorReader
    whole: PreTrainedConfig | None = None  # config of the larger model that it is a part of (`Family.part`)

    def __init__(self, family: Family, model: PreTrainedModel, reader: ProcessorReader):
        super().__init__()
        turn_off_dropout(model)
        self.of, self.family, self.module, self.reader = family, family.model_type, model, reader
        self.random = False  # whether its weights are untrained
        self.merged = False  # whether adapters beside its weights were merged into them
        self._lora: dict[str, Any] | None = None
        self._silent: Batch | None = None
        self._left_out = 1.0  # the factor of logits that its class omits

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
        """Run the family's own forward up to the head."""
        return self.hidden_and_path(batch)[0]

    def hidden_and_path(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run the same, and return a number of the last audio position."""
        if not len(batch.audio_index):
            # An extra sample runs the tower in every batch: ZeRO-3 expects the same modules each time.
            batch = Batch.cat([batch, self._only_audio().to(batch.input_ids.device)])
        states = self._states(batch).flatten(0, 1)
        return states[batch.answer_rows], states[batch.audio_mask.flatten().nonzero()[-1, 0], 0]

    def _states(self, batch: Batch) -> Tensor:
        """Compute final hidden states [B, S, H]."""
        mask = batch.attention_mask
        body = self.module.base_model
        return body(
            input_ids=batch.input_ids,
            attention_mask=mask,
            position_ids=positions(mask),
            use_cache=False,
            **self.audio_inputs(batch),
        ).last_hidden_state

    def audio_inputs(self, batch: Batch) -> Audio:
        """Return the forward's audio inputs in the weights' dtype: not every family casts them."""
        placed = self.reader.inputs(batch.placed()) if len(batch.audio_index) else {}
        return {name: x.to(self.dtype) if x.is_floating_point() else x for name, x in placed.items()}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the connector's weights, which ZeRO-3 keeps."""
        return next(self.connector.parameters()).dtype

    def _only_audio(self) -> Batch:
        """Make a sample with only a short audio, once."""
        if self._silent is None:
            self._silent = self.reader.only_audio()
        return self._silent

    def check_hearing(self, name: str) -> None:
        """Run two short audios through the model.

        UserError, which begins with `name`, if it fails on its processor's inputs, or if its states ignore the audio.
        """
        shortest = self.reader.shortest()
        other = np.random.default_rng(0).standard_normal(len(shortest)).astype(np.float32) * 0.1
        try:
            with evaluation_mode(self.module):
                first, second = (self._states(batch) for batch in (self._only_audio(), self.reader.only_audio(other)))
        except Exception as error:  # a family's code may raise anything on another model's features or placeholders
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise UserError(
                f"{name}: its forward fails on the audio of the processor {self.reader.tokenizer.name_or_path} "
                f"({reason}); take the processor of this model, or correct its config"
            ) from error
        if torch.equal(first, second):  # not every family's forward compares placeholders with its config's
            raise UserError(
                f"{name}: its states do not depend on the audio of the processor {self.reader.tokenizer.name_or_path}, "
                f"whose placeholder is {self.reader.prompts.placeholder}; take the processor of this model, or correct "
                "its config"
            )

    def generation_inputs(self, batch: Batch) -> dict[str, Any]:
        """Return tokens with their placeholders, and the audio inputs."""
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **self.audio_inputs(batch)}

    def parts(self) -> dict[str, nn.Module]:
        """Return tower, projector and language model; the tower is without a projector inside it."""
        llm = nn.ModuleList([self.decoder, self.module.get_output_embeddings()])
        tower: nn.Module = self.tower
        if any(part is self.connector for part in tower.modules()):
            tower = nn.ModuleList(part for part in tower.children() if part is not self.connector)
        return {"encoder": tower, "connector": self.connector, "llm": llm}

    def check_head(self, name: str) -> None:
        """Measure how it transforms its head's product, and apply the family's factor if its class omits it.

        UserError, which begins with `name`, if the logits fit neither.
        """
        form = check_audio_head(self.module, name, avoid=self.reader.prompts.placeholder)
        if self.of.logits_factor is None:
            return
        try:
            factor = self.of.logits_factor(self.module.config)
        except (ArithmeticError, AttributeError, TypeError) as error:
            raise UserError(f"{name}: its config says no factor of its logits ({error}); correct it") from error
        if form.scale == 1 and factor != 1:
            multiply_logits(self.module, factor)
            self._left_out = factor
            form = check_audio_head(self.module, name, avoid=self.reader.prompts.placeholder)
        if not math.isclose(form.scale, factor, rel_tol=1e-3):
            raise UserError(
                f"{name}: its logits are {form.scale:g} times its head's product, and its config says {factor:g}; take "
                "another release of transformers"
            )

    # -- what training does to it -------------------------------------------------------------------------------------

    @property
    def lora(self) -> dict[str, Any] | None:
        """The settings of adapters added here."""
        return self._lora

    def add_adapters(self, settings: dict[str, Any]) -> None:
        """Add new adapters to the language model, and to the tower if configured."""
        lora.inject(self.decoder, settings)
        lora.check_head(self.module, settings["targets"])
        if settings["encoder"]:
            apart = {id(part) for part in self.connector.modules()}  # it may be inside the tower, and is fully trained
            layers = ((name, part) for name, part in self.tower.named_modules() if isinstance(part, nn.Linear))
            targets = [name for name, part in layers if id(part) not in apart]
            lora.inject(cast(PreTrainedModel, self.tower), settings | {"targets": targets})
        self._lora = settings

    def merge_adapters(self) -> None:
        """Merge the adapters of language model and tower."""
        if self._lora is not None:
            lora.merge(self.module)
            self._lora = None

    def keep_first_layers(self, layers: int) -> None:
        """Keep the language model's first layers."""
        keep_first_layers(self.decoder, [self.module.config.get_text_config(decoder=True)], layers)
        self.module.name_or_path = ""  # no folder has this model

    def choose_weights(self, mode: str) -> None:
        """Choose as in the base class; parts outside the audio path, such as a vision tower, are frozen.

        If all weights are random, `all` trains the tower too, which is useless untrained.
        """
        super().choose_weights(mode)
        parts = [self.tower, self.connector, self.decoder, self.module.get_output_embeddings()]
        used = {id(weight) for part in parts for weight in part.parameters()}  # type: ignore[union-attr]
        for weight in self.module.parameters():
            if id(weight) not in used:
                weight.requires_grad_(False)
        if mode == "all" and self.random:
            self.tower.requires_grad_(True)
        for name in self.of.idle:
            self.module.base_model.get_submodule(name).requires_grad_(False)

    def freeze_running_parts(self) -> None:
        """Keep a frozen tower in evaluation mode, except the dropout of its adapters.

        The statistics of a trained tower do not change: they would differ between ranks.
        """
        for part in self.tower.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()
        if self.random and next(self.tower.parameters()).requires_grad:
            return
        training = self.module.training
        self.tower.eval()
        for name, part in self.tower.named_modules():
            if name.endswith("lora_dropout"):
                part.train(training)

    def rebuilt(self, weights: Mapping[str, Tensor], dtype: torch.dtype) -> "TransformersLM":
        """Return a new model with trained weights."""
        with torch.device("meta"):
            model = type(self.module)(deepcopy(self.module.config))
        lm = object.__new__(type(self))
        lm.__dict__.update(self.__dict__ | {"module": model, "_lora": None})
        if self._lora is not None:
            lm.add_adapters(self._lora)
        model.load_state_dict({name: weight.to(dtype) for name, weight in weights.items()}, strict=False, assign=True)
        for name, buffer in self.module.named_buffers():  # including those that no checkpoint has
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, buffer.cpu())
        model.tie_weights()
        model.generation_config = deepcopy(self.module.generation_config)
        model.name_or_path = self.module.name_or_path
        model._caad_head = getattr(self.module, "_caad_head", None)  # type: ignore[assignment]
        if self._left_out != 1:
            multiply_logits(model, self._left_out)
        return lm

    def save(self, folder: Path) -> None:
        """Write the layout of the family's `from_pretrained` and processor; adapters as a PEFT folder."""
        if self._lora is not None:
            self._save_adapters(folder, self._lora)
            return
        own = self.module.generation_config
        # Written directly: transformers refuses to save sampling settings that it loads.
        self.module.generation_config = GenerationConfig()
        self.save_model(folder)
        drop_folder_names(folder)
        self.module.generation_config = own
        (folder / "generation_config.json").write_text(own.to_json_string(), encoding="utf-8")  # type: ignore[union-attr]
        self.reader.processor.save_pretrained(folder)
        follow_umask(folder)

    def save_model(self, folder: Path) -> None:
        """Write weights and config in the family's published layout."""
        self.module.save_pretrained(folder)

    def _save_adapters(self, folder: Path, settings: dict[str, Any]) -> None:
        if not self.module.name_or_path:
            raise UserError(
                "--keep-adapters: the student began as no model folder (student.path is an architecture, or "
                "student.keep_layers cut it), so the adapters would have no base model; leave it out"
            )
        if self.merged:
            raise UserError(
                f"--keep-adapters: {self.module.name_or_path} had adapters of its own, which were merged, and "
                "those trained here do not fit its files; leave it out"
            )
        base = self.module.base_model_prefix
        lora.save_peft(folder, self.module, settings, f"{base}.{self.of.connector}")
        self.reader.processor.save_pretrained(folder)
        follow_umask(folder)


def load(
    family: Family, folder: Path, dtype: torch.dtype, lm: type[TransformersLM] = TransformersLM, **reading: Any
) -> TransformersLM:
    """Load the model of a folder in `dtype`, with its processor.

    UserError if weights or a file of the processor are missing, or if the model fails a check.
    """
    reader = lm.reads.load(family, folder, **reading)
    whole = None if family.part is None else whole_config(folder)
    more: dict[str, Any] = {} if whole is None else {"config": own_config(family, whole, str(folder))}
    # Adapters beside whole weights are loaded separately: from_pretrained would report missing keys only for them.
    more["adapter_kwargs"] = {"subfolder": "none"}
    check_files(family, folder)
    cls, what = getattr(transformers, family.model), f"{family.model_type} model"
    model = pretrained(cls, folder, what, apart=APART, dtype=dtype, **more)
    if merged := (folder / "adapter_config.json").is_file():
        lora.merge_stored(model, folder)
    loaded = lm(family, model, reader)
    loaded.whole, loaded.merged = whole, merged
    return checked(loaded, str(folder))


def check_files(family: Family, folder: Path) -> None:
    """Refuse files that transformers would silently ignore: a broken generation config, no text config."""
    if (generation := folder / "generation_config.json").is_file():
        read_json(generation, "give a complete folder")
    config = read_json(folder / "config.json", "give a complete folder")
    own = config.get(family.part) if family.part else config
    if not isinstance(own, dict) or "text_config" not in own:
        part = f"{family.part}.text_config" if family.part else "text_config"
        raise UserError(f"{folder}/config.json: there is no {part} in it; give a complete folder")


def whole_config(folder: Path) -> PreTrainedConfig:
    """Load the config of a folder; UserError if it does not load."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a family's code may raise anything on inconsistent settings
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: its config.json does not load ({reason}); give a complete folder") from error


def own_config(family: Family, whole: PreTrainedConfig, name: str) -> PreTrainedConfig:
    """Return the family class's config in a published one; UserError, which begins with `name`, if it has none."""
    if family.part is None:
        return whole
    if not isinstance(part := getattr(whole, family.part, None), PreTrainedConfig):
        raise UserError(f"{name}: no {family.part} in its config; give the config of a whole {family.model_type} model")
    return part


def build(
    family: Family, name: str, processor: str | Path, lm: type[TransformersLM] = TransformersLM, **reading: Any
) -> TransformersLM:
    """Build a model with random fp32 weights from an architecture file, with the processor of a folder."""
    whole, model = random_model(family, read_architecture(name), name)
    built = lm(family, model, lm.reads.load(family, processor, **reading))
    built.whole, built.random = whole if family.part else None, True
    return checked(built, name)


def random_model(family: Family, values: dict[str, Any], name: str) -> tuple[PreTrainedConfig, PreTrainedModel]:
    """Build the config of an architecture's `values`, and the family's class with random weights in fp32.

    UserError, which begins with `name`, if the settings are inconsistent.
    """
    try:
        whole = AutoConfig.for_model(**values)
        config = own_config(family, whole, name)
        # A published config has the weights' dtype for each part; random weights are fp32.
        for part in (config, *(getattr(config, part) for part in config.sub_configs)):
            if part is not None:
                part.dtype = None
        return whole, getattr(transformers, family.model)(config)
    except UserError:
        raise
    except Exception as error:  # a family's code may raise anything on inconsistent settings
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"{name}: no model can be built of it: {reason}; change its settings") from error


def check_names(family: Family, model: PreTrainedModel) -> None:
    """Refuse module names in a family's file that its class does not have."""
    parts = ", ".join(name for name, _ in model.base_model.named_children())
    for field in ("tower", "connector"):
        try:
            model.base_model.get_submodule(getattr(family, field))
        except AttributeError:
            mismatch = f"{field} is {getattr(family, field)!r}, and a {type(model.base_model).__name__} has {parts}"
            raise UserError(f"caad_ds/models/families/{family.model_type}.py: {mismatch}; correct it") from None
    if model.get_output_embeddings() is None:
        raise UserError(
            f"caad_ds/models/families/{family.model_type}.py: a {family.model} has no LM head; name the class that has"
        )


def checked(lm: TransformersLM, name: str) -> TransformersLM:
    """Check a model's stops, vocabulary, head and audio; UserError if one is not supported."""
    model = lm.module
    check_names(lm.of, model)
    check_stops(model.generation_config.stop_strings, name)  # type: ignore[union-attr]
    check_vocabulary(model, lm.reader.tokenizer, name)
    lm.check_head(name)
    lm.check_hearing(name)
    return lm
