"""The commands of a row of the demo's table: training of its student, evaluation, and the cache that it reads."""

from pathlib import Path

from examples.demo.commands import CacheJob, Job
from examples.demo.rows import Row

CONFIG = "configs/demo/caad.yaml"
DATA = Path("data/demo")


def job(row: Row, teacher: Path, out: Path, seed: int, overrides: tuple, evaluations: tuple) -> Job:
    """The training of a row's student."""
    settings = (f"run.name={row.name}", f"run.output_dir={out}", f"run.seed={seed}", *models_of(teacher))
    settings = (*settings, f"teacher.negative={row.negative}")
    return Job(CONFIG, (*settings, *row.overrides, *overrides), out, evaluations)


def models_of(teacher: Path) -> tuple[str, str]:
    """A student begins as a part of its teacher."""
    return f"teacher.path={teacher}", f"student.path={teacher}"


def evaluate(row: Row, teacher: Path, run: Path, benchmark: Path, out: Path) -> tuple[str, ...]:
    """Arguments that evaluate a row's model; an earlier evaluation of the same model is kept."""
    model = teacher if row.model == "teacher" else run / "model"
    arguments = ["--model", model, "--benchmark", benchmark, "--out", out / "evaluation", "--name", row.name]
    if row.decode_alpha is not None:
        arguments += ["--contrast-alpha", row.decode_alpha]
    return tuple(str(a) for a in [*arguments, "--batch-size", 128, "--max-new-tokens", 8])


def cache(folder: Path, row: Row) -> Path:
    """Where the states of a row's teacher with its negative are, for all students of that teacher seed."""
    return folder / f"cache_{row.teacher}_{row.negative}"


def cache_job(folder: Path, row: Row, teacher: Path, overrides: tuple) -> CacheJob:
    """The filling of the cache that a row's students read."""
    settings = (*models_of(teacher), f"teacher.negative={row.negative}", *overrides)
    return CacheJob(CONFIG, settings, cache(folder, row))


def reading(folder: Path, row: Row) -> tuple[str, str]:
    """The overrides of a training that reads a whole cache: side by side none may fill it."""
    return f"teacher.cache.path={cache(folder, row)}", "teacher.cache.fill=false"
