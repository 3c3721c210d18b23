"""Write the folder of a trained model, at the end of a run and in `caad-ds export`."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.model_hashes import frozen_hash
from caad_ds.training.checks.finite_weights import require_finite
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import disk_errors


def all_weights(student: AudioLM, trainable: Mapping[str, Tensor], frozen: str, config: Path) -> dict[str, Tensor]:
    """Join a checkpoint's trainable weights with the frozen ones of the student that `config` builds.

    UserError if that is not the run's student: other trainable weights, or a frozen hash other than `frozen`.
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
    """Return the student with `weights` (all of them, under its own names; a tied head may be left out), in `dtype`.

    `merge` merges its adapters, if any, into the weights.
    """
    model = student.rebuilt(weights, dtype)
    if merge:
        model.merge_adapters()
    return model


def write_model(
    folder: Path,
    student: AudioLM,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    *,
    merge: bool = True,
    describe: Callable[[Path], object] | None = None,
) -> None:
    """Write a model folder that `load` reads, atomically; an existing one is replaced.

    Adapters are merged unless `merge` is false, an encoder's always. `describe` is called with the folder before it is
    renamed, and may add a description of the model. NotFinite if a weight is NaN or infinite.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model = trained(student, weights, dtype, merge)
    for module in (model.module, *model.modules_outside().values()):
        require_finite(module.named_parameters(), f"{folder} is not written", "use an older checkpoint")
    try:
        with disk_errors(folder):
            model.save(partial)
            if describe is not None:
                describe(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
