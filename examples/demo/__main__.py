"""The laptop demo: `python -m examples.demo run | full | adaptive | objectives | teacher` (make demo, ...)."""

import argparse
import os
import sys
from pathlib import Path

from caad_ds.utils.command import positive
from caad_ds.utils.quiet_libraries import quiet
from examples.demo import corpus, experiments
from examples.demo.commands import ROOT, caad_ds, resumable
from examples.demo.full import run_full
from examples.demo.rows import FULL, SHORT
from examples.demo.students import DATA, evaluate, job
from examples.demo.summary import ordering
from examples.demo.teacher import make_teacher, shipped

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
    experiments.register_adaptive(
        commands.add_parser("adaptive", help="does an adaptive contrast keep neutral accuracy? resumable, in pieces")
    )
    experiments.register_objectives(
        commands.add_parser("objectives", help="on-policy answers, row weights, hidden states; resumable, in pieces")
    )
    args = parser.parse_args(argv)
    os.chdir(ROOT)
    quiet()
    return resumable(lambda: demo(args), args.debug)


def demo(args: argparse.Namespace) -> int:
    """Run the chosen command."""
    if args.command == "teacher":
        make_teacher(DATA, Path("runs/demo-teacher"), args.seed)
    elif args.command == "full":
        run_full(args)
    elif args.command in ("adaptive", "objectives"):
        experiments.run(args)
    else:
        run_demo(args.short)
    return 0


def run_demo(short: bool) -> None:
    """Compare teacher, standard KD and CAAD: corpus, two students, table, picture."""
    root, runs = (Path("data/demo-short"), Path("runs/demo-short")) if short else (DATA, Path("runs/demo"))
    sizes = corpus.SHORT if short else {k: v for k, v in corpus.SIZES.items() if k != "teacher"}
    corpus.synthesize(root, sizes)
    train, validation = corpus.shards(root, "distill"), corpus.shards(root, "validation")
    benchmark = corpus.benchmark(root, "test")
    corpus.benchmark(root, "validation")  # for check-teacher, which must not see the test
    # The first student's training fills the teacher cache, the second reads it.
    data = (f"data.train={train}", f"data.validation={validation}", f"teacher.cache.path={root}/teacher_cache")
    brief = ("optimizer.steps=8", "optimizer.batch_size=16", "run.log_every=4") if short else ()
    outputs = []
    for row in SHORT:
        command = evaluate(row, shipped(row.teacher), runs / row.name, benchmark, runs / row.name)
        evaluation = (*command, *LOGGED)
        outputs.append(runs / row.name / "evaluation")
        if row.trains:
            job(row, shipped(row.teacher), runs / row.name, 0, (*data, *brief), (evaluation,)).run()
        else:
            caad_ds("evaluate", *evaluation)
    title = "demo, a few steps: not a result" if short else "caad-ds demo: conflict benchmark, 1 seed"
    options = ("--baseline", "std_kd", "--out", runs / "table", "--title", title, *LOGGED)
    caad_ds("compare", *outputs, *options)
    page = runs / "report.html"
    caad_ds("report", *outputs, "--baseline", "std_kd", "--out", page, "--title", title)
    print(ordering(outputs))
    print(f"table and picture: {runs}/table\ncurves: make dashboard, which prints their address")
    print(f"to look at and listen to what each answered, open {page} in a browser")


if __name__ == "__main__":
    sys.exit(main())
