"""Check that what a run's config names exists, before models and data are loaded; paths before PyTorch is imported."""

from pathlib import Path

from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.config.schema import Config
from caad_ds.data.shard_index import FILE_NAME, no_index
from caad_ds.models.architecture import is_architecture, read_architecture
from caad_ds.tracking import Target
from caad_ds.utils.errors import UserError
from caad_ds.utils.model_names import check_hub_or_folder, check_model_folder, is_hub_id


def check_inputs(cfg: Config) -> None:
    """Raise UserError for a path or a divergence that does not exist, or an invalid MLflow store.

    Hub ids, streams and servers are not looked up.
    """
    _check_paths(cfg)
    _check_objective(cfg.objective)


def _check_paths(cfg: Config) -> None:
    if cfg.tracking.enabled:
        Target.of(cfg.tracking.uri, cfg.tracking.experiment)
    folders = [cfg.data.validation]
    if cfg.data.reader == "indexed":
        folders.append(Path(str(cfg.data.train)))
    for folder in folders:
        if folder is not None and not (folder / FILE_NAME).exists():
            raise no_index(folder / FILE_NAME)
    for model in (cfg.teacher.path if cfg.teacher else None, cfg.student.path):
        if model is None:
            continue
        if is_architecture(model):
            read_architecture(model)
        elif not is_hub_id(model):
            check_model_folder(Path(model))
    if cfg.student.path is not None:
        return
    parts = {"causal LM": cfg.student.llm, "Whisper encoder": cfg.student.encoder, "tokenizer": cfg.student.tokenizer}
    for what, name in parts.items():
        if isinstance(name, str) and is_architecture(name):
            read_architecture(name)
        elif isinstance(name, str):
            check_hub_or_folder(name, what)


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
