"""Build the teacher of a run: in an engine, read from a cache, or both while the cache is filled."""

import shutil
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from deepspeed.accelerator import get_accelerator

from caad_ds.config.schema import Config
from caad_ds.distill.pairing import Pairing
from caad_ds.distill.student_objective import Timed
from caad_ds.distill.teacher_cache.cached_signals import CachedTeacher
from caad_ds.distill.teacher_signal import OnlineTeacher, TeacherSignal
from caad_ds.loss.head import LMHead
from caad_ds.models.audio_lm import AudioLM
from caad_ds.training import engines
from caad_ds.training.teacher.cache import TeacherCache
from caad_ds.training.teacher.placement import placement, swap_folder
from caad_ds.utils.device import DTYPES
from caad_ds.utils.progress import Heartbeat
from caad_ds.utils.ranks import agreed


def build_teacher(
    cfg: Config,
    student: AudioLM,
    teacher: AudioLM | None,
    cache: TeacherCache | None,
    pairing: Pairing,
    unusable: Collection[str],
    heartbeat: Heartbeat,
    held: ExitStack,
    part: Timed,
) -> tuple[TeacherSignal | None, str]:
    """Build the teacher, and return it with a description of its placement; `held` releases it. Every rank calls it.

    `unusable` are keys of samples that were left out of the data.
    """
    if cache is not None:
        agreed(lambda: cache.check_vocabulary(pairing.shared))
    if cache is not None and cache.complete:
        assert cache.head is not None and cache.store is not None
        agreed(cache.check_used)
        heartbeat.say(f"teacher: cached ({len(cache.store)} samples in {cache.folder}; it is not loaded)")
        return CachedTeacher(on_device(cache.head), cfg.objective), "cached"
    if teacher is None:
        return None, ""
    online, placed = _in_engine(cfg, student, teacher, heartbeat, held, part)
    if cache is None:
        held.callback(online.close)
        return online, placed
    try:
        filling = cache.fill(online, teacher, pairing.shared, held, heartbeat.say, unusable)
    except BaseException:
        online.close()
        raise
    held.callback(filling.close)
    pairing.store = filling.store
    what = "what is missing is added" if filling.writing else "the teacher computes the others in each epoch"
    heartbeat.say(f"teacher.cache: {len(filling.store)} samples are in {cache.folder}, {what}")
    return filling, placed


def on_device(head: LMHead) -> LMHead:
    """Return the head with its tensors on this rank's device."""
    device = get_accelerator().current_device_name()
    return replace(head, weight=head.weight.to(device), bias=None if head.bias is None else head.bias.to(device))


def _in_engine(
    cfg: Config, student: AudioLM, teacher: AudioLM, heartbeat: Heartbeat, held: ExitStack, part: Timed
) -> tuple[OnlineTeacher, str]:
    assert cfg.teacher is not None
    heartbeat.begin("building the teacher's engine")
    placed, reason, folder = agreed(partial(_place, cfg, student, teacher, held))
    heartbeat.say(f"teacher: {placed} ({reason})")
    if cfg.teacher.keep_prefix:
        kept = "what prompts begin with is kept"
        if placed != "replicated":
            kept = "no prefix is kept, ranks gather this teacher's layers together"
        heartbeat.say(f"teacher.keep_prefix: {kept}")
    return engines.teacher_signal(cfg, teacher, placed, folder, student.shares_encoding(teacher), part), placed


def _place(cfg: Config, student: AudioLM, teacher: AudioLM, held: ExitStack) -> tuple[str, str, Path | None]:
    """Return the teacher's placement, the reason, and for NVMe this rank's folder."""
    assert cfg.teacher is not None
    width = DTYPES[cfg.run.precision].itemsize
    placed, reason = placement(cfg, teacher.module, student.module, width)
    if placed != "nvme" or cfg.teacher.nvme_path is None:
        return placed, reason, None
    folder = swap_folder(cfg.teacher.nvme_path, cfg.run.output_dir)
    held.callback(shutil.rmtree, folder)
    return placed, reason, folder
