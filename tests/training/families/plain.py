"""Distillation in plain PyTorch: one process, complete batches, the families' own forward to logits, no engine."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from caad_ds.config.objective_section import ObjectiveSection
from caad_ds.config.schema import Config
from caad_ds.data.batch import IGNORE, Batch, PairedBatch
from caad_ds.data.decoded_sample import Sample
from caad_ds.data.sampler import GlobalOrder
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.distill.pairing import Pairing
from caad_ds.loss.hidden_states import width_map
from caad_ds.models import auto
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.transformers_lm import TransformersLM
from caad_ds.training.batches import partners_of
from caad_ds.training.engines import load_student
from caad_ds.training.schedule import learning_rate

Drawn = dict[tuple[int, str], list[int]]


def losses(cfg: Config, vocabulary: Tensor | None = None, drawn: Drawn | None = None) -> Iterator[float]:
    """The loss of each step of a run, as the paper writes it; each path is a forward of its own.

    It is over the ids `vocabulary`, those that both models have in common; None: over all of the teacher's. `drawn` are
    answers that the student has drawn, by step and sample, which are distilled by the reverse KL.
    """
    student, teacher = load_student(cfg), auto.load(cfg.teacher.path)
    student.module.train()
    student.tower.eval()
    teacher.module.eval()
    trained = [weight for _, weight in student.named_parameters() if weight.requires_grad]
    opt, objective = cfg.optimizer, cfg.objective
    widths = student.head().weight.shape[1], teacher.head().weight.shape[1]
    mapped = width_map(*widths, cfg.run.seed) if objective.hidden_weight else None
    trained += [] if mapped is None else mapped.parameters()
    optimizer = torch.optim.AdamW(trained, lr=opt.lr, betas=opt.betas, weight_decay=opt.weight_decay)
    data = IndexedReader(cfg.data.train)
    order = GlobalOrder(len(data), opt.batch_size, cfg.run.seed)
    read = Pairing(student.reader, teacher.reader, cfg.teacher.negative, partners=partners_of(data))
    tau, share = objective.temperature, objective.kd_weight
    for step in range(opt.steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, peak=opt.lr, warmup=opt.warmup_steps, total=opt.steps)
        samples = [data[int(number)] for number in order.batch(step)]
        batch = gold = read(samples)
        own = torch.zeros(len(batch.student.targets), dtype=torch.bool)
        if drawn is not None:
            assert cfg.teacher.negative == "zero_mel"
            batch, own = with_answers(read, samples, [drawn.get((step, sample.key)) for sample in samples])
        with torch.no_grad():
            second = silent(batch.teacher) if cfg.teacher.negative == "zero_mel" else batch.negative
            positive, negative = logits(teacher, batch.teacher), logits(teacher, second)
            ids = torch.arange(positive.shape[1]) if vocabulary is None else vocabulary
            positive, negative = positive[:, ids], negative[:, ids]
            alpha = strength(objective, negative)
            target = torch.softmax(((1 + alpha) * positive - alpha * negative) / tau, -1)
        found, targets = logits(student, batch.student)[:, ids], torch.searchsorted(ids, batch.student.targets)
        log_p = torch.log_softmax(found / tau, -1)
        rows = F.kl_div(log_p, target, reduction="none").sum(-1)
        rows = torch.where(own, F.kl_div(target.log(), log_p.exp(), reduction="none").sum(-1), rows)
        weights, share_of_hidden = row_weights(objective, positive, negative, targets), objective.hidden_weight
        kd = tau**2 * (weights * rows).mean()
        if share_of_hidden:
            with torch.no_grad():
                h_pos, h_neg = states(teacher, batch.teacher), states(teacher, second)
            ours, theirs = states(student, batch.student), (1 + objective.alpha) * h_pos - objective.alpha * h_neg
            distances = ((ours if mapped is None else mapped(ours)) - theirs) ** 2
            kd = (1 - share_of_hidden) * kd + share_of_hidden * (weights * distances.mean(-1)).mean()
        if drawn is not None:
            found, targets = logits(student, gold.student)[:, ids], torch.searchsorted(ids, gold.student.targets)
        loss = share * kd + (1 - share) * F.cross_entropy(found, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, opt.max_grad_norm)
        optimizer.step()
        yield loss.item()


def with_answers(
    read: Pairing, samples: Sequence[Sample], own: Sequence[list[int] | None]
) -> tuple[PairedBatch, Tensor]:
    """The samples with the answers of `own`, where there are any, and which answer rows are of these [N]."""
    given = [row[row != IGNORE].tolist() for row in read.student.collate(samples).labels]
    answers = [mine or theirs for mine, theirs in zip(own, given, strict=True)]
    student, teacher = (reader.collate(samples, answers=answers) for reader in (read.student, read.teacher))
    drawn = torch.tensor([mine is not None for mine in own])
    return PairedBatch(student, teacher), drawn[student.sample_of_row]


def strength(objective: ObjectiveSection, negative: Tensor) -> Tensor:
    """Return the alpha of each row [N, 1]: the objective's, scaled by the gate if there is one (docs/method.md)."""
    alpha = torch.full((len(negative), 1), objective.alpha)
    if objective.alpha_gate == "none":
        return alpha
    p = torch.softmax(negative, -1)
    entropy = -(p * torch.log(p)).sum(-1, keepdim=True)
    return alpha * torch.clamp(1 - entropy / math.log(objective.gate_m), min=0)


def row_weights(objective: ObjectiveSection, positive: Tensor, negative: Tensor, targets: Tensor) -> Tensor:
    """What each row's distillation term counts [N] (docs/method.md)."""
    if objective.row_weight == "none":
        return torch.ones(len(targets))
    paths = [F.cross_entropy(z, targets, reduction="none") for z in (negative, positive)]
    advantage = torch.clamp(paths[0] - paths[1], 0, objective.row_weight_cap)
    return advantage / advantage.mean()


def silent(batch: Batch) -> Batch:
    """The batch with its features at 0."""
    audio = {name: value * 0 if value.is_floating_point() else value for name, value in batch.audio.items()}
    return batch.with_audio(audio, batch.audio_index, batch.audio_positions)


def states(lm: AudioLM, batch: Batch) -> Tensor:
    """Final states [N, H] at the answer rows, by the forward of the family's own class."""
    assert isinstance(lm, TransformersLM)
    out = lm.module(**lm.generation_inputs(batch), output_hidden_states=True)
    return out.hidden_states[-1].flatten(0, 1)[batch.answer_rows]


def logits(lm: AudioLM, batch: Batch) -> Tensor:
    """Logits [N, V] at the answer rows: of a family of transformers by the forward of its own class."""
    if isinstance(lm, TransformersLM):
        out = lm.module(**lm.generation_inputs(batch)).logits
        return out.flatten(0, 1)[batch.answer_rows]
    return lm.head().logits(lm.hidden(lm.prepare(batch)))
