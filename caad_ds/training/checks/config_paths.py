"""Check that what a run's config names exists, before models and data are loaded; paths before PyTorch is imported."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.config.schema import Config
from caad_ds.data.shard_index import FILE_NAME, no_index
from caad_ds.models.architecture import is_architecture, read_architecture
from caad_ds.models.hub_models import check_hub_id
from caad_ds.tracking import Target
from caad_ds.utils.errors import UserError
from caad_ds.utils.model_names import check_hub_or_folder, check_model_folder, is_hub_id


def check_inputs(cfg: Config) -> None:
    """Raise UserError for paths, hub ids or a divergence that do not exist, or an invalid MLflow store.

    All that is missing is named. A hub id is looked up unless it has a local copy, streams and servers are not.
    """
    if cfg.tracking.enabled:
        Target.of(cfg.tracking.uri, cfg.tracking.experiment)
    if faults := list(dict.fromkeys(_missing(cfg))):
        raise UserError("; ".join(faults))
    _check_objective(cfg.objective)


def _missing(cfg: Config) -> Iterator[str]:
    """Yield what is wrong with the paths of data and models."""
    folders = [Path(str(cfg.data.train))] if cfg.data.reader == "indexed" else []
    folders += [] if cfg.data.validation is None else [cfg.data.validation]
    if missing := [folder / FILE_NAME for folder in folders if not (folder / FILE_NAME).exists()]:
        yield str(no_index(*dict.fromkeys(missing)))
    for check in _model_checks(cfg):
        try:
            check()
        except UserError as error:
            yield str(error)


def _model_checks(cfg: Config) -> Iterator[Callable[[], object]]:
    """Yield the check of each model: a teacher with a cache may be read from there, and its hub id is not looked up."""
    student, teacher = cfg.student, cfg.teacher
    if teacher is not None and not (teacher.cache is not None and is_hub_id(teacher.path)):
        yield partial(_check_named, teacher.path)
    if student.path is not None:
        yield partial(_check_named, student.path)
        return
    parts = {"causal LM": student.llm, "Whisper encoder": student.encoder, "tokenizer": student.tokenizer}
    for what, name in parts.items():
        if isinstance(name, str):
            yield partial(_check_named, name, what)


def _check_named(name: str, part: str | None = None) -> None:
    """Raise UserError unless there is an architecture, a hub id or a folder of that name; `part` is of a model."""
    if is_architecture(name):
        read_architecture(name)
    elif is_hub_id(name):
        check_hub_id(name)
    elif part is not None:
        check_hub_or_folder(name, part)
    else:
        check_model_folder(Path(name))


def _check_objective(section: ObjectiveSection) -> None:
    from caad_ds.loss.objective import Objective  # it imports PyTorch

    checked = {"objective.": section}
    if section.draws:
        checked["objective.on_policy: "] = section.on_drawn_answers
    for name, each in checked.items():
        try:
            Objective.of(each)
        except ValueError as error:
            raise UserError(f"{name}{error}") from error
