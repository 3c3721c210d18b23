"""Rehearse one step on the meta device: FLOPs by part, and the bytes that are held while each part runs.

It runs the code of training (`AudioLM.prepare`, `TeacherForward`, `hidden_and_path` and its backward). The loss is in
formulas.py instead, since its kernels hold less memory than PyTorch operators would.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from caad_ds.data.batch import IGNORE, Batch, joined
from caad_ds.distill.teacher_signal import TeacherForward
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.training.plan.audio_inputs import audio_inputs, placeholder
from caad_ds.training.plan.meta_models import MetaModel, shares_encoding
from caad_ds.training.plan.shape_run import ShapeRun
from caad_ds.utils.flops import flop_counter

CONSTANT = ("zero_mel", "silence", "noise")  # negatives that our own family encodes once per run


@dataclass(frozen=True)
class Shape:
    """A micro-batch of `samples` with `audios` different audios of `seconds` each.

    A sample has `prompt` and `answer` tokens of text, padded to `text`.
    """

    samples: int
    prompt: int
    answer: int
    text: int
    audios: int
    seconds: float


@dataclass(frozen=True)
class Costs:
    """FLOPs of a micro-batch by part, and peak bytes of each part, beyond the models' weights.

    `student_encoder` is the share of `encoder` that a run without the teacher's body needs. `authors_teacher` and
    `authors_encoder` are for the authors' graph, which runs them for each path and model. `encoder_held` is what the
    student's encoder outputs; `student_held` is what the backward needs, at the end of the student's forward. `rows`
    are answer positions, `positions` all positions, padding included.
    """

    encoder: int
    student_encoder: int
    teacher: int
    student_forward: int
    student_backward: int
    authors_encoder: int
    authors_teacher: int
    encoder_bytes: int
    encoder_held: int
    teacher_bytes: int
    student_bytes: int
    student_held: int
    rows: int
    positions: int


def rehearse(
    student: MetaModel, teacher: MetaModel | None, negative: str | None, shape: Shape, trains: bool = True
) -> Costs:
    """Run a micro-batch of equal samples through encoder, teacher (both paths) and student, and back.

    Without `trains`, as in a validation pass, nothing is kept for a backward, and none is run.
    """
    lms = [model.lm for model in (student, teacher) if model is not None]
    shared = teacher is not None and shares_encoding(student, teacher)
    ours = _batch(student, shape)
    theirs = ours if teacher is None or shared else _batch(teacher, shape)
    second = None if teacher is None or negative is None else _second(teacher, theirs, negative)
    weights = [w for lm in lms for part in (lm.module, *lm.modules_outside().values()) for w in _tensors(part)]
    dropped = [w.register_post_accumulate_grad_hook(_drop) for w in weights if w.requires_grad]
    for lm in lms:
        lm.forget_constants()  # what is encoded once per run is held in every step
    student.lm.module.train(trains)
    student.lm.freeze_running_parts()
    with _plain_linear(), ShapeRun(weights) as run, _Parts(run, [lm.tower for lm in lms]) as parts:
        with parts.of("encoder"), torch.no_grad():
            batch = student.lm.prepare(ours)
        encoded = run.live
        with parts.of("other"), torch.no_grad():
            other = batch if teacher is None or shared else teacher.lm.prepare(theirs)
        states: Any = None
        if teacher is not None:
            with parts.of("second"), torch.no_grad():
                second = None if second is None else teacher.lm.prepare(second)
            with parts.of("teacher"), torch.no_grad():
                states = TeacherForward(teacher.lm)(other, second)
        with parts.of("forward"), torch.set_grad_enabled(trains):
            inside = student.lm.with_tower_states(batch) if student.lm.trains_tower_inside else batch
            hidden = student.lm.hidden_and_path(inside)[0]
        held = run.live
        if trains:
            with parts.of("backward"):
                torch.autograd.backward(hidden, torch.empty_like(hidden))
        del states, hidden, inside
        if teacher is not None and trains:
            with parts.of("authors"), torch.no_grad():
                TeacherForward(teacher.lm)(other, None)
    for handle in dropped:
        handle.remove()
    flops, tower = parts.flops, parts.tower
    constant = second is not None and bool(second.constant)  # then it is encoded once per run
    outside = flops["encoder"] + flops["other"] + (0 if constant else flops["second"])
    # The authors encode every sample's audio, even if samples share one, for both paths and for the student.
    authors = (flops["encoder"] * (3 if shared else 1) + 2 * flops["other"]) * shape.samples // shape.audios
    return Costs(
        encoder=outside + tower["teacher"] + tower["forward"],
        student_encoder=flops["encoder"] + tower["forward"],
        teacher=flops["teacher"] - tower["teacher"],
        student_forward=flops["forward"] - tower["forward"],
        student_backward=flops["backward"],
        authors_encoder=authors + 2 * tower["authors"] + tower["forward"],
        authors_teacher=2 * (flops["authors"] - tower["authors"]),
        encoder_bytes=max(parts.bytes["encoder"], parts.bytes["other"], parts.bytes["second"]),
        encoder_held=encoded,
        teacher_bytes=parts.bytes["teacher"],
        student_bytes=max(parts.bytes["forward"], parts.bytes["backward"]),
        student_held=held,
        rows=len(ours.targets),
        positions=ours.input_ids.numel(),
    )


def extrapolated(once: Costs, twice: Costs, few: int, samples: int) -> Costs:
    """Extrapolate costs linearly to `samples` samples, from those of `few` and of twice as many."""
    more = (samples - few) / few
    pairs = ((getattr(once, each.name), getattr(twice, each.name)) for each in fields(Costs))
    return Costs(*(max(0, round(one + more * (two - one))) for one, two in pairs))


def larger_of_both(one: Costs, other: Costs) -> Costs:
    """Return the larger of each of two micro-batches' costs."""
    return Costs(*(max(getattr(one, each.name), getattr(other, each.name)) for each in fields(Costs)))


@contextmanager
def _plain_linear() -> Iterator[None]:
    """Use PyTorch's linear function: a ZeRO-3 engine of this process replaces it with one that keeps more."""
    replaced = torch.nn.functional.linear
    torch.nn.functional.linear = torch._C._nn.linear
    try:
        yield
    finally:
        torch.nn.functional.linear = replaced


class _Parts:
    """A context that measures FLOPs of each part, separately those of the towers in it, and its peak bytes."""

    def __init__(self, run: ShapeRun, towers: list[nn.Module]):
        self.run, self.towers, self.counter = run, towers, flop_counter()
        self.flops: defaultdict[str, int] = defaultdict(int)
        self.tower: defaultdict[str, int] = defaultdict(int)
        self.bytes: defaultdict[str, int] = defaultdict(int)
        self._now, self._entered = "", 0

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Measure a part of the step."""
        self.run.restart()
        self._now, before = name, self.counter.get_total_flops()
        yield
        self.flops[name] = self.counter.get_total_flops() - before
        self.bytes[name] = self.run.peak

    def __enter__(self) -> "_Parts":
        self.counter.__enter__()
        self._hooks = [
            hook
            for tower in self.towers
            for hook in (tower.register_forward_pre_hook(self._enter), tower.register_forward_hook(self._leave))
        ]
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self.counter.__exit__(*error)

    def _enter(self, *_: object) -> None:
        self._entered = self.counter.get_total_flops()

    def _leave(self, *_: object) -> None:
        self.tower[self._now] += self.counter.get_total_flops() - self._entered


def _batch(model: MetaModel, shape: Shape) -> Batch:
    """Make a batch of equal samples: a token, the audio, the rest of the prompt, the answer, padding."""
    audio, positions = audio_inputs(model, shape.seconds)
    here = placeholder(model.lm)
    length = 1 + positions + max(shape.text, shape.prompt + shape.answer) - 1
    ids = torch.full((shape.samples, length), 0 if here else 1)
    is_audio, labels, mask = torch.zeros_like(ids).bool(), torch.full_like(ids, IGNORE), torch.zeros_like(ids)
    ids[:, 1 : 1 + positions], is_audio[:, 1 : 1 + positions] = here, True
    end = positions + shape.prompt + shape.answer
    labels[:, end - shape.answer : end], mask[:, :end] = 1, 1
    each = torch.arange(shape.samples)
    rows = joined([audio] * shape.audios)
    return Batch(
        [str(n) for n in each.tolist()], ids, mask, is_audio, labels, rows,
        audio_index=each % shape.audios, audio_sample=each, audio_positions=torch.full_like(each, positions),
    )  # fmt: skip


def _second(teacher: MetaModel, batch: Batch, negative: str) -> Batch:
    """Make the batch of the second path; a constant negative is one row, encoded once for the run."""
    if negative == "text_only":
        _only_audio(teacher)
        return batch.without_audio()
    if isinstance(teacher.lm, SpeechAudioLM) and negative in CONSTANT:
        one = {name: value[:1] for name, value in batch.audio.items()}
        index = torch.zeros_like(batch.audio_index)
        return replace(batch, audio=one, audio_index=index, constant=negative)
    return batch


def _only_audio(model: MetaModel) -> None:
    """Set what a transformers family adds to a batch without audio."""
    if isinstance(model.lm, SpeechAudioLM):
        return
    short = _batch(model, Shape(1, 1, 1, 2, 1, 0.2))
    model.lm._silent = replace(short, labels=torch.full_like(short.labels, IGNORE))  # type: ignore[attr-defined]


def _drop(weight: Tensor) -> None:
    """Drop a gradient: its memory has a formula, and an engine moves it away at once."""
    weight.grad = None


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
