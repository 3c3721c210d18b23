"""The laptop demo: `python -m examples.demo run | full | teacher` (make demo, demo-full, demo-teacher)."""

import argparse
import os
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

from caad_ds.utils.command import guarded, positive
from caad_ds.utils.quiet import quiet
from examples.demo import corpus
from examples.demo.commands import ROOT, Job, caad_ds, run_all
from examples.demo.rows import FULL, SHORT, Row
from examples.demo.summary import ordering
from examples.demo.teacher import TWIN, make_teacher, shipped, teacher_jobs

CONFIG = "configs/demo/caad.yaml"
DATA = Path("data/demo")
LOGGED = ("--experiment", "demo", "--mlflow")  # where configs/demo logs its trainings


def main(argv: list[str] | None = None) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="examples.demo", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="standard KD and CAAD from the shipped teacher, on 2 ranks")
    run.add_argument("--short", action="store_true", help="a few steps on a few clips: is all in order?")
    full = commands.add_parser("full", help="every row, several teacher and student seeds")
    full.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="runs side by side (default: cores)")
    full.add_argument("--teacher-seeds", type=positive, default=3, help="seed 0 is the shipped teacher (default 3)")
    full.add_argument("--student-seeds", type=positive, default=3)
    full.add_argument("--benchmark", choices=("test", "validation"), default="test")
    full.add_argument("--out", type=Path, default=Path("runs/demo-full"))
    names = [row.name for row in FULL]
    full.add_argument("--rows", nargs="+", choices=names, metavar="ROW", help=f"only these of {', '.join(names)}")
    full.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b=c", help="override keys of every run"
    )
    teacher = commands.add_parser("teacher", help="make the shipped teacher and its twin again")
    teacher.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    os.chdir(ROOT)
    quiet()
    return guarded(lambda: demo(args), args.debug)


def demo(args: argparse.Namespace) -> int:
    """What was asked for."""
    if args.command == "teacher":
        make_teacher(DATA, Path("runs/demo-teacher"), args.seed)
    elif args.command == "full":
        run_full(args)
    else:
        run_demo(args.short)
    return 0


def run_demo(short: bool) -> None:
    """Teacher, standard KD and CAAD: corpus, two students, table, picture."""
    root, runs = (Path("data/demo-short"), Path("runs/demo-short")) if short else (DATA, Path("runs/demo"))
    sizes = corpus.SHORT if short else {k: v for k, v in corpus.SIZES.items() if k != "teacher"}
    corpus.synthesize(root, sizes)
    train, validation = corpus.shards(root, "distill"), corpus.shards(root, "validation")
    benchmark = corpus.benchmark(root, "test")
    corpus.benchmark(root, "validation")  # for check-teacher, which must not see the test
    data = (f"data.train={train}", f"data.validation={validation}")
    brief = ("optimizer.steps=8", "optimizer.batch_size=16", "run.log_every=4") if short else ()
    outputs = []
    for row in SHORT:
        asked = evaluate(row, shipped(row.teacher), runs / row.name, benchmark, runs / row.name)
        evaluation = (*asked, *LOGGED)
        outputs.append(runs / row.name / "evaluation")
        if row.trains:
            job(row, shipped(row.teacher), runs / row.name, 0, (*data, *brief), (evaluation,)).run()
        else:
            caad_ds("evaluate", *evaluation)
    title = "demo, a few steps: not a result" if short else "caad-ds demo: conflict benchmark, 1 seed"
    options = ("--baseline", "std_kd", "--out", runs / "table", "--title", title, *LOGGED)
    caad_ds("compare", *outputs, *options)
    print(ordering(outputs))
    print(f"table and picture: {runs}/table\ncurves: make dashboard, which prints their address")


def run_full(args: argparse.Namespace) -> None:
    """Every row for every teacher and student seed, in one process each, `--jobs` side by side."""
    splits = ("teacher", "distill", "validation") if args.teacher_seeds > 1 else ("distill",)
    corpus.synthesize(DATA, {split: corpus.SIZES[split] for split in (*splits, args.benchmark)})
    for split in set(splits) - {"validation"}:
        corpus.shards(DATA, split)
    benchmark = corpus.benchmark(DATA, args.benchmark)
    rows = [row for row in FULL if not args.rows or row.name in args.rows]
    extra = (f"data.train={DATA}/shards/distill", "data.validation=null", *args.set)
    teachers, outputs = make_teachers(args, rows, benchmark)
    students = []
    for s, (folder, models) in product(range(args.student_seeds), teachers.items()):
        for row in (row for row in rows if row.trains):
            teacher, run = models[row.teacher], folder / f"seed-{s}" / row.name.replace(" ", "_")
            places = {other: run.with_name(run.name + "_cd") for other in rows if other.model == row.name} | {row: run}
            evaluations = tuple(evaluate(decoded, teacher, run, benchmark, out) for decoded, out in places.items())
            outputs += [out / "evaluation" for out in places.values()]
            students.append(job(row, teacher, run, 1 + s, extra, evaluations))
    run_all(students, args.jobs, "students")
    title = f"conflict benchmark ({args.benchmark}), {len(teachers)} teacher x {args.student_seeds} student seeds"
    caad_ds("compare", *outputs, "--out", args.out / "table", "--title", title)


def make_teachers(
    args: argparse.Namespace, rows: list[Row], benchmark: Path
) -> tuple[dict[Path, dict[str, Path]], list[Path]]:
    """Teacher and twin of every seed, evaluated: per folder their models, and the evaluations.

    Those of seed 0 are the shipped ones; the others are trained first.
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


def job(row: Row, teacher: Path, out: Path, seed: int, overrides: tuple, evaluations: tuple) -> Job:
    """The training of a row's student."""
    models = (f"teacher.path={teacher}", f"student.path={teacher}")
    settings = (f"run.name={row.name}", f"run.output_dir={out}", f"run.seed={seed}", *models)
    return Job(CONFIG, (*settings, *row.overrides, *overrides), out, evaluations)


def evaluate(row: Row, teacher: Path, run: Path, benchmark: Path, out: Path) -> tuple[str, ...]:
    """Arguments that evaluate a row's model; an earlier evaluation of the same model is kept."""
    model = teacher if row.model == "teacher" else run / "model"
    arguments = ["--model", model, "--benchmark", benchmark, "--out", out / "evaluation", "--name", row.name]
    if row.decode_alpha is not None:
        arguments += ["--contrast-alpha", row.decode_alpha]
    return tuple(str(a) for a in [*arguments, "--batch-size", 128, "--max-new-tokens", 8])


if __name__ == "__main__":
    sys.exit(main())
