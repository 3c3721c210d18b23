"""Resumable experiments on the demo: an adaptive contrast, and other terms of the objective.

Each finished run appends a line to a tracked file, so an experiment can be run in several sessions; the table is
computed from that file alone. The gate's constant of `adaptive` is chosen on the validation voices (`--choose`), by
runs that never see the test split.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from caad_ds.models.model_hashes import model_hash
from caad_ds.utils.command import positive
from caad_ds.utils.errors import UserError
from caad_ds.utils.files import drop_cut_line, sole_writer, to_line
from caad_ds.utils.text import read_text
from examples.demo import corpus
from examples.demo.commands import ROOT, Evaluations, Quiet, ended_with
from examples.demo.experiment_table import SCORES, table
from examples.demo.rows import Row, adaptive_rows, chosen_rows, objective_rows
from examples.demo.students import DATA, cache_job, evaluate, job, reading
from examples.demo.teacher import TWIN, shipped, teacher_jobs

RESULTS = Path("benchmarks/results")
SPLITS = ("validation", "test")
SOURCES = ("caad_ds", "data_prep", "ds_configs", "configs/demo", "examples/demo")


def register_adaptive(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `adaptive`."""
    parser.add_argument("--choose", action="store_true", help="try the gate's constant on the validation voices alone")
    parser.add_argument("--gate-m", type=float, default=2.0, help="the gate's constant, chosen before (default 2)")
    _register(parser, "adaptive", teacher_seeds=3, steps=800)


def register_objectives(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `objectives`."""
    parser.set_defaults(choose=False, gate_m=2.0)
    _register(parser, "objectives", teacher_seeds=1, steps=600)


def _register(parser: argparse.ArgumentParser, name: str, teacher_seeds: int, steps: int) -> None:
    parser.add_argument("--teacher-seeds", type=positive, default=teacher_seeds, help="seed 0 is the shipped teacher")
    parser.add_argument("--student-seeds", type=positive, default=3)
    parser.add_argument("--steps", type=positive, default=steps, help="of each student (default %(default)s)")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="runs side by side (default: cores)")
    parser.add_argument("--limit-seconds", type=positive, help="begin no run that would not end within this time")
    parser.add_argument("--out", type=Path, default=Path(f"runs/{name}"))
    results = RESULTS / f"{name}_demo.jsonl"
    parser.add_argument("--results", type=Path, default=results, help="default: %(default)s")
    parser.add_argument("--table", action="store_true", help="print the table of the finished runs, and run nothing")


def run(args: argparse.Namespace) -> None:
    """Run what is missing of the experiment within the time limit, and print the table."""
    if not args.table:
        with sole_writer(args.results.resolve()):
            Experiment(args).run()
    print(table(lines_of(args.results), args.gate_m, args.steps))


def lines_of(results: Path) -> list[dict]:
    """Read the finished runs from a file of results."""
    return [json.loads(line) for line in read_text(results).splitlines()] if results.exists() else []


@dataclass(frozen=True)
class Work:
    """A job and the lines to record for it: by row name, the folders of its evaluations by split."""

    quiet: Quiet
    lines: dict[str, dict[str, Path]]
    known: dict[str, object]


@dataclass
class Deadline:
    """A time limit, and the longest duration of a run so far."""

    seconds: float | None
    began: float = field(default_factory=lambda: monotonic())
    longest: float = 0.0

    @property
    def over(self) -> bool:
        """Return whether another run would exceed the limit."""
        return self.seconds is not None and monotonic() - self.began + self.longest > self.seconds


class Experiment:
    """Runs the missing rows of an experiment and records them."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.steps: int = args.steps
        adaptive = chosen_rows() if args.choose else adaptive_rows(args.gate_m)
        self.rows = objective_rows() if args.command == "objectives" else adaptive
        self.splits = SPLITS[:1] if args.choose else SPLITS
        self.deadline = Deadline(args.limit_seconds)
        self.extra = (f"data.train={DATA}/shards/distill", "data.validation=null", f"optimizer.steps={self.steps}")
        self.commit = _commit()

    def run(self) -> None:
        """Run what is missing in the results, teacher by teacher."""
        args = self.args
        args.results.parent.mkdir(parents=True, exist_ok=True)
        if args.results.exists():
            drop_cut_line(args.results)
        seeds = range(1 if args.choose else args.teacher_seeds)
        if any(self._missing(seed) for seed in seeds):
            corpus.synthesize(DATA, {split: corpus.SIZES[split] for split in ("distill", *SPLITS)})
            corpus.shards(DATA, "distill")
            for split in self.splits:
                corpus.benchmark(DATA, split)
        for seed in seeds:
            if not self._missing(seed):
                continue
            if self.deadline.over:
                break
            models = self._teachers(seed)
            self._check_teachers(seed, models)
            self._run_all(self._works(seed, models))
        left = sum(len(self._missing(seed)) for seed in seeds)
        print(f"{left} runs are missing in {args.results}; run the same command to continue" if left else "complete")

    def _missing(self, teacher_seed: int) -> list[tuple[Row, int | None]]:
        """List the rows and student seeds that are not recorded; the seed of a teacher's row is None."""
        done = {
            (line["row"], line["student_seed"])
            for line in lines_of(self.args.results)
            if (line["teacher_seed"], line["steps"]) == (teacher_seed, self.steps)
            and (line["test"] is None) == self.args.choose
            and line["gate_m"] in (None, _gate(self.rows, line["row"]))
        }
        students = range(1 if self.args.choose else self.args.student_seeds)
        wanted = [(row, None) for row in self.rows if row.model == "teacher"]
        wanted += [(row, seed) for seed in students for row in self.rows if row.model != "teacher"]  # type: ignore[misc]
        return [(row, seed) for row, seed in wanted if (row.name, seed) not in done]

    def _teachers(self, seed: int) -> dict[str, Path]:
        """Return teacher and twin of a seed; train them if they do not exist."""
        if seed == 0:
            return {kind: shipped(kind) for kind in ("teacher", TWIN)}
        folder = self.args.out / f"teacher-{seed}"
        models = {kind: folder / kind / "model" for kind in ("teacher", TWIN)}
        if not all(model.is_dir() for model in models.values()):
            corpus.synthesize(DATA, {"teacher": corpus.SIZES["teacher"]})
            corpus.shards(DATA, "teacher")
            with ThreadPoolExecutor(self.args.jobs) as pool:
                for log in pool.map(lambda each: each.run_quietly(), teacher_jobs(DATA, folder, seed).values()):
                    print(log, flush=True)
        return models

    def _check_teachers(self, seed: int, models: dict[str, Path]) -> None:
        """Raise UserError if recorded students of this seed had another teacher, for example from another machine."""
        now = "".join(model_hash(str(models[kind]))[:8] for kind in ("teacher", TWIN))
        for line in lines_of(self.args.results):
            if line["teacher_seed"] == seed and line["steps"] == self.steps and line["teacher"] != now:
                raise UserError(
                    f"{self.args.results}: its runs of teacher seed {seed} had other weights of teacher or twin (hash "
                    f"{line['teacher']}, here {now}); remove those lines to run them again, or take the folder "
                    f"{self.args.out}/teacher-{seed} of those runs"
                )
        self.teacher = now

    def _works(self, seed: int, models: dict[str, Path]) -> Iterator[Work]:
        """Yield the missing work of a teacher seed; a student and its decoding variants are one job."""
        missing = self._missing(seed)
        folder = self.args.out / f"teacher-{seed}"
        for row, student in missing:
            if row.trains:
                assert student is not None
                name = row.name if row.gate_m is None or self.args.choose else f"{row.name} m {row.gate_m:g}"
                run = folder / f"seed-{student}" / f"{name} {self.steps} steps".replace(" ", "_")
                decoded = [each for each, s in missing if each.model == row.name and s == student]
                yield self._student(row, decoded, models[row.teacher], run, seed, student)
            elif row.model == "teacher":
                place = folder / row.name.replace(" ", "_")
                commands, places = self._evaluations(row, models[row.teacher], place, place)
                yield Work(Evaluations(commands, place), {row.name: places}, self._known(seed, None))
            elif not any(each.name == row.model and s == student for each, s in missing):
                raise UserError(
                    f"{self.args.results}: {row.name} of teacher {seed}, student {student} is missing where its "
                    f"student's line ({row.model}) is there; remove that too"
                )

    def _student(self, row: Row, decoded: list[Row], teacher: Path, run: Path, seed: int, student: int) -> Work:
        folder = self.args.out / f"teacher-{seed}"
        cache: tuple[str, ...] = ("teacher.cache=null",)
        if not row.draws:
            cache_job(folder, row, teacher, self.extra).run_quietly()
            cache = reading(folder, row)
        evaluations, lines = [], {}
        for each in [row, *decoded]:
            place = run if each is row else run.with_name(f"{run.name}_cd")
            commands, lines[each.name] = self._evaluations(each, teacher, run, place)
            evaluations += commands
        overrides = (*self.extra, *cache)
        training = job(row, teacher, run, 1 + student, overrides, tuple(evaluations))
        return Work(training, lines, self._known(seed, student))

    def _evaluations(
        self, row: Row, teacher: Path, run: Path, place: Path
    ) -> tuple[list[tuple[str, ...]], dict[str, Path]]:
        """Return the arguments that evaluate a row on each split, and the folders of the results."""
        # The table has a student with the chosen constant under another name.
        prefix = "chosen_on" if self.args.choose else "on"
        places = {split: place / f"{prefix}_{split}" for split in self.splits}
        commands = [evaluate(row, teacher, run, DATA / "benchmark" / split, out) for split, out in places.items()]
        return commands, {split: out / "evaluation" for split, out in places.items()}

    def _known(self, seed: int, student: int | None) -> dict[str, object]:
        return {"teacher_seed": seed, "student_seed": student, "teacher": self.teacher, "commit": self.commit}

    def _run_all(self, works: Iterator[Work]) -> None:
        """Run jobs in parallel until the time limit, and record each finished one."""
        running: dict[Future, tuple[Work, float]] = {}
        left = True
        with ThreadPoolExecutor(self.args.jobs) as pool, ended_with(pool):
            while left or running:
                while left and len(running) < self.args.jobs and not self.deadline.over:
                    work = next(works, None)
                    if work is None:
                        left = False
                    else:
                        running[pool.submit(work.quiet.run_quietly)] = work, monotonic()
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    work, began = running.pop(future)
                    print(f"{future.result()}: {', '.join(work.lines)}", flush=True)
                    self.deadline.longest = max(self.deadline.longest, monotonic() - began)
                    self._record(work)

    def _record(self, work: Work) -> None:
        """Append a job's lines in one write, to keep those of a student and its decoding variants together."""
        lines = []
        for name, places in work.lines.items():
            figures: dict[str, object] = {split: None for split in SPLITS}
            figures |= {split: figures_of(folder) for split, folder in places.items()}
            gate = _gate(self.rows, name)
            lines.append(to_line({"row": name, **work.known, "steps": self.steps, "gate_m": gate, **figures}))
        with open(self.args.results, "ab") as out:
            out.write(b"".join(lines))


def figures_of(evaluation: Path) -> dict[str, dict[str, float]]:
    """Read the figures of an evaluation in %, over all attributes and for each."""
    groups = json.loads(read_text(evaluation / "scores.json"))["groups"]
    return {
        group: {name: round(100 * (values[name]["value"] or 0.0), 3) for name in SCORES}
        for group, values in groups.items()
    }


def _gate(rows: list[Row], name: str) -> float | None:
    return next((row.gate_m for row in rows if row.name == name), None)


def _commit() -> str:
    """Return the current commit, with a plus if the working tree differs."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", *SOURCES) else "")
