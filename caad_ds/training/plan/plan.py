"""Estimate what a run needs: parameters, memory, FLOPs, hours, files, and the placement of the teacher."""

from dataclasses import asdict, dataclass
from typing import Any

from caad_ds.config.schema import Config
from caad_ds.distill.teacher_cache.layout import CacheForm
from caad_ds.training.batches import batch_shape
from caad_ds.training.devices import DEVICES, GIB, Device
from caad_ds.training.plan import formulas
from caad_ds.training.plan.memory_plan import ALONE, CACHED, PLACEMENTS, Engines, MemoryPlan
from caad_ds.training.plan.meta_models import (
    MetaModel,
    numel,
    shares_encoding,
    student_of,
    teacher_described,
    teacher_of,
)
from caad_ds.training.plan.rehearsal import Costs, Shape, line, rehearse
from caad_ds.training.plan.workload import Workload, workload
from caad_ds.training.teacher.placement import choose, memory_of, placed_by
from caad_ds.utils.errors import UserError

FILLING = "filling"  # a step of the epoch that fills a cache

FEW = range(4, 13)  # sizes of a small micro-batch to extrapolate from: one with a whole number of audios
HOST_GIB = 64  # assumed per GPU by default
# Measured on an H100 (benchmarks/results/step_h100.md): 306 of 989.4 TFLOP/s in bf16, outside of engines.
MFU = 306 / 989.4
FP32_SHARE = 0.7  # of the peak in fp32; assumed, not measured

Table = dict[str, dict[str, float]]  # rows by columns, or columns by rows


@dataclass(frozen=True)
class Plan:
    """A run's needs. Bytes, FLOPs and hours are plain numbers; `memory` and `largest_micro_batch` are by placement.

    `parameters`: by model and part. `memory`: bytes per rank by part, for each placement and with a teacher cache;
    `host` the node's memory of a rank. `flops`: per optimizer step over all ranks, by part, of this run, of it with a
    cache, and of the authors' graph. `data`: samples, tokens, positions, answer rows, steps. `files`: bytes written.
    """

    run: str
    device: str
    ranks: int
    precision: str
    micro_batch: int
    accumulation: int
    device_free: int
    parameters: Table
    memory: Table
    host: dict[str, float]
    flops: Table
    data: dict[str, float]
    hours: dict[str, float | None]
    files: dict[str, float]
    placement: str
    placement_reason: str
    auto: str
    largest_micro_batch: dict[str, int]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return asdict(self)


def plan(
    config: Config,
    *,
    device: str = "h100",
    nodes: int = 1,
    gpus_per_node: int = 1,
    teacher: str | None = None,
    samples: int | None = None,
    tokens: int | None = None,
    answer_tokens: int | None = None,
    seconds: float | None = None,
    mfu: float | None = None,
    host_gb: float | None = None,
) -> Plan:
    """Estimate what a run needs, from architectures on the meta device: no weights are read and nothing is computed.

    Args:
        config: of `load_config`.
        device: a name of `DEVICES`, or `cpu`, this machine's.
        nodes: machines, and `gpus_per_node` ranks on each.
        teacher: an architecture's .json, a model's folder or hub id, or the YAML that trains it; default: teacher.path.
        samples: of data.train if its index is not to be read, with `tokens` of text a sample, prompt and answer
            together, of which `answer_tokens` are the answer's, and `seconds` of audio.
        mfu: achieved share of the device's peak; default: as measured.
        host_gb: memory of a node in GB; default 64 GiB per GPU.

    Raises:
        UserError: a model, the data or a device is unknown.
    """
    ranks = nodes * gpus_per_node
    there = _device(device)
    batch_shape(config, ranks)  # raises before models are built
    work = workload(config, ranks, samples, tokens, answer_tokens, seconds)
    described = teacher_described(config, teacher)
    models = student_of(config, described), None if described is None else teacher_of(config, described)
    engines = Engines(config, there, ranks, *models)
    return _Planner(engines, device, gpus_per_node, work).plan(mfu, host_gb)


def _device(name: str) -> Device | None:
    if name != "cpu" and name not in DEVICES:
        raise UserError(f"--device {name}: not known; known are {', '.join([*DEVICES, 'cpu'])}")
    return DEVICES.get(name)


class _Planner:
    """Computes all parts of a plan."""

    def __init__(self, engines: Engines, name: str, gpus: int, work: Workload):
        self.engines, self.cfg, self.name, self.gpus, self.work = engines, engines.cfg, name, gpus, work
        self.student, self.teacher, self.ranks = engines.student, engines.teacher, engines.ranks
        self._known: dict[tuple[int, bool, float], Costs] = {}
        self.micro, self.accumulation = self._micro_batch()
        self.costs = self._rehearsed(self.micro, longest=False)
        once, twice = (self._rehearsed(samples, longest=True) for samples in (self.micro, 2 * self.micro))
        checked = self._rehearsed(self.cfg.validation.batch_size, True, audios=1.0) if work.validation else None
        self.memory = MemoryPlan(engines, self.micro, self.accumulation, once, twice, checked)

    def _micro_batch(self) -> tuple[int, int]:
        samples, accumulation = batch_shape(self.cfg, self.ranks)
        if self.cfg.optimizer.micro_tokens is not None:
            return max(1, self.cfg.optimizer.micro_tokens // max(1, round(self.work.text))), accumulation
        return samples, accumulation

    def _rehearsed(self, samples: int, longest: bool, audios: float | None = None) -> Costs:
        """Return the costs of a micro-batch of samples of mean length with mean padding, or of the longest.

        A large one is extrapolated linearly from two small ones: some towers loop over their audio in Python.
        """
        share = self.work.audios_per_sample if audios is None else audios
        few = min(FEW, key=lambda count: abs(count * share - max(1, round(count * share))) / count)
        if samples <= 2 * few:
            return self._rehearse(samples, longest, share)
        return line(self._rehearse(few, longest, share), self._rehearse(2 * few, longest, share), few, samples)

    def _rehearse(self, samples: int, longest: bool, audios: float) -> Costs:
        if (known := self._known.get((samples, longest, audios))) is not None:
            return known
        work = self.work
        scale = work.longest_text / work.text if longest else 1.0
        answer = max(1, min(round(work.answer * scale), self.cfg.data.max_answer_tokens))
        prompt = max(1, round(work.prompt * scale))
        text = max(work.longest_text if longest else round(work.padded), prompt + answer)
        different = max(1, round(samples * audios))
        seconds = work.longest_seconds if longest else work.seconds
        shape = Shape(samples, prompt, answer, text, different, seconds)
        costs = rehearse(self.student, self.teacher, self.cfg.negative, shape)
        self._known[samples, longest, audios] = costs
        return costs

    def plan(self, mfu: float | None, host_gb: float | None) -> Plan:
        """Compute the plan."""
        free = self.engines.free()
        host = int(host_gb * 1e9 / self.gpus) if host_gb is not None else HOST_GIB * GIB
        placed, reason, auto = self._placement(free, host)
        columns = [*PLACEMENTS, CACHED] if self.teacher else [ALONE]
        data, flops = self._data(), self._flops()
        hours, hour_notes = self._hours(flops, data, mfu)
        return Plan(
            run=self.cfg.run.name,
            device=self.name,
            ranks=self.ranks,
            precision=self.cfg.run.precision,
            micro_batch=self.micro,
            accumulation=self.accumulation,
            device_free=free,
            parameters=self._parameters(),
            memory={column: self.memory.of(column, self.micro) for column in columns},
            host={column: self.memory.host(column) for column in columns},
            flops=flops,
            data=data,
            hours=hours,
            files=self._files(data),
            placement=placed,
            placement_reason=reason,
            auto=auto,
            largest_micro_batch={column: self.memory.largest(column) for column in columns},
            notes=[f"data: {self.work.source}", *hour_notes, *self._assumed(host_gb)],
        )

    def _parameters(self) -> Table:
        student = {"student": parts_of(self.student), "trained": parts_of(self.student, trained=True)}
        return ({"teacher": parts_of(self.teacher)} if self.teacher else {}) | student

    def _placement(self, free: int, host_free: int) -> tuple[str, str, str]:
        """Return (the run's placement, its reason, what `auto` would choose)."""
        if self.teacher is None or self.cfg.teacher is None:
            return ALONE, "objective ce", ALONE
        section = self.cfg.teacher
        counts = numel(self.teacher.lm.module), numel(self.student.lm.module), numel(self.student.lm.module, True)
        memory = memory_of(self.cfg, counts, self.engines.width, self.ranks, free, host_free)
        if self.engines.device is None:
            auto, why = "resident", "the device's memory is the host's"
        else:
            try:
                auto, why = choose(memory, section.nvme_path is not None)
            except UserError as error:
                auto, why = "none", str(error)
        if section.deepspeed is not None:
            return placed_by(section.deepspeed), f"as {section.deepspeed} says", auto
        if section.placement != "auto":
            return section.placement, "as teacher.placement says", auto
        return auto, why, auto

    def _flops(self) -> Table:
        """Return FLOPs per optimizer step, over all ranks."""
        costs, micro_batches = self.costs, self.accumulation * self.ranks
        heads = self.engines.heads(costs.rows)
        ours = {
            "encoder": costs.encoder,
            "teacher": costs.teacher,
            "student forward": costs.student_forward,
            "student backward": costs.student_backward,
            "heads": formulas.head_flops(heads),
        }
        runs = {"online": ours}
        if self.teacher is not None:
            cached = {"heads": formulas.head_flops(self.engines.heads(costs.rows, cached=True))}
            runs[CACHED] = ours | {"encoder": costs.student_encoder, "teacher": 0} | cached
            theirs = {"encoder": costs.authors_encoder, "teacher": costs.authors_teacher}
            runs["authors"] = ours | theirs | {"heads": formulas.authors_head_flops(heads, costs.positions)}
        table: Table = {
            name: {part: float(v * micro_batches) for part, v in parts.items()} for name, parts in runs.items()
        }
        return {name: parts | {"total": sum(parts.values())} for name, parts in table.items()}

    def _data(self) -> dict[str, float]:
        work, opt = self.work, self.cfg.optimizer
        positions = self.costs.positions / self.micro
        batch = opt.batch_tokens / positions if opt.batch_tokens is not None else opt.batch_size
        steps = work.samples / batch
        total = opt.steps if opt.steps is not None else max(1, round((opt.epochs or 0) * steps))
        return {
            "samples": work.samples,
            "validation_samples": work.validation,
            "text_tokens_per_epoch": round(work.samples * work.text),
            "positions_per_epoch": round(work.samples * positions),
            "answer_rows_per_epoch": round(work.samples * work.answer),
            "steps_per_epoch": steps,
            "steps": total,
            "epochs": total / steps,
        }

    def _hours(
        self, flops: Table, data: dict[str, float], mfu: float | None
    ) -> tuple[dict[str, float | None], list[str]]:
        """Return hours of all steps (with a cache, the first epoch online; None without a known peak), and notes."""
        run, device = self.cfg.run, self.engines.device
        shares = {"bf16": MFU if mfu is None else mfu, "fp32": FP32_SHARE if mfu is None else mfu}
        known = {"bf16": device.bf16 if device else None, "fp32": device.fp32 if device else None}
        own = self.student.lm.modules_outside() or (self.teacher and self.teacher.lm.modules_outside())
        precisions: dict[str, str] = dict.fromkeys(flops["online"], run.precision)
        if own and run.peak_tflops is None:
            precisions["encoder"] = run.encoder_precision
        peaks = {part: run.peak_tflops or known[precision] for part, precision in precisions.items()}
        hours: dict[str, float | None] = {"mfu": shares[run.precision], "peak_tflops": peaks["heads"]}
        names = ["online", CACHED] if self.teacher else ["online"]
        if not all(peaks.values()):
            why = "hours: no peak of this device is known in this precision; name a GPU with --device"
            if not self.cfg.student.keep_encoded_gb:  # with which run.peak_tflops is refused
                why += ", or set run.peak_tflops"
            return hours | dict.fromkeys(names), [why]
        shared = {part: shares[precision] for part, precision in precisions.items()}
        peaks_known = {part: float(peak or 0) for part, peak in peaks.items()}
        took = {}
        if self.teacher:
            flops = flops | {FILLING: self._filling(flops)}
            names = [*names, FILLING]
        for name in names:
            parts = {part: value for part, value in flops[name].items() if part != "total"}
            took[name] = formulas.seconds(parts, peaks_known, shared, self.ranks)
        steps, epoch = data["steps"], min(data["steps"], data["steps_per_epoch"])
        hours["online"] = took["online"] * steps / 3600
        if self.teacher:
            hours[CACHED] = (took[FILLING] * epoch + took[CACHED] * (steps - epoch)) / 3600
        return hours, self._hour_notes(mfu, precisions, peaks_known)

    def _filling(self, flops: Table) -> dict[str, float]:
        """Return FLOPs of a step that fills a cache: one that reads it, plus teacher and scalars of both paths."""
        rows = self.costs.rows * self.accumulation * self.ranks
        paths = 2 if self.cfg.negative is not None else 1
        scalars = formulas.teacher_product(self.engines.heads(1)) * rows * paths
        return flops["online"] | {"heads": flops[CACHED]["heads"] + scalars}

    def _hour_notes(self, mfu: float | None, precisions: dict[str, str], peaks: dict[str, float]) -> list[str]:
        measured = f"{MFU:.2f} in bf16 (as measured on an H100 outside of engines: 306 TFLOP/s)"
        share = f"{mfu:g}, as given" if mfu is not None else f"{measured}, {FP32_SHARE:g} in fp32 (assumed)"
        notes = [f"hours: share of the peak {share}; without communication, loading, validation and checkpoints"]
        if precisions["encoder"] == "fp32" and precisions["heads"] == "bf16":
            notes.append(
                f"encoder: in fp32 its peak is {peaks['encoder']:g} TFLOP/s; run.encoder_precision: bf16 takes "
                f"{peaks['heads']:g}"
            )
        return notes

    def _files(self, data: dict[str, float]) -> dict[str, float]:
        files: dict[str, float] = {}
        engines, section, student = self.engines, self.cfg.checkpoint, self.cfg.student
        if self.teacher is not None:
            rows = round((data["samples"] + data["validation_samples"]) * self.work.answer)
            width = engines.heads(1).teacher_width
            forms: tuple[CacheForm, ...] = ("pair", "contrast") if self.cfg.negative is not None else ("contrast",)
            files |= {f"cache, {form}": formulas.cache_bytes(rows, width, engines.width, form) for form in forms}
        one = formulas.checkpoint_bytes(engines.held(trained=True), engines.width, engines.settings)
        kept = section.keep + section.keep_best
        if section.milestone_every:
            kept += int(data["steps"]) // section.milestone_every
        kept = min(kept, max(1, int(data["steps"]) // section.every))
        outside = self.student.lm.modules_outside()
        named = student.path is None and not _copied(student.encoder)  # a hub id is recorded instead
        encoder = 0 if named or not outside else numel(self.student.lm.tower) * formulas.FP32
        model = numel(self.student.lm.module) * engines.width + encoder
        return files | {"checkpoint": one, "checkpoints kept": one * kept, "model": model}

    def _assumed(self, host_gb: float | None) -> list[str]:
        encoded = "student.keep_encoded_gb: neither its memory nor what it saves of the encoder is counted"
        notes = [encoded] if self.cfg.student.keep_encoded_gb else []
        if self.cfg.objective.draws:
            notes.append(
                "objective.on_policy: drawing and the drawn answers in the student's batches are not in these tables, "
                "memory and hours are more than this; it takes no cache (teacher.placement auto does count the "
                "gathered student)"
            )
        if self.teacher is None:
            return notes
        shared = shares_encoding(self.student, self.teacher)
        notes.append("encoder: " + ("one for both models, by its shape" if shared else "each model has its own"))
        if self.engines.device is not None and host_gb is None:
            notes.append(f"host memory: {HOST_GIB} GiB per GPU are assumed (--host-gb)")
        return notes


def parts_of(model: MetaModel, trained: bool = False) -> dict[str, float]:
    """Count weights by part; a tied head counts as embedding; `other` is neither encoder, connector, LLM nor head."""
    lm = model.lm
    layer = lm.generator.get_output_embeddings()
    tied = layer.weight is lm.generator.get_input_embeddings().weight
    head = 0 if tied else numel(layer, trained)
    connector = numel(lm.connector, trained)
    inside = any(part is lm.connector for part in lm.tower.modules())
    encoder = numel(lm.tower, trained) - (connector if inside else 0)
    own = any(part is layer for part in lm.decoder.modules())
    llm = numel(lm.decoder, trained) - (head if own else 0)
    total = numel(lm.module, trained) + sum(numel(part, trained) for part in lm.modules_outside().values())
    parts: dict[str, float] = {"encoder": encoder, "connector": connector, "llm": llm, "head": head}
    return parts | {"other": total - sum(parts.values()), "total": total}


def _copied(encoder: str | None) -> bool:
    """Return whether the encoder's weights are written to the model's folder."""
    return encoder is not None and (encoder.endswith(".json") or "/" not in encoder or encoder.startswith((".", "/")))
