"""A copy of the student for decoding: it shares the gathered weights and has none of the engine's hooks."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy

import deepspeed
import torch
from torch import nn

from caad_ds.models.audio_lm import AudioLM


class GatheredCopy:
    """Copies of a student's modules that use its weights while these are gathered.

    Decoding calls the model for every token. Through the engine's modules, ZeRO-3 would gather and free each layer each
    time, and a rank whose answers end early would leave the others waiting. It is made before the engine, whose hooks
    would be copied, and is always in evaluation mode: without dropout and recomputation.
    """

    def __init__(self, student: AudioLM, device: torch.device):
        self._weights: list[tuple[nn.Parameter, nn.Parameter]] = []
        known: dict[int, object] = {}
        for _, weight in student.named_parameters():
            if id(weight) not in known:
                own = nn.Parameter(weight.detach().new_empty(0), requires_grad=False)
                self._weights.append((weight, own))
                known[id(weight)] = own
        self.lm = copy(student)
        for name in ("module", *student.extra_modules()):
            part: nn.Module = getattr(student, name)
            known |= {id(buffer): buffer for buffer in part.buffers()}
            setattr(self.lm, name, deepcopy(part, known).eval().to(device))

    @contextmanager
    def filled(self) -> Iterator[AudioLM]:
        """Yield the student with its current weights for the duration of the context; every rank enters it."""
        gathered = deepspeed.zero.GatheredParameters([weight for weight, _ in self._weights], modifier_rank=None)
        with gathered, torch.no_grad():
            for weight, own in self._weights:
                own.data = weight.data
            try:
                yield self.lm
            finally:
                for _, own in self._weights:
                    own.data = own.data.new_empty(0)
