"""A student that reads samples otherwise than its teacher: other queries, window and prompts, on two ranks."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from caad_ds.config.reading import load_config
from caad_ds.config.schema import Config
from caad_ds.data.sampler import GlobalOrder
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.models import auto
from caad_ds.models.speech_lm.encoder_folder import save_encoder
from caad_ds.training.engines import load_student, load_teacher
from caad_ds.training.schedule import learning_rate
from tests.tolerance import assert_close, training
from tests.training.launching import curve, refusal, train
from tests.training.tiny import config, encoder

STEPS = 4


def plain_losses(cfg: Config) -> list[dict[str, float]]:
    """The terms of each step by PyTorch alone: one process, no engine, dense logits."""
    student, teacher = load_student(cfg), load_teacher(cfg)
    teacher.module.eval()
    trainable = [parameter for parameter in student.module.parameters() if parameter.requires_grad]
    options = cfg.optimizer
    adamw = torch.optim.AdamW(trainable, betas=options.betas, weight_decay=options.weight_decay)
    reader = IndexedReader(cfg.data.train)
    order = GlobalOrder(len(reader), options.batch_size, cfg.run.seed)
    found = []
    for step in range(STEPS):
        samples = [reader[int(number)] for number in order.batch(step)]
        ours, theirs = student.reader.collate(samples), teacher.reader.collate(samples)
        assert torch.equal(ours.targets, theirs.targets) and ours.input_ids.shape != theirs.input_ids.shape
        silent = replace(theirs, audio={"features": torch.zeros_like(theirs.audio["features"])})
        with torch.no_grad():
            z_pos, z_neg = (teacher.generator.lm_head(teacher.hidden(teacher.prepare(b))) for b in (theirs, silent))
        z_s = student.generator.lm_head(student.hidden(student.prepare(ours)))
        tau, weight = cfg.objective.temperature, cfg.objective.kd_weight
        q = F.softmax((z_pos + cfg.objective.alpha * (z_pos - z_neg)) / tau, -1)
        kd = tau**2 * F.kl_div(F.log_softmax(z_s / tau, -1), q, reduction="batchmean")
        ce = F.cross_entropy(z_s, ours.targets)
        loss = weight * kd + (1 - weight) * ce
        adamw.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trainable, options.max_grad_norm)
        rate = learning_rate(step, peak=options.lr, warmup=options.warmup_steps, total=STEPS)
        adamw.param_groups[0]["lr"] = rate
        adamw.step()
        found.append({"loss": loss.item(), "kd": kd.item(), "ce": ce.item(), "grad_norm": norm.item()})
    return found


@pytest.fixture(scope="module")
def paired(world, tmp_path_factory):
    """The configuration of a finished run, and its output."""
    folder = tmp_path_factory.mktemp("pairs")
    save_encoder(folder / "ears", encoder(seconds=2))
    shutil.copytree(world / "teacher", folder / "teacher")
    student = {"encoder": str(folder / "ears"), "window_seconds": 2, "num_queries": 2, "transcript": "none"}
    file = config(
        world,
        folder / "out",
        teacher={"path": str(folder / "teacher")},
        student=student,
        optimizer={"steps": STEPS, "micro_batch": 2},
    )
    return file, train(file, 2)


@pytest.mark.numeric
def test_the_losses_are_those_of_plain_pytorch_on_the_two_batches(paired, terms):
    file, said = paired
    cfg = load_config(file)
    size = len(load_student(cfg).reader.tokenizer)
    assert f"vocabulary: {size} tokens in common, of {size} and {size} rows" in said
    expected = plain_losses(cfg)
    for name in expected[0]:
        points = curve(file.with_suffix(""), f"train/{name}")
        assert [step for step, _ in points] == list(range(1, STEPS + 1))
        for (step, value), each in zip(points, expected, strict=True):
            assert_close(value, each[name], training(terms, step), max(1.0, abs(each[name])), torch.float32)


def test_the_model_keeps_how_it_reads(paired):
    file, _ = paired
    reader = auto.load(file.with_suffix("") / "model").reader
    assert (reader.transcript, reader.longest_seconds, reader.positions_of(1.0)) == ("none", 2, 2)


def test_a_teacher_that_reads_otherwise_is_another_run(paired):
    """Its weights are the same: its prompts no longer have the transcript."""
    file, _ = paired
    out = file.with_suffix("")
    settings = out.with_name("teacher") / "tokenizer_config.json"
    before = settings.read_text()
    settings.write_text(json.dumps(json.loads(before) | {"caad_transcript": "none"}))
    (out / "model").rename(out / "kept")
    try:
        line = refusal(file, ranks=2)
    finally:
        settings.write_text(before)
        (out / "kept").rename(out / "model")
    assert "differ from this checkpoint's (teacher's reading, hash " in line
