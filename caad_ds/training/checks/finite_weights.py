"""Find NaN and infinity in weights and optimizer states: no checkpoint and no model folder may hold them."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from caad_ds.config.schema import Config
from caad_ds.distill.step import DistillStep
from caad_ds.distill.teacher_signal import TeacherSignal
from caad_ds.models.audio_lm import AudioLM
from caad_ds.utils.errors import UserError
from caad_ds.utils.ranks import gathered

Named = Iterable[tuple[str, Tensor]]


class NotFinite(UserError):
    """Weights or optimizer states hold NaN or infinity."""


def not_finite(tensors: Named) -> list[str]:
    """Return the names of tensors that hold NaN or infinity, without allocating memory of a tensor's size."""
    return [
        name
        for name, tensor in tensors
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all()
    ]


def require_finite(tensors: Named, where: str, remedy: str) -> None:
    """Raise NotFinite, worded with `where` and `remedy`, if a tensor holds NaN or infinity; it names the first."""
    if names := not_finite(tensors):
        count = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise NotFinite(f"{where}: {names[0]}{count} holds NaN or infinity; {remedy}")


def own_weights(module: nn.Module | TeacherSignal) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a module or a teacher that this rank holds: under ZeRO-3 its share of each."""
    for name, parameter in module.named_parameters():
        yield name, getattr(parameter, "ds_tensor", parameter).detach()


def own_optimizer(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield this rank's share of the optimizer: its states and its float32 master weights.

    ZeRO-3 fills its parameter groups only while it steps. What it has swapped out to NVMe is empty here.
    """
    adam = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for parameter, states in adam.state.items():
        yield "the optimizer's weights", parameter.detach()
        yield from ((f"the optimizer's {name}", state) for name, state in states.items() if torch.is_tensor(state))


def check_models(cfg: Config, student: AudioLM, teacher: AudioLM | None) -> None:
    """Refuse models with weights that are not finite: no step would ever be applied."""
    own = cfg.student.path or cfg.student.llm
    models: dict[str, nn.Module] = {f"student {own if isinstance(own, str) else ''}".strip(): student.module}
    models |= {f"the {name}": module for name, module in student.modules_outside().items()}
    if teacher is not None and cfg.teacher is not None:
        models[f"teacher {cfg.teacher.path}"] = teacher.module
        outside = teacher.modules_outside() if not student.shares_encoding(teacher) else {}
        models |= {f"teacher {cfg.teacher.path}, its {name}": module for name, module in outside.items()}
    for name, model in models.items():
        require_finite(model.named_parameters(), name, "the file is damaged, or its training failed: use another")


def diagnosis(step: DistillStep) -> dict[str, list[str]]:
    """Return the names of non-finite weights and optimizer states, over all ranks; every rank calls it."""
    parts = {"student": own_weights(step.engine.module), "optimizer": own_optimizer(step.engine)}
    if step.teacher is not None:
        parts["teacher"] = own_weights(step.teacher)
    names = {part: not_finite(tensors) for part, tensors in parts.items()}
    return {part: sorted({name for rank in gathered(names) for name in rank[part]}) for part in names}
