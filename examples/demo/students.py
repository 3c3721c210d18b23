"""The commands for a row of the demo's table: training, evaluation, and filling of the teacher cache."""

from pathlib import Path

from examples.demo.commands import CacheJob, Job
from examples.demo.rows import Row

CONFIG = "configs/demo/caad.yaml"
DATA = Path("data/demo")


def job(row: Row, teacher: Path, out: Path, seed: int, overrides: tuple, evaluations: tuple) -> Job:
    """Return the job that trains a row's student."""
    settings = (f"run.name={row.name}", f"run.output_dir={out}", f"run.seed={seed}", *models_of(teacher))
    settings = (*settings, f"teacher.negative={row.negative}")
    return Job(CONFIG, (*settings, *row.overrides, *overrides), out, evaluations)


def models_of(teacher: Path) -> tuple[str, str]:
    """Return the overrides that initialise a student from its teacher."""
    return f"teacher.path={teacher}", f"student.path={teacher}"


def evaluate(row: Row, teacher: Path, run: Path, benchmark: Path, out: Path) -> tuple[str, ...]:
    """Return the arguments that evaluate a row's model; an earlier evaluation of the same model is kept."""
    model = teacher if row.model == "teacher" else run / "model"
    arguments = ["--model", model, "--benchmark", benchmark, "--out", out / "evaluation", "--name", row.name]
    if row.decode_alpha is not None:
        arguments += ["--contrast-alpha", row.decode_alpha]
    return tuple(str(a) for a in [*arguments, "--batch-size", 128, "--max-new-tokens", 8])


def cache(folder: Path, row: Row) -> Path:
    """Return the folder of the teacher cache, shared by all students with this teacher seed and negative."""
    return folder / f"cache_{row.teacher}_{row.negative}"


def cache_job(folder: Path, row: Row, teacher: Path, overrides: tuple) -> CacheJob:
    """Return the job that fills the cache that a row's students read."""
    settings = (*models_of(teacher), f"teacher.negative={row.negative}", *overrides)
    return CacheJob(CONFIG, settings, cache(folder, row))


def reading(folder: Path, row: Row) -> tuple[str, str]:
    """Return the overrides for training from a complete cache, which parallel runs must not fill."""
    return f"teacher.cache.path={cache(folder, row)}", "teacher.cache.fill=false"
