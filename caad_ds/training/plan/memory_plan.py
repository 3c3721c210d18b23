"""Bytes of a rank, by part and by where the teacher lies, and the largest micro-batch that they leave room for."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from caad_ds.config.deepspeed_files import deepspeed_config, teacher_file
from caad_ds.config.schema import Config
from caad_ds.loss.objective import Objective
from caad_ds.training.devices import GIB, Device
from caad_ds.training.plan import formulas
from caad_ds.training.plan.formulas import Heads, Phases
from caad_ds.training.plan.meta_models import MetaModel, numel, shares_encoding
from caad_ds.training.plan.rehearsal import Costs

PLACEMENTS = ("replicated", "resident", "cpu", "nvme")
CACHED, ALONE = "cached", "no teacher"
CONTEXT = GIB // 2  # of the device's memory, that CUDA itself takes
FRAGMENTATION = 0.05  # of what is free, that PyTorch's allocator cannot use
LARGEST = 1 << 16
LINEAR = ("encoder_bytes", "encoder_held", "teacher_bytes", "student_bytes", "student_held", "rows")


@dataclass(frozen=True)
class Engines:
    """A run's two models on its ranks. `device` None is this machine's CPU; `encoder_width` bytes of its weights."""

    cfg: Config
    device: Device | None
    ranks: int
    student: MetaModel
    teacher: MetaModel | None
    encoder_width: int = formulas.FP32

    @property
    def kind(self) -> str:
        """The type of the device."""
        return "cpu" if self.device is None else "cuda"

    @property
    def width(self) -> int:
        """Bytes of a weight in the engines."""
        return 2 if self.cfg.run.precision == "bf16" else formulas.FP32

    @property
    def settings(self) -> dict:
        """DeepSpeed's of the student."""
        return deepspeed_config(self.cfg.student.deepspeed)

    def held(self, trained: bool = False) -> int:
        """Weights of the student's engine, or those of them that train."""
        parts = (self.student.lm.module, *self.student.lm.beside().values())
        return sum(numel(part, trained) for part in parts) + self._width_map()

    def _width_map(self) -> int:
        """Weights of the map of the student's states to the teacher's width, where hidden states are compared."""
        if self.teacher is None or not self.cfg.objective.hidden_weight:
            return 0
        ours, theirs = (m.lm.generator.get_output_embeddings().weight.shape[1] for m in (self.student, self.teacher))
        return ours * theirs if ours != theirs else 0

    def states(self) -> formulas.States:
        """The student's weights, gradients and optimizer."""
        sizes = self.held(), self.held(trained=True), self.width
        return formulas.student_states(*sizes, self.settings, self.ranks, self.device is None)

    def heads(self, rows: int, cached: bool = False) -> Heads:
        """The shapes of the loss over so many answer rows, with the teacher's states cached or not."""
        student = self.student.lm.generator.get_output_embeddings().weight
        if self.teacher is None:
            return Heads(rows, len(student), student.shape[1], 0, 0, bool(student.requires_grad))
        theirs, softcap = self.teacher.lm.generator.get_output_embeddings().weight, self.teacher.lm.head().softcap
        contrasted = self.cfg.negative is not None
        separate = contrasted and Objective.of(self.cfg.objective).needs_z_pos(contrasted, softcap)
        vocabulary, products, passing = min(len(student), len(theirs)), 2 if separate else 1, 0
        if contrasted and not cached:  # a cache has what both need
            passing = 2 if self.cfg.objective.row_weight != "none" else 0
            passing += 1 if self.cfg.objective.alpha_gate != "none" and not separate else 0
        return Heads(
            rows, vocabulary, student.shape[1], theirs.shape[1], products, bool(student.requires_grad), passing
        )

    def free(self) -> int:
        """Bytes of a device that nothing has taken."""
        if self.device is None:
            return int(psutil.virtual_memory().available)
        return int(self.device.memory * GIB) - CONTEXT


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of micro-batches of `micro` samples, `accumulation` of them a step, by two that were rehearsed.

    `once` is that of `micro` samples, `twice` of twice as many: both of the longest samples. `checked` is a batch of
    the validation pass, None where there is none.
    """

    engines: Engines
    micro: int
    accumulation: int
    once: Costs
    twice: Costs
    checked: Costs | None = None

    def of(self, column: str, samples: int) -> dict[str, float]:
        """Bytes of a rank's device by part, and their sum at the worst moment of a step of so many samples."""
        states = self.engines.states()
        found: dict[str, float] = {"encoder": self._encoders(column != CACHED)}
        found |= {"student": states.weights, "gradients": states.gradients, "optimizer": states.optimizer}
        if self.engines.device is None:  # the host's memory is the device's
            found["optimizer"] += states.host
        found |= self._teacher(column)
        phases = self._phases(column, samples, states.step)
        found |= {f"in {name}": value for name, value in asdict(phases).items()}
        held = sum(value for name, value in found.items() if not name.startswith("in "))
        return found | {"peak": held + phases.peak}

    def host(self, column: str) -> float:
        """A rank's part of its node's memory: an offloaded optimizer and teacher, and the buffers of one on NVMe.

        Each of `buffer_count` buffers takes a rank's share of the teacher's largest weight (deepspeed_files.py).
        """
        teacher, width, ranks = self.engines.teacher, self.engines.width, self.engines.ranks
        if self.engines.device is None:
            return 0
        offloaded = self.engines.states().host
        if column == "cpu" and teacher is not None:
            offloaded += numel(teacher.lm.module) * width // ranks
        if column == "nvme" and teacher is not None:
            buffers = self._settings(column)["zero_optimization"].get("offload_param", {}).get("buffer_count", 5)
            offloaded += buffers * -(-max(weight.numel() for weight in teacher.lm.module.parameters()) // ranks) * width
        return offloaded

    def largest(self, column: str) -> int:
        """The most samples of a micro-batch whose step fits; 0: not even one."""
        room = self.engines.free() * (1 - FRAGMENTATION)
        low, high = 0, 1
        while high < LARGEST and self.of(column, high)["peak"] <= room:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.of(column, middle)["peak"] <= room else (low, middle)
        return low

    def _settings(self, placed: str) -> Mapping[str, Any]:
        assert self.engines.cfg.teacher is not None
        return deepspeed_config(teacher_file(self.engines.cfg.teacher, placed))

    def _teacher(self, column: str) -> dict[str, float]:
        """Of the device: its weights by placement, what of them is whole for a moment, and the copy of its head.

        Where ZeRO-3 takes the teacher apart, each step copies its head (`OnlineTeacher.head`). One rank's weights that
        lie on its device are whole already.
        """
        teacher, width, ranks = self.engines.teacher, self.engines.width, self.engines.ranks
        if teacher is None:
            return {}
        head = teacher.lm.generator.get_output_embeddings().weight.numel() * width
        whole = numel(teacher.lm.module) * width
        if column in (CACHED, "replicated"):
            return {"teacher": head if column == CACHED else whole}
        largest = max(numel(layer) for layer in _layers(teacher))
        moment = min(whole, formulas.gathered(largest, width, self._settings(column)))
        near = column == "resident" or self.engines.device is None
        if near and ranks == 1:
            moment = 0
        return {"teacher": whole // ranks if near else 0, "teacher, gathered": moment, "teacher, head's copy": head}

    def _encoders(self, teachers: bool) -> float:
        """What lies outside of the engines: the student's encoder, and the teacher's where it is another."""
        student, teacher = self.engines.student, self.engines.teacher
        mine = {id(part) for part in student.lm.beside().values()}
        outside = [part for part in student.lm.modules_outside().values() if id(part) not in mine]
        if teachers and teacher is not None and not shares_encoding(student, teacher):
            outside += teacher.lm.modules_outside().values()
        return sum(map(numel, outside)) * self.engines.encoder_width

    def _phases(self, column: str, samples: int, step: int) -> Phases:
        at, cfg = self._linear(samples), self.engines.cfg
        logits = 2 if cfg.objective.logits == "bfloat16" else formulas.FP32
        heads = self.engines.heads(round(at["rows"]), column == CACHED)
        running, left = formulas.loss_bytes(heads, self.engines.width, logits, self.engines.kind)
        together = samples
        if column in ("cpu", "nvme") and cfg.teacher is not None:  # one forward of the teacher for several
            together = (
                samples * cfg.teacher.batch if cfg.teacher.batch else max(samples, self.micro * self.accumulation)
            )
        many = self._linear(together)
        window = many
        if cfg.objective.row_weight != "none":  # the states of both models wait for those of the whole window
            window = self._linear(max(together, self.micro * self.accumulation))
        waiting = window["encoder_held"] - at["encoder_held"]  # states of the micro-batches that come after
        if window is not many:
            waiting += 2 * round(window["rows"]) * heads.teacher_width * self.engines.width
        body = column not in (CACHED, ALONE)
        checked = 0
        if self.checked is not None:
            checked = max(self.checked.encoder_bytes, self.checked.teacher_bytes if body else 0)
        return Phases(
            encoder=int(many["encoder_bytes"]),
            teacher=int(many["teacher_bytes"]) if body else 0,
            loss=int(at["student_held"] + running + waiting),
            backward=int(at["student_bytes"] + left + waiting),
            optimizer=step,
            validation=checked,
        )

    def _linear(self, samples: int) -> dict[str, float]:
        """Bytes and rows of so many samples, on the line through those of one and of two micro-batches."""
        once, twice = ({name: getattr(costs, name) for name in LINEAR} for costs in (self.once, self.twice))
        more = (samples - self.micro) / self.micro
        return {name: max(0, once[name] + more * (twice[name] - once[name])) for name in LINEAR}


def _layers(model: MetaModel) -> list[torch.nn.Module]:
    """What ZeRO-3 fetches at once: decoder layers, and the embedding."""
    names = set(model.lm.decoder._no_split_modules or [])
    found = [part for part in model.lm.module.modules() if type(part).__name__ in names]
    return [*found, model.lm.generator.get_input_embeddings()]
