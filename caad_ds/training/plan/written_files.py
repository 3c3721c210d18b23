"""Bytes that a run writes: cache, checkpoints, model."""

from collections.abc import Iterable

from caad_ds.config.schema import CheckpointSection
from caad_ds.distill.teacher_cache.row_layout import CacheForm
from caad_ds.models.speech_lm.encoder_folder import recorded_encoder
from caad_ds.training.checkpoints.retention import kept
from caad_ds.training.plan import formulas
from caad_ds.training.plan.memory_plan import Engines
from caad_ds.training.plan.meta_models import numel


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
