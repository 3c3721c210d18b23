"""The folder of a trained model: what a run leaves at its end, and what `caad-ds export` writes."""

import shutil
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from caad_ds.models.speech_lm import adapters
from caad_ds.models.speech_lm.folder import save
from caad_ds.models.whisper_qformer.speech_lm import SpeechLM
from caad_ds.training.checks.finite_weights import require_finite
from caad_ds.training.engines import Student
from caad_ds.training.identity import frozen_hash
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors, write_json


def all_weights(student: Student, trainable: Mapping[str, Tensor], frozen: str, config: Path) -> dict[str, Tensor]:
    """A checkpoint's trainable weights, and the frozen ones of the student as `config` builds it.

    UserError where that is not the student of the run: other trainable weights, or a frozen hash other than `frozen`.
    """
    own = dict(student.model.named_parameters())
    if student.encoder.adapters is not None:
        own |= {f"encoder.{name}": parameter for name, parameter in student.encoder.named_parameters()}
    expected = {name: parameter.shape for name, parameter in own.items() if parameter.requires_grad}
    if expected != {name: tensor.shape for name, tensor in trainable.items()}:
        raise UserError(f"{config}: its student has other trainable weights than the checkpoint; was the file changed?")
    if frozen_hash(student.model, student.encoder.whisper) != frozen:
        raise UserError(
            f"{config}: the frozen weights of its student (encoder, LLM) are not those that the run began with; "
            "bring back the ones that student: names"
        )
    return own | dict(trainable)


def trained(student: Student, weights: Mapping[str, Tensor], dtype: torch.dtype, merge: bool) -> SpeechLM:
    """The student's model with `weights` (all of them, under its own names; a tied head may be left out), in `dtype`.

    It is built again around them: in training the student's own parameters are partitioned. Its buffers are not, and
    are taken as they are. `merge` makes its adapters, if it has any, part of the weights beside them.
    """
    with torch.device("meta"):  # at random first, a large model would take minutes and its memory twice
        model = SpeechLM(deepcopy(student.model.config))
    whole = {name: weight.to(dtype) for name, weight in weights.items() if not name.startswith("encoder.")}
    buffers = {name: buffer.cpu() for name, buffer in student.model.named_buffers()}
    model.load_state_dict(buffers | whole, strict=False, assign=True)
    model.tie_weights()
    model.llm.generation_config = deepcopy(student.model.llm.generation_config)  # its end tokens
    if merge:
        adapters.merge(model)
    return model


def write_model(
    folder: Path,
    student: Student,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    *,
    merge: bool = True,
    origin: dict | None = None,
) -> None:
    """Write a model folder that `load` reads, whole or not at all; it replaces what was there.

    Adapters are merged unless `merge` is false, an encoder's always. `origin` is kept in it as `export.json`. NotFinite
    if a weight is NaN or infinite.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model = trained(student, weights, dtype, merge)
    require_finite(model.named_parameters(), f"{folder} is not written", "use an older checkpoint")
    encoder = student.encoder
    if encoder.adapters is not None:
        part = {name: weight for name, weight in weights.items() if name.startswith("encoder.")}
        part = {name.removeprefix("encoder."): weight.to(dtype) for name, weight in part.items()}
        encoder = adapters.merged_encoder(encoder, part)
        require_finite(encoder.named_parameters(), f"{folder} is not written", "use an older checkpoint")
    try:
        with disk_errors(folder):
            save(partial, model, encoder, student.tokenizer)
            if origin is not None:
                write_json(partial / "export.json", origin)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
