"""Memory of a rank, by part and by placement of the teacher, and the largest micro-batch that fits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import psutil
import torch

from caad_ds.config.deepspeed_settings import deepspeed_config, teacher_file
from caad_ds.config.schema import Config
from caad_ds.loss.objective import Objective
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.whisper_qformer.rates import POSITIONS_PER_SECOND
from caad_ds.training.batches import teacher_batch
from caad_ds.training.device_datasheets import GIB, Device
from caad_ds.training.plan import formulas
from caad_ds.training.plan.formulas import Heads, Phases
from caad_ds.training.plan.meta_models import MetaModel, numel, shares_encoding
from caad_ds.training.plan.rehearsal import Costs

PLACEMENTS = ("replicated", "resident", "cpu", "nvme")
CACHED, ALONE = "cached", "no teacher"
FILLING = "filling"  # a run whose first epoch fills a cache, and which keeps its teacher
HOST_GIB = 64  # of host memory, assumed per GPU by default
CONTEXT = GIB // 2  # device memory that CUDA itself takes
FRAGMENTATION = 0.05  # share of the free memory that PyTorch's allocator cannot use
LARGEST = 1 << 16
LINEAR = ("encoder_bytes", "encoder_held", "teacher_bytes", "student_bytes", "student_held", "rows")


@dataclass(frozen=True)
class Engines:
    """A run's two models on its ranks. `device` None: this machine's CPU."""

    cfg: Config
    device: Device | None
    ranks: int
    student: MetaModel
    teacher: MetaModel | None

    @property
    def kind(self) -> str:
        """The type of the device."""
        return "cpu" if self.device is None else "cuda"

    @property
    def width(self) -> int:
        """Bytes per weight in the engines."""
        return 2 if self.cfg.run.precision == "bf16" else formulas.FP32

    @cached_property
    def settings(self) -> dict:
        """DeepSpeed's settings of the student."""
        return deepspeed_config(self.cfg.student.deepspeed)

    def held(self, trained: bool = False) -> int:
        """Count the weights of the student's engine, or only the trainable ones."""
        parts = (self.student.lm.module, *self.student.lm.extra_modules().values())
        return sum(numel(part, trained) for part in parts) + self._width_map()

    def _width_map(self) -> int:
        """Count the weights of the projection to the teacher's width, if hidden states are compared."""
        if self.teacher is None or not self.cfg.objective.hidden_weight:
            return 0
        ours, theirs = (m.lm.generator.get_output_embeddings().weight.shape[1] for m in (self.student, self.teacher))
        return ours * theirs if ours != theirs else 0

    @cached_property
    def states(self) -> formulas.States:
        """The student's weights, gradients and optimizer."""
        sizes = self.held(), self.held(trained=True), self.width
        return formulas.student_states(*sizes, self.settings, self.ranks, self.device is None)

    def heads(self, rows: int, cached: bool = False) -> Heads:
        """Return the shapes of the loss over `rows` answer rows, with the teacher's states cached or not."""
        student = self.student.lm.generator.get_output_embeddings().weight
        if self.teacher is None:
            return Heads(rows, len(student), student.shape[1], 0, 0, bool(student.requires_grad))
        theirs, softcap = self.teacher.lm.generator.get_output_embeddings().weight, self.teacher.lm.head().softcap
        contrasted = self.cfg.negative is not None
        separate = contrasted and Objective.of(self.cfg.objective).needs_z_pos(contrasted, softcap)
        vocabulary, products, passing = min(len(student), len(theirs)), 2 if separate else 1, 0
        if contrasted and not cached:  # a cache holds what both need
            passing = 2 if self.cfg.objective.row_weight != "none" else 0
            passing += 1 if self.cfg.objective.alpha_gate != "none" and not separate else 0
        return Heads(
            rows, vocabulary, student.shape[1], theirs.shape[1], products, bool(student.requires_grad), passing
        )

    def outside(self, teachers: bool) -> list[torch.nn.Module]:
        """Return what lies outside the engines: the student's encoder, and with `teachers` the teacher's, if it is
        another."""
        beside = self.student.lm.extra_modules()
        found = [part for name, part in self.student.lm.modules_outside().items() if name not in beside]
        if teachers and self.teacher is not None and not shares_encoding(self.student, self.teacher):
            found += self.teacher.lm.modules_outside().values()
        return found

    def before_engines(self) -> int:
        """Return the bytes on a device when a run measures its free memory: all encoders, also one that will train."""
        lm = self.student.lm
        inside = [part for name, part in lm.modules_outside().items() if name in lm.extra_modules()]
        return sum(map(numel, [*inside, *self.outside(teachers=True)])) * formulas.FP32

    def kept(self, clips: float) -> float:
        """Return bytes of the encoder states of so many clips, float32 [taps, positions, width] each, if they are kept.

        Those of a constant negative are not counted.

        Raises:
            UserError: the student's family cannot keep them (student.keep_encoded_gb).
        """
        lm, limit = self.student.lm, self.cfg.student.keep_encoded_gb * 1e9
        if not limit:
            return 0
        if not isinstance(lm, SpeechAudioLM):
            lm.keep_encoded(limit)
            return 0
        each = len(lm.encoder.taps) * lm.encoder.window_seconds * POSITIONS_PER_SECOND * lm.encoder.dim * formulas.FP32
        return min(limit, clips * each)

    def free(self) -> int:
        """Return the free bytes of a device."""
        if self.device is None:
            return int(psutil.virtual_memory().available)
        return int(self.device.memory * GIB) - CONTEXT


@dataclass(frozen=True)
class MemoryPlan:
    """Memory of micro-batches of `micro` samples, `accumulation` of them per step, from two rehearsed ones.

    `once` holds the costs of a micro-batch that takes the most, `twice` of twice as many samples. `checked` is a batch
    of the validation pass, None if there is none. `kept` is the bytes of kept encoder states.
    """

    engines: Engines
    micro: int
    accumulation: int
    once: Costs
    twice: Costs
    checked: Costs | None = None
    kept: float = 0

    def of(self, column: str, samples: int) -> dict[str, float]:
        """Return bytes of a rank's device by part, and their peak in a step of `samples` samples."""
        states = self.engines.states
        outside = self.engines.outside(teachers=column != CACHED)
        parts: dict[str, float] = {"encoder": sum(map(numel, outside)) * formulas.FP32}
        parts |= {"student": states.weights, "gradients": states.gradients, "optimizer": states.optimizer}
        if self.engines.device is None:  # the device uses host memory
            parts["optimizer"] += states.host
            parts["kept encoder states"] = self.kept
        parts |= self._teacher(column)
        phases = self._phases(column, samples, states.step)
        parts |= {f"in {name}": value for name, value in asdict(phases).items()}
        held = sum(value for name, value in parts.items() if not name.startswith("in "))
        return parts | {"peak": held + phases.peak}

    def host(self, column: str) -> float:
        """Return a rank's host memory: what is offloaded, kept encoder states, and the buffers of a teacher on NVMe.

        Each of `buffer_count` buffers takes a rank's share of the teacher's largest weight (deepspeed_settings.py).
        """
        teacher, width, ranks = self.engines.teacher, self.engines.width, self.engines.ranks
        if self.engines.device is None:
            return 0
        offloaded = self.engines.states.host + self.kept
        if column == "cpu" and teacher is not None:
            offloaded += numel(teacher.lm.module) * width // ranks
        if column == "nvme" and teacher is not None:
            buffers = (self._settings(column)["zero_optimization"].get("offload_param") or {}).get("buffer_count", 5)
            offloaded += buffers * -(-max(weight.numel() for weight in teacher.lm.module.parameters()) // ranks) * width
        return offloaded

    def fits(self, column: str, samples: int, host_free: int) -> bool:
        """Return whether a step of `samples` samples fits into the device, of which 5% are fragments, and the host."""
        room = self.engines.free() * (1 - FRAGMENTATION)
        return self.host(column) <= host_free and self.of(column, samples)["peak"] <= room

    def largest(self, column: str, host_free: int) -> int:
        """Return the largest micro-batch, in samples, that fits; 0 if none does."""
        low, high = 0, 1
        while high < LARGEST and self.fits(column, high, host_free):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.fits(column, middle, host_free) else (low, middle)
        return low

    def _settings(self, placed: str) -> Mapping[str, Any]:
        assert self.engines.cfg.teacher is not None
        return deepspeed_config(teacher_file(self.engines.cfg.teacher, placed))

    def _teacher(self, column: str) -> dict[str, float]:
        """Return the teacher's device memory: weights by placement, those gathered at a time, and a copy of its head.

        If ZeRO-3 partitions the teacher, each step copies its head (`OnlineTeacher.head`). The weights of a single rank
        on its device are whole already.
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

    def _phases(self, column: str, samples: int, step_bytes: int) -> Phases:
        at, cfg = self._linear(samples), self.engines.cfg
        logits = 2 if cfg.objective.logits == "bfloat16" else formulas.FP32
        heads = self.engines.heads(round(at["rows"]), column == CACHED)
        running, left = formulas.loss_bytes(heads, self.engines.width, logits, self.engines.kind)
        step = self.micro * self.accumulation  # samples of a rank in an optimizer step
        together = samples * teacher_batch(cfg, column, max(1, -(-step // samples)))
        many = window = self._linear(together)
        if cfg.objective.row_weight != "none":  # both models' states are kept until the window is complete
            window = self._linear(max(together, step))
        body = column not in (CACHED, ALONE)
        encoded = window["encoder_held"] - at["encoder_held"]  # states of the following micro-batches
        paths = 1 if cfg.negative is None else 2
        state = paths * heads.teacher_width * self.engines.width  # of a row
        taught = state * (window["rows"] - at["rows"])
        teacher = many["teacher_bytes"] + window["encoder_held"] - many["encoder_held"]
        if cfg.objective.row_weight != "none" or (cfg.teacher is not None and cfg.teacher.cache is not None):
            scalars = formulas.scalar_bytes(heads, paths, self.engines.width, self.engines.kind)
            teacher = max(teacher, window["encoder_held"] + state * window["rows"] + scalars)
        return Phases(
            encoder=int(at["encoder_bytes"] + encoded),
            teacher=int(teacher) if body else 0,
            loss=int(at["student_held"] + running + encoded + taught),
            backward=int(at["student_bytes"] + left + encoded + taught),
            optimizer=step_bytes,
            validation=self._validation(body),
        )

    def _validation(self, body: bool) -> int:
        """Return the bytes of a batch of the validation pass; `body`: whether the teacher computes it too."""
        checked = self.checked
        if checked is None:
            return 0
        return max(checked.encoder_bytes, checked.student_bytes, checked.teacher_bytes if body else 0)

    def _linear(self, samples: int) -> dict[str, float]:
        """Extrapolate bytes and rows to `samples` samples, linearly from one and two micro-batches."""
        once, twice = ({name: getattr(costs, name) for name in LINEAR} for costs in (self.once, self.twice))
        more = (samples - self.micro) / self.micro
        return {name: max(0, once[name] + more * (twice[name] - once[name])) for name in LINEAR}


def _layers(model: MetaModel) -> list[torch.nn.Module]:
    """Return the modules that ZeRO-3 fetches as a whole: decoder layers, and the embedding."""
    names = set(model.lm.decoder._no_split_modules or [])
    parts = [part for part in model.lm.module.modules() if type(part).__name__ in names]
    return [*parts, model.lm.generator.get_input_embeddings()]


def assumptions(engines: Engines, host_gb: float | None) -> list[str]:
    """Return what a plan does not count or takes for granted."""
    cfg, teacher = engines.cfg, engines.teacher
    encoded = "student.keep_encoded_gb: what it saves of the encoder is not counted in FLOPs and hours"
    notes = [encoded] if cfg.student.keep_encoded_gb else []
    if cfg.objective.draws:
        notes.append(
            "objective.on_policy: drawing and the drawn answers in the student's batches are not in these tables, "
            "memory and hours are more than this (teacher.placement auto does count the gathered student)"
        )
    if teacher is None:
        return notes
    if cfg.teacher is not None and cfg.teacher.keep_prefix:
        notes.append("teacher.keep_prefix: neither its memory nor what it saves of the teacher is counted")
    shared = shares_encoding(engines.student, teacher)
    notes.append("encoder: " + ("one for both models, by its shape" if shared else "each model has its own"))
    if engines.device is not None and host_gb is None:
        notes.append(f"host memory: {HOST_GIB} GiB per GPU are assumed (--host-gb)")
    return notes
