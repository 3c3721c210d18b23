"""Bytes that a run writes, and which teacher cache it can have."""

from typing import get_args

from pydantic import ValidationError

from caad_ds.config.schema import CheckpointSection, Config
from caad_ds.distill.teacher_cache.layout import CacheForm
from caad_ds.models.speech_lm.encoder_folder import recorded_encoder
from caad_ds.training.checkpoints.retention import kept
from caad_ds.training.plan import formulas
from caad_ds.training.plan.memory_plan import Engines
from caad_ds.training.plan.meta_models import numel


def cache_forms(engines: Engines) -> tuple[list[CacheForm], list[str]]:
    """Return the forms of a teacher cache that the run can have, and notes why it cannot have the others."""
    teacher, forms = engines.teacher, get_args(CacheForm)
    if teacher is None:
        return [], []
    faults = {form: _refused(engines.cfg, form) for form in forms}
    if teacher.lm.head().softcap is not None and faults["contrast"] is None:
        faults["contrast"] = f"the logits of a {teacher.lm.family} have a soft cap"
    possible = [form for form in forms if faults[form] is None]
    if not possible:
        return [], [f"cache: none, {faults['pair']}"]
    if engines.cfg.negative is None:  # there is no second path to store
        possible = possible[-1:]
    return possible, [f"cache, {form}: none, {fault}" for form, fault in faults.items() if fault is not None]


def _refused(cfg: Config, form: CacheForm) -> str | None:
    """Return the reason why the config with a cache of this form would be refused; None if it is accepted."""
    values = cfg.model_dump()
    values["teacher"]["cache"] = {"path": "cache", "form": form}
    try:
        Config.model_validate(values)
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return None


def files(engines: Engines, forms: list[CacheForm], rows: int, steps: int) -> dict[str, float]:
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
