"""Bytes that a run writes, and which teacher cache it can have."""

from collections.abc import Iterable
from typing import get_args

from pydantic import ValidationError

from caad_ds.config.cache_section import CacheSection
from caad_ds.config.schema import CheckpointSection, Config
from caad_ds.distill.teacher_cache.layout import CacheForm
from caad_ds.models.speech_lm.encoder_folder import recorded_encoder
from caad_ds.training.checkpoints.retention import kept
from caad_ds.training.plan import formulas
from caad_ds.training.plan.memory_plan import Engines
from caad_ds.training.plan.meta_models import numel


def without_cache(cfg: Config) -> Config:
    """Return the config of the same run without a teacher cache."""
    if cfg.teacher is None:
        return cfg
    return cfg.model_copy(update={"teacher": cfg.teacher.model_copy(update={"cache": None})})


def cache_forms(engines: Engines, section: CacheSection | None) -> tuple[dict[CacheForm, Config], list[str]]:
    """Return the run's config with a teacher cache of each form that it can have, and notes why it cannot have others.

    Other keys of the cache are those of `section`. Of two forms the first is the section's, or the default.
    """
    teacher, forms = engines.teacher, list(get_args(CacheForm))
    if teacher is None:
        return {}, []
    if section is not None:
        forms.sort(key=lambda form: form != section.form)
    found = {form: _with_cache(engines.cfg, section, form) for form in forms}
    if teacher.lm.head().softcap is not None and isinstance(found["contrast"], Config):
        found["contrast"] = f"the logits of a {teacher.lm.family} have a soft cap"
    possible = {form: cfg for form, cfg in found.items() if isinstance(cfg, Config)}
    if not possible:
        return {}, [f"cache: none, {found['pair']}"]
    return possible, [f"cache, {form}: none, {fault}" for form, fault in found.items() if isinstance(fault, str)]


def _with_cache(cfg: Config, section: CacheSection | None, form: CacheForm) -> Config | str:
    """Return the config with a cache of this form, or the reason why it would be refused."""
    values = cfg.model_dump()
    values["teacher"]["cache"] = ({"path": "cache"} if section is None else section.model_dump()) | {"form": form}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")


def files(engines: Engines, forms: Iterable[CacheForm], rows: int, steps: int) -> dict[str, float]:
    """Return the bytes of a cache of `rows` answer rows in each form, of checkpoints after `steps` steps, and of the
    model."""
    written: dict[str, float] = {}
    if engines.teacher is not None:
        head = engines.teacher.lm.generator.get_output_embeddings()
        width = head.weight.shape[1]
        for form in forms:
            states = formulas.cache_bytes(rows, width, engines.width, form)
            written[f"cache, {form}"] = states + numel(head) * engines.width
    one = formulas.checkpoint_bytes(engines.held(trained=True), engines.width, engines.settings)
    number = checkpoints_kept(engines.cfg.checkpoint, steps)
    return written | {"checkpoint": one, "checkpoints kept": one * number, "model": _model(engines)}


def checkpoints_kept(section: CheckpointSection, steps: int) -> int:
    """Return how many checkpoints a run leaves; the best are taken to be others than the newest."""
    saved = {*range(section.every, steps + 1, section.every), steps}
    return min(len(saved), len(kept(section, {step: {} for step in saved})) + section.keep_best)


def _model(engines: Engines) -> int:
    """Return the bytes of the model's folder: with its encoder, unless that is a hub id, which is recorded."""
    lm, section = engines.student.lm, engines.cfg.student
    recorded = section.path is None and section.encoder is not None and recorded_encoder(section.encoder) is not None
    encoder = 0 if recorded or not lm.modules_outside() else numel(lm.tower) * formulas.FP32
    return numel(lm.module) * engines.width + encoder
