"""Every row of the demo, for several teacher and student seeds (make demo-full)."""

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path

from examples.demo import corpus
from examples.demo.commands import Job, caad_ds, run_all
from examples.demo.rows import FULL, Row
from examples.demo.students import DATA, cache, cache_job, evaluate, job, reading
from examples.demo.teacher import TWIN, shipped, teacher_jobs


def run_full(args: argparse.Namespace) -> None:
    """Run every row for every teacher and student seed, one process each, `--jobs` in parallel."""
    splits = ("teacher", "distill", "validation") if args.teacher_seeds > 1 else ("distill",)
    corpus.synthesize(DATA, {split: corpus.SIZES[split] for split in (*splits, args.benchmark)})
    for split in set(splits) - {"validation"}:
        corpus.shards(DATA, split)
    benchmark = corpus.benchmark(DATA, args.benchmark)
    rows = [row for row in FULL if not args.rows or row.name in args.rows]
    extra = (f"data.train={DATA}/shards/distill", "data.validation=null", *args.set)
    teachers, outputs = make_teachers(args, rows, benchmark)
    trained = [row for row in rows if row.trains]
    caches = {
        cache(folder, row): cache_job(folder, row, models[row.teacher], extra)
        for (folder, models), row in product(teachers.items(), trained)
    }
    run_all(list(caches.values()), args.jobs, "teacher caches")
    students = []
    for s, (folder, models) in product(range(args.student_seeds), teachers.items()):
        for row in trained:
            teacher, run = models[row.teacher], folder / f"seed-{s}" / row.name.replace(" ", "_")
            places = {other: run.with_name(run.name + "_cd") for other in rows if other.model == row.name} | {row: run}
            evaluations = tuple(evaluate(decoded, teacher, run, benchmark, out) for decoded, out in places.items())
            outputs += [out / "evaluation" for out in places.values()]
            overrides = (*extra, *reading(folder, row))
            students.append(job(row, teacher, run, 1 + s, overrides, evaluations))
    run_all(students, args.jobs, "students")
    title = f"conflict benchmark ({args.benchmark}), {len(teachers)} teacher x {args.student_seeds} student seeds"
    caad_ds("compare", *outputs, "--out", args.out / "table", "--title", title)


def make_teachers(
    args: argparse.Namespace, rows: list[Row], benchmark: Path
) -> tuple[dict[Path, dict[str, Path]], list[Path]]:
    """Train and evaluate teacher and twin of every seed; returns their models by folder, and the evaluations.

    Those of seed 0 are the shipped ones.
    """
    teachers = {args.out / "teacher-0": {kind: shipped(kind) for kind in ("teacher", TWIN)}}
    trainings: list[dict[str, Job]] = [{}]
    for seed in range(1, args.teacher_seeds):
        folder = args.out / f"teacher-{seed}"
        trainings.append(teacher_jobs(DATA, folder, seed, tuple(args.set)))
        teachers[folder] = {kind: folder / kind / "model" for kind in trainings[-1]}
    outputs, jobs = [], []
    for (folder, models), training in zip(teachers.items(), trainings, strict=True):
        for kind, model in models.items():
            mine = [row for row in rows if (row.model, row.teacher) == ("teacher", kind)]
            places = [folder / row.name.replace(" ", "_") for row in mine]
            outputs += [place / "evaluation" for place in places]
            evaluations = [evaluate(row, model, p, benchmark, p) for row, p in zip(mine, places, strict=True)]
            if training:
                jobs.append(replace(training[kind], evaluations=tuple(evaluations)))
            else:
                for arguments in evaluations:
                    caad_ds("evaluate", *arguments)
    if jobs:
        run_all(jobs, args.jobs, "teachers")
    return teachers, outputs
