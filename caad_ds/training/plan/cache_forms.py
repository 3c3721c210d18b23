"""The teacher caches that a planned run can have."""

from typing import get_args

from pydantic import ValidationError

from caad_ds.config.cache_section import CacheSection
from caad_ds.config.schema import Config
from caad_ds.distill.teacher_cache.row_layout import CacheForm
from caad_ds.training.plan.memory_plan import Engines


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
