"""The two models of a run, and how they read its samples."""

import math

import torch

from caad_ds.config.schema import Config
from caad_ds.data.reader import IndexedReader
from caad_ds.data.stream import StreamReader
from caad_ds.distill.pairing import Pairing
from caad_ds.models import negatives
from caad_ds.models.audio_lm import AudioLM
from caad_ds.training.batches import partners_of
from caad_ds.training.engines import load_student, load_teacher, shared_vocabulary


def load_models(cfg: Config, device: torch.device) -> tuple[AudioLM, AudioLM | None]:
    """The student and the teacher; what of them lies outside the engines is on the device, once if both hear alike."""
    teacher = load_teacher(cfg) if cfg.teacher is not None else None
    student = load_student(cfg)
    if teacher is not None and student.shares_encoding(teacher):
        teacher.adopt_encoding(student)
    for model in filter(None, (student, teacher)):
        model.compute_outside_in(torch.bfloat16 if cfg.run.encoder_precision == "bf16" else None)
        for module in model.modules_outside().values():
            module.to(device)
    return student, teacher


def pair(cfg: Config, student: AudioLM, teacher: AudioLM | None, reader: IndexedReader | StreamReader) -> Pairing:
    """What makes the batches of both, each model's reader limited to its positions; of two that read alike to either's.

    UserError where the two would write other tokens as an answer.
    """
    shared = shared_vocabulary(student, teacher) if teacher is not None else None
    theirs = teacher.reader if teacher is not None else None
    pairing = Pairing(student.reader, theirs, cfg.negative, shared, partners_of(reader))
    there = {"student": student} | ({"teacher": teacher} if teacher is not None else {})
    limits = {name: model.position_limit for name, model in there.items()}
    fewest = min(limits, key=lambda name: limits[name] or math.inf)
    for name, model in there.items():
        whose = fewest if pairing.alike else name
        model.reader.limit(cfg.data.max_answer_tokens, limits[whose], f"the LLM of {whose}")
    # Before ZeRO-3 puts a linear product in the place of PyTorch's, which rounds otherwise.
    second = teacher or student
    if cfg.negative is not None and (constant := negatives.of_no_sample(cfg.negative, second.reader)) is not None:
        second.prepare(constant)
    return pairing
