"""Estimate what a run needs: parameters, memory, FLOPs, hours, files, and the placement of the teacher."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from caad_ds.config.cache_section import CacheSection
from caad_ds.config.deepspeed_settings import check_deepspeed
from caad_ds.config.schema import Config
from caad_ds.distill.teacher_cache.row_layout import CacheForm
from caad_ds.training.batches import batch_shape
from caad_ds.training.checks.warmup import warmup_notes
from caad_ds.training.device_datasheets import DEVICES, GIB, Device
from caad_ds.training.plan import formulas
from caad_ds.training.plan.audio_inputs import audio_inputs
from caad_ds.training.plan.cache_forms import cache_forms, without_cache
from caad_ds.training.plan.hours import AHEAD, Hours, hours
from caad_ds.training.plan.memory_plan import (
    ALONE,
    CACHED,
    FILLING,
    HOST_GIB,
    PLACEMENTS,
    Engines,
    MemoryPlan,
    assumptions,
)
from caad_ds.training.plan.meta_models import (
    numel,
    parts_of,
    shares_encoding,
    student_of,
    teacher_described,
    teacher_of,
)
from caad_ds.training.plan.rehearsal import Costs, Shape, extrapolated, larger_of_both, rehearse
from caad_ds.training.plan.workload import Workload, workload
from caad_ds.training.plan.written_files import files
from caad_ds.training.teacher.placement import choose, memory_of, placed_by
from caad_ds.utils.errors import UserError

FEW = range(4, 13)  # sizes of a small micro-batch to extrapolate from: one with a whole number of audios

Table = dict[str, dict[str, float]]  # rows by columns, or columns by rows
Known = dict[tuple[Shape, bool, str | None], Costs]  # by shape, whether it trains, and negative


@dataclass(frozen=True)
class Plan:
    """A run's needs. Bytes, FLOPs and hours are plain numbers; `memory` and `largest_micro_batch` are by placement.

    `parameters`: by model and part. `memory`: bytes per rank by part, for each placement and with a teacher cache;
    `host` the node's memory of a rank, and `fits` whether both have room for it. `flops`: per optimizer step over all
    ranks, by part, of this run, of it with a cache, and of the authors' graph. `data`: samples, tokens, positions,
    answer rows, steps. `hours`: of the run, and `first_epoch` of that alone (hours.py); `memory_of`: the column of
    `memory` that such a run needs. `files`: bytes written.

    `cached` is always a run that reads a whole cache, which `cache-teacher` filled before. A run whose first epoch
    fills its cache keeps the teacher to its end: `filling`, at its placement. Both have the cache of form `cache_form`,
    the configured one or the default. Nothing is given of a cache that the run cannot have.
    """

    run: str
    device: str
    ranks: int
    precision: str
    micro_batch: int
    accumulation: int
    device_free: int
    host_free: int
    parameters: Table
    memory: Table
    host: dict[str, float]
    fits: dict[str, bool]
    flops: Table
    data: dict[str, float]
    hours: dict[str, float | None]
    first_epoch: dict[str, float | None]
    memory_of: dict[str, str | None]
    cache_form: str | None
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
    check_deepspeed(config)
    if teacher is not None and config.teacher is None:
        raise UserError(f"--teacher {teacher}: the run has no teacher section (objective ce); remove one of them")
    work = workload(config, ranks, samples, tokens, answer_tokens, seconds)
    described = teacher_described(config, teacher)
    models = student_of(config, described), None if described is None else teacher_of(config, described)
    engines = Engines(without_cache(config), there, ranks, *models)
    section = None if config.teacher is None else config.teacher.cache
    return _Planner(engines, device, gpus_per_node, work).plan(mfu, host_gb, section)


def _device(name: str) -> Device | None:
    if name != "cpu" and name not in DEVICES:
        raise UserError(f"--device {name}: not known; known are {', '.join([*DEVICES, 'cpu'])}")
    return DEVICES.get(name)


Forms = dict[CacheForm, "_Planner"]


class _Planner:
    """Computes all parts of a plan. `known` are rehearsals of the same models."""

    def __init__(self, engines: Engines, name: str, gpus: int, work: Workload, known: Known | None = None):
        self.engines, self.cfg, self.name, self.gpus, self.work = engines, engines.cfg, name, gpus, work
        self.student, self.teacher, self.ranks = engines.student, engines.teacher, engines.ranks
        self._known: Known = {} if known is None else known
        self.accumulation = batch_shape(self.cfg, self.ranks)[1]
        self.micro = self._samples(work.text, work.seconds)
        self.costs = self._rehearsed(self.micro, longest=False)
        checked = None
        if work.validation:
            checked = self._rehearsed(self.cfg.validation.batch_size, longest=True, audios=1.0, trains=False)
        most = self._most(1), self._most(2)
        kept = engines.kept(self._clips())
        self.memory = MemoryPlan(engines, self.micro, self.accumulation, *most, checked, kept)

    def _clips(self) -> float:
        """Return the number of different clips that a rank reads in the whole run."""
        read = self._data()["steps"] * self.accumulation * self.micro + self.work.validation / self.ranks
        return min(self.work.clips, read * self.work.clips_per_sample)

    def _samples(self, text: float, seconds: float) -> int:
        """Return the samples of a rank's micro-batch; of a token budget, how many of this length fit into it."""
        budget = self.cfg.optimizer.micro_tokens
        if budget is None:
            return batch_shape(self.cfg, self.ranks)[0]
        models = [model for model in (self.student, self.teacher) if model is not None]
        positions = max(audio_inputs(model, seconds)[1] for model in models)
        return max(1, budget // max(1, round(text + positions)))

    def _most(self, times: int) -> Costs:
        """Return the costs of the micro-batch that takes the most memory, or of one with `times` as many samples.

        It has the longest samples; of a token budget the larger of those and of more samples of mean length.
        """
        longest = self._samples(self.work.longest_text, self.work.longest_seconds)
        costs = self._rehearsed(times * longest, longest=True)
        if longest == self.micro:
            return costs
        return larger_of_both(costs, self._rehearsed(times * self.micro, longest=False))

    def _rehearsed(self, samples: int, longest: bool, audios: float | None = None, trains: bool = True) -> Costs:
        """Return the costs of a micro-batch of samples of mean length with mean padding, or of the longest.

        A large one is extrapolated linearly from two small ones: some towers loop over their audio in Python.
        """
        share = self.work.audios_per_sample if audios is None else audios
        few = min(FEW, key=lambda count: abs(count * share - max(1, round(count * share))) / count)
        if samples <= 2 * few:
            return self._rehearse(self._shape(samples, longest, share), trains)
        once, twice = (self._rehearse(self._shape(count, longest, share), trains) for count in (few, 2 * few))
        return extrapolated(once, twice, few, samples)

    def _shape(self, samples: int, longest: bool, audios: float) -> Shape:
        work, limit = self.work, self.cfg.data.max_answer_tokens
        different = max(1, round(samples * audios))
        answer, prompt = max(1, round(work.answer)), max(1, round(work.prompt))
        if not longest:
            return Shape(samples, prompt, answer, max(round(work.padded), prompt + answer), different, work.seconds)
        answer = max(1, min(round(work.answer * work.longest_text / work.text), limit))
        prompt = max(1, work.longest_text - answer)
        return Shape(samples, prompt, answer, prompt + answer, different, work.longest_seconds)

    def _rehearse(self, shape: Shape, trains: bool) -> Costs:
        key = shape, trains, self.cfg.negative
        if key not in self._known:
            self._known[key] = rehearse(self.student, self.teacher, self.cfg.negative, shape, trains)
        return self._known[key]

    def _with(self, cfg: Config) -> "_Planner":
        """Return the planner of the same run with another config of its cache."""
        return _Planner(replace(self.engines, cfg=cfg), self.name, self.gpus, self.work, self._known)

    def plan(self, mfu: float | None, host_gb: float | None, section: CacheSection | None) -> Plan:
        """Compute the plan; `section` is the cache of the config, which the engines are without."""
        free = self.engines.free()
        host = int(host_gb * 1e9 / self.gpus) if host_gb is not None else HOST_GIB * GIB
        placed, reason, auto = self._placement(free, host)
        configs, cache_notes = cache_forms(self.engines, section)
        forms = {form: self._with(cfg) for form, cfg in configs.items()}
        fills = section is None or section.fill
        columns = self._columns(forms, placed if fills else None)
        data, flops = self._data(), self._flops(forms)
        took = self._hours(flops, forms, fills, data, mfu)
        rows = round((data["samples"] + data["validation_samples"]) * self.work.answer)
        return Plan(
            run=self.cfg.run.name,
            device=self.name,
            ranks=self.ranks,
            precision=self.cfg.run.precision,
            micro_batch=self.micro,
            accumulation=self.accumulation,
            device_free=free,
            host_free=host,
            parameters=self._parameters(),
            memory={name: memory.of(column, self.micro) for name, (memory, column) in columns.items()},
            host={name: memory.host(column) for name, (memory, column) in columns.items()},
            fits={name: memory.fits(column, self.micro, host) for name, (memory, column) in columns.items()},
            flops=flops,
            data=data,
            hours=took.run,
            first_epoch=took.first_epoch,
            memory_of=self._memory_of(forms, took.first_epoch, placed),
            cache_form=next(iter(forms), None),
            files=files(self.engines, forms, rows, int(data["steps"])),
            placement=placed,
            placement_reason=reason,
            auto=auto,
            largest_micro_batch={name: memory.largest(column, host) for name, (memory, column) in columns.items()},
            notes=[
                f"data: {self.work.source}", *self.work.notes, *took.notes, *cache_notes,
                *self._cache_notes(forms, fills), *assumptions(self.engines, host_gb),
                *warmup_notes(self.cfg.optimizer.warmup_steps, int(data["steps"])),
            ],
        )  # fmt: skip

    def _columns(self, forms: Forms, placed: str | None) -> dict[str, tuple[MemoryPlan, str]]:
        """Return the memory plan of each column, and the place of the teacher in it; `placed`: where a cache is filled.

        Where no placement fits (`none`) there is no column for filling.
        """
        if self.teacher is None:
            return {ALONE: (self.memory, ALONE)}
        columns = {name: (self.memory, name) for name in PLACEMENTS}
        for planner in list(forms.values())[:1]:
            if placed in PLACEMENTS:
                columns[FILLING] = planner.memory, placed
            columns[CACHED] = planner.memory, CACHED
        return columns

    def _cache_notes(self, forms: Forms, fills: bool) -> list[str]:
        """Say which runs the figures with a cache are of."""
        if not forms:
            return []
        notes = [
            f"cache: cached is a run that reads a whole cache, of form {next(iter(forms))}, and has no teacher; "
            "caad-ds cache-teacher fills one before, without the student"
        ]
        if fills:
            notes.append("cache: filling is a run whose first epoch fills the cache; it keeps its teacher to the end")
        return notes

    def _memory_of(self, forms: Forms, runs: Iterable[str], placed: str) -> dict[str, str | None]:
        """Return for each run of the hours the column of its memory; None if it has none.

        A form that runs no second path where the shown one does is filled in the memory of an online run.
        """
        found: dict[str, str | None] = {}
        negatives = {f"{FILLING}, {form}": planner.cfg.negative for form, planner in forms.items()}
        shown = next(iter(negatives.values()), None)
        for run in runs:
            found[run] = {"online": placed, CACHED: CACHED}.get(run)
            if run in negatives and placed in PLACEMENTS:
                same = negatives[run] == shown
                found[run] = FILLING if same else placed if negatives[run] == self.cfg.negative else None
        return found

    def _parameters(self) -> Table:
        student = {"student": parts_of(self.student), "trained": parts_of(self.student, trained=True)}
        return ({"teacher": parts_of(self.teacher)} if self.teacher else {}) | student

    def _placement(self, free: int, host_free: int) -> tuple[str, str, str]:
        """Return (the run's placement, its reason, what `auto` would choose)."""
        if self.teacher is None or self.cfg.teacher is None:
            return ALONE, "objective ce", ALONE
        section = self.cfg.teacher
        counts = numel(self.teacher.lm.module), numel(self.student.lm.module), numel(self.student.lm.module, True)
        free -= self.engines.before_engines()
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

    def _flops(self, forms: Forms) -> Table:
        """Return FLOPs per optimizer step, over all ranks: of this run, with a cache, and of the authors' graph."""
        costs = self.costs
        heads = self.engines.heads(costs.rows)
        ours = self._online()
        runs = {"online": ours}
        for planner in list(forms.values())[:1]:
            reading = {"heads": formulas.head_flops(planner.engines.heads(costs.rows, cached=True))}
            runs[CACHED] = ours | {"encoder": costs.student_encoder, "teacher": 0} | reading
        if self.teacher is not None:
            theirs = {"encoder": costs.authors_encoder, "teacher": costs.authors_teacher}
            runs["authors"] = ours | theirs | {"heads": formulas.authors_head_flops(heads, costs.positions)}
        times = self.accumulation * self.ranks
        table: Table = {name: {part: float(v * times) for part, v in parts.items()} for name, parts in runs.items()}
        return {name: parts | {"total": sum(parts.values())} for name, parts in table.items()}

    def _online(self) -> dict[str, float]:
        """Return FLOPs of a micro-batch in which the teacher runs."""
        costs = self.costs
        return {
            "encoder": costs.encoder,
            "teacher": costs.teacher,
            "student forward": costs.student_forward,
            "student backward": costs.student_backward,
            "heads": formulas.head_flops(self.engines.heads(costs.rows)),
        }

    def _hours(self, flops: Table, forms: Forms, fills: bool, data: dict[str, float], mfu: float | None) -> Hours:
        runs = {name: parts for name, parts in flops.items() if name in ("online", CACHED)}
        times = self.accumulation * self.ranks
        for form, planner in forms.items():
            filling = {part: value * times for part, value in planner.filling().items()}
            if fills:
                runs[f"{FILLING}, {form}"] = filling
            runs[f"{AHEAD}, {form}"] = {part: value * times for part, value in planner.ahead().items()}
        inside = self.costs.student_encoder * times if self.student.lm.trains_tower_inside else 0
        return hours(self.engines, runs, inside, data["steps"], data["steps_per_epoch"], mfu)

    def filling(self) -> dict[str, float]:
        """Return FLOPs of a micro-batch that fills the cache: one that reads it, plus the teacher and its scalars."""
        reading = formulas.head_flops(self.engines.heads(self.costs.rows, cached=True))
        return self._online() | {"heads": reading + self._scalars()}

    def ahead(self) -> dict[str, float]:
        """Return FLOPs of the same micro-batch in `cache-teacher`: encoder, teacher and scalars, no student."""
        assert self.teacher is not None
        shared = shares_encoding(self.student, self.teacher)
        encoder = self.costs.encoder - (0 if shared else self.costs.student_encoder)
        nothing: dict[str, float] = dict.fromkeys(self._online(), 0)
        return nothing | {"encoder": encoder, "teacher": self.costs.teacher, "heads": self._scalars()}

    def _scalars(self) -> int:
        """Return FLOPs of the scalars of a micro-batch's rows: a product of the teacher's head for each path."""
        return formulas.teacher_product(self.engines.heads(self.costs.rows)) * (2 if self.cfg.negative else 1)

    def _data(self) -> dict[str, float]:
        work, opt = self.work, self.cfg.optimizer
        steps = work.samples / (self.micro * self.accumulation * self.ranks)
        total = opt.steps if opt.steps is not None else max(1, round((opt.epochs or 0) * steps))
        return {
            "samples": work.samples,
            "validation_samples": work.validation,
            "text_tokens_per_epoch": round(work.samples * work.text),
            "positions_per_epoch": round(work.samples * self.costs.positions / self.micro),
            "answer_rows_per_epoch": round(work.samples * work.answer),
            "steps_per_epoch": steps,
            "steps": total,
            "epochs": total / steps,
        }
