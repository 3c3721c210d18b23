"""The folder of a trained model: what a run leaves at its end, and what `caad-ds export` writes."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from caad_ds.models.audio_lm import AudioLM
from caad_ds.training.checks.finite_weights import require_finite
from caad_ds.training.identity import frozen_hash
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors


def all_weights(student: AudioLM, trainable: Mapping[str, Tensor], frozen: str, config: Path) -> dict[str, Tensor]:
    """A checkpoint's trainable weights, and the frozen ones of the student as `config` builds it.

    UserError where that is not the student of the run: other trainable weights, or a frozen hash other than `frozen`.
    """
    own = dict(student.named_parameters())
    expected = {name: parameter.shape for name, parameter in own.items() if parameter.requires_grad}
    if expected != {name: tensor.shape for name, tensor in trainable.items()}:
        raise UserError(f"{config}: its student has other trainable weights than the checkpoint; was the file changed?")
    if frozen_hash(student) != frozen:
        raise UserError(
            f"{config}: the frozen weights of its student (encoder, LLM) are not those that the run began with; "
            "bring back the ones that student: names"
        )
    return own | dict(trainable)


def trained(student: AudioLM, weights: Mapping[str, Tensor], dtype: torch.dtype, merge: bool) -> AudioLM:
    """The student with `weights` (all of them, under its own names; a tied head may be left out), in `dtype`.

    `merge` makes its adapters, if it has any, part of the weights beside them.
    """
    made = student.rebuilt(weights, dtype)
    if merge:
        made.merge_adapters()
    return made


def write_model(
    folder: Path,
    student: AudioLM,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    *,
    merge: bool = True,
    describe: Callable[[Path], object] | None = None,
) -> None:
    """Write a model folder that `load` reads, whole or not at all; it replaces what was there.

    Adapters are merged unless `merge` is false, an encoder's always. `describe` is given the folder before it has its
    name, to put its description beside the model. NotFinite if a weight is NaN or infinite.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    made = trained(student, weights, dtype, merge)
    for module in (made.module, *made.modules_outside().values()):
        require_finite(module.named_parameters(), f"{folder} is not written", "use an older checkpoint")
    try:
        with disk_errors(folder):
            made.save(partial)
            if describe is not None:
                describe(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
