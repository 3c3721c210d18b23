"""Load the two models of a run, and pair their readers."""

import math

import torch

from caad_ds.config.schema import Config
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.data.stream import StreamReader
from caad_ds.distill.pairing import Pairing
from caad_ds.loss.head import LMHead
from caad_ds.models import negatives
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.shared_vocabulary import SharedVocabulary
from caad_ds.training.batches import partners_of
from caad_ds.training.engines import load_student, load_teacher
from caad_ds.training.teacher.cache import TeacherCache


def load_models(cfg: Config, device: torch.device, cached: bool = False) -> tuple[AudioLM, AudioLM | None]:
    """Load student and teacher; their modules outside the engines go to the device, once if both encode alike.

    A teacher whose states are `cached` is not loaded.
    """
    teacher = load_teacher(cfg) if cfg.teacher is not None and not cached else None
    student = load_student(cfg)
    if cfg.student.keep_encoded_gb:
        student.keep_encoded(cfg.student.keep_encoded_gb * 1e9)
    if teacher is not None and student.shares_encoding(teacher):
        teacher.adopt_encoding(student)
    for model in filter(None, (student, teacher)):
        model.compute_outside_in(torch.bfloat16 if cfg.run.encoder_precision == "bf16" else None)
        for module in model.modules_outside().values():
            module.to(device)
    return student, teacher


def heads_of(student: AudioLM, teacher: AudioLM | None, cache: TeacherCache | None) -> list[LMHead]:
    """Return the LM heads of student and teacher; if the teacher is not loaded, its head is read from the cache."""
    theirs = teacher.head() if teacher is not None else None
    if theirs is None and cache is not None:
        theirs = cache.head
    return [student.head()] if theirs is None else [student.head(), theirs]


def pair(
    cfg: Config,
    student: AudioLM,
    teacher: AudioLM | None,
    reader: IndexedReader | StreamReader,
    cache: TeacherCache | None = None,
) -> Pairing:
    """Return what makes the batches of both models, within each model's positions (both models', if they read alike).

    A teacher that is only in a complete `cache` gets no batches. UserError if the two models' answers would have
    different tokens.
    """
    limits, shared, theirs = {"student": student.position_limit}, None, None
    if teacher is not None:
        theirs, limits["teacher"] = teacher.reader, teacher.position_limit
    elif cache is not None:
        theirs, limits["teacher"] = cache.reader, cache.positions
    if theirs is not None:
        ours, rows = (len(head.weight) for head in heads_of(student, teacher, cache))
        shared = SharedVocabulary.of(student.reader, theirs, (ours, rows))
    store = cache.store if cache is not None and teacher is None else None
    pairing = Pairing(student.reader, theirs, cfg.negative, shared, partners_of(reader), store)
    pairing.teacher_runs = teacher is not None or theirs is None
    fewest = min(limits, key=lambda name: limits[name] or math.inf)
    for name, each in {"student": student.reader, "teacher": theirs}.items():
        whose = fewest if pairing.alike else name
        if each is not None:
            each.limit(cfg.data.max_answer_tokens, limits[whose], f"the LLM of {whose}")
    # Before ZeRO-3 replaces PyTorch's linear product, which rounds differently.
    if not pairing.teacher_runs:
        return pairing
    second = teacher or student
    if cfg.negative is not None and (constant := negatives.constant_negative(cfg.negative, second.reader)) is not None:
        second.prepare(constant)
    return pairing
