"""On-policy answers in training: which samples, by which ranks, and the gradients from them."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file

from caad_ds.config.on_policy_section import OnPolicySection
from caad_ds.config.reading import load_config
from caad_ds.data.sampler import GlobalOrder
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.distill.pairing import Pairing
from caad_ds.distill.rollouts import forbidden_tokens
from caad_ds.generation.decoding import answer_ends
from caad_ds.models import auto
from caad_ds.models.shared_vocabulary import SharedVocabulary
from caad_ds.training.engines import load_student
from caad_ds.training.metrics.rollout_metrics import warnings
from tests.tolerance import assert_close
from tests.training.alike import assert_same_curves, assert_same_weights
from tests.training.drawn import DRAWN, answers, record_answers
from tests.training.launching import Run, curve, refusal, tracked, train, weights
from tests.training.test_gradients import record_gradients
from tests.training.tiny import config, start_from

STEPS = 5
FILE = "GRADIENTS_FILE"
ZERO2 = {"zero_optimization": {"stage": 2}}
NEAR = 1e-5


def record_both() -> None:
    """In a rank: its drawn answers, and the gradients of the first step."""
    record_answers()
    record_gradients()


def one_token_on_the_first_rank_and_never_an_end_on_the_second() -> None:
    """In a rank: leave its student nothing but end tokens, or none of them."""
    from caad_ds.generation.decoding import answer_ends
    from caad_ds.training import on_policy

    forbidden = on_policy.forbidden_tokens

    def by_rank(lm, *others):
        ends = torch.zeros(len(lm.head().weight), dtype=torch.bool)
        ends[answer_ends(lm)] = True
        return forbidden(lm, *others) | (~ends if os.environ["RANK"] == "0" else ends)

    on_policy.forbidden_tokens = by_rank
    record_answers()


def drawing(world, out: Path, share: float = 0.5, zero: int = 3, **changes) -> Path:
    """A config in which the student draws a share of the answers, under a stage of ZeRO."""
    asked = {"share": share, "max_new_tokens": 12} | changes.pop("on_policy", {})
    objective = {"alpha": 1.0, "on_policy": asked} | changes.pop("objective", {})
    student = changes.pop("student", {})
    if zero == 2:
        file = out.parent / "zero2.json"
        file.write_text(json.dumps(ZERO2))
        student = student | {"deepspeed": str(file)}
    steps = {"steps": STEPS} | changes.pop("optimizer", {})
    return config(world, out, objective=objective, student=student, optimizer=steps, **changes)


def drawn_by(tmp_path, file: Path, ranks: int, prepare=record_answers) -> dict:
    """Run to the end; the answers that were drawn."""
    name = tmp_path / f"{file.stem}-drawn"
    run = Run(file, ranks, prepare=prepare, env={DRAWN: str(name), FILE: str(tmp_path / f"{file.stem}-gradients")})
    assert run.wait() == [0] * ranks, run.output()
    return answers(name)


@pytest.mark.parametrize("zero", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_draws_and_curves_do_not_depend_on_how_a_batch_is_dealt(world, terms, tmp_path, zero):
    whole, dealt = tmp_path / "whole", tmp_path / "dealt"
    first = drawn_by(tmp_path, drawing(world, whole, zero=zero), 1)
    second = drawn_by(tmp_path, drawing(world, dealt, zero=zero, optimizer={"micro_batch": 2}), 2)
    assert first == second
    steps = [sum(step == each for each, _ in first) for step in range(STEPS)]
    assert 8 * STEPS * 0.25 < sum(steps) < 8 * STEPS * 0.75 and len(set(steps)) > 1
    assert_same_curves(dealt, whole, terms)
    assert_same_weights(dealt, whole, terms, STEPS)
    for (_, a), (_, b) in zip(curve(dealt, "train/loss"), curve(whole, "train/loss"), strict=True):
        assert math.isclose(a, b, rel_tol=NEAR)


@pytest.mark.parametrize("zero", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_run_draws_the_same_again(world, tmp_path, zero):
    outs = [tmp_path / "whole", tmp_path / "killed"]
    files = [drawing(world, out, zero=zero, optimizer={"steps": 8}, checkpoint={"every": 3}) for out in outs]
    train(files[0], 2)
    run = Run(files[1], 2)
    run.wait_for("step 5/")
    run.signal(signal.SIGKILL)
    run.wait()
    assert "at step 3" in train(files[1], 2)
    a, b = map(weights, outs)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    for metric in ("train/kd", "train/ce", "rollout/length", "rollout/entropy"):
        metric = metric if metric.startswith("train") else f"train/{metric}"
        assert curve(outs[0], metric) == curve(outs[1], metric), metric


def test_share_0_is_training_without(world, tmp_path):
    plain, none = tmp_path / "plain", tmp_path / "none"
    train(config(world, plain, optimizer={"steps": STEPS}), 1)
    train(drawing(world, none, share=0), 1)
    a, b = weights(plain), weights(none)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert curve(plain, "train/kd") == curve(none, "train/kd")


def test_ranks_whose_answers_end_early_wait_for_the_others(world, tmp_path):
    file = drawing(world, tmp_path / "out", share=1, on_policy={"max_new_tokens": 60})
    drawn_by(tmp_path, file, 2, one_token_on_the_first_rank_and_never_an_end_on_the_second)
    lengths = [
        {len(json.loads(line)[2]) for line in Path(f"{tmp_path}/out-drawn.{rank}").read_text().splitlines()}
        for rank in (0, 1)
    ]
    assert lengths == [{1}, {60}]
    longer = curve(tmp_path / "out", "train/rollout/longer")  # than any pseudo ground truth: all of the second rank's
    assert [value for _, value in longer] == [0.5] * STEPS


@pytest.mark.parametrize(
    ("share", "objective"),
    [
        pytest.param(0.5, {}, marks=pytest.mark.numeric),
        pytest.param(1, {"kd_weight": 1.0}, marks=pytest.mark.slow),
        pytest.param(0.5, {"reduction": "sample", "alpha": 0.0}, marks=pytest.mark.slow),
        pytest.param(0.5, {"row_weight": "audio_advantage", "hidden_weight": 0.3}, marks=pytest.mark.slow),
        pytest.param(0.5, {"divergence": "jsd", "temperature": 1.0}, marks=pytest.mark.slow),
    ],
)
def test_the_gradient_is_that_of_plain_pytorch_on_the_same_answers(world, tmp_path, share, objective):
    student = start_from(world / "teacher") | {"train": "all"}
    file = drawing(
        world, tmp_path / "out", share, student=student, objective=objective, tracking={"enabled": False},
        optimizer={"steps": 1, "micro_batch": 2},
    )  # fmt: skip
    drawn = drawn_by(tmp_path, file, 2, record_both)
    cfg = load_config(file)
    expected, got = plain_gradients(cfg, drawn), load_file(tmp_path / "out-gradients")
    for name, gradient in expected.items():
        module = name.rpartition(".")[0]
        largest = max(g.abs().max().item() for other, g in expected.items() if other.startswith(module))
        assert (got[f"student.{name}"] - gradient).abs().max() <= NEAR * max(largest, 1e-2), name


def plain_gradients(cfg, drawn: dict[tuple[int, str], list[int]]) -> dict[str, torch.Tensor]:
    """Compute the gradients of the first step by the loss of the paper and GKD, in plain PyTorch."""
    student, teacher = load_student(cfg), auto.load(cfg.teacher.path)
    teacher.module.eval()
    reader, objective = IndexedReader(cfg.data.train), cfg.objective
    samples = [reader[int(n)] for n in GlobalOrder(len(reader), cfg.optimizer.batch_size, cfg.run.seed).batch(0)]
    given = [row[row != -100].tolist() for row in student.reader.collate(samples).labels]
    own = [drawn.get((0, sample.key)) for sample in samples]
    assert any(own) and (all(own) or objective.on_policy.share < 1)
    gold, mixed = given, [mine or theirs for mine, theirs in zip(own, given, strict=True)]

    def logits(lm, ids, silent=False):
        """Logits and states at the answer rows, and each row's sample."""
        batch = lm.reader.collate(samples, answers=ids)
        if silent:
            pairing = Pairing(lm.reader, lm.reader, "zero_mel")
            batch = pairing.negative(batch, samples, lm.reader, None)
        batch = lm.prepare(batch)
        hidden = lm.hidden(batch)
        return hidden @ lm.head().weight.T, hidden, batch

    found, states, batch = logits(student, mixed)
    with torch.no_grad():
        positive, h_pos, _ = logits(teacher, mixed)
        negative, h_neg, _ = logits(teacher, mixed, silent=True)
    alpha, tau, lam = objective.alpha, objective.temperature, objective.kd_weight
    log_q = torch.log_softmax(((1 + alpha) * positive - alpha * negative) / tau, -1)
    log_p = torch.log_softmax(found / tau, -1)
    forward = (log_q.exp() * (log_q - log_p)).sum(-1)
    reverse = (log_p.exp() * (log_p - log_q)).sum(-1)
    log_m = (0.5 * log_q.exp() + 0.5 * log_p.exp()).log()
    jsd = 0.5 * (log_q.exp() * (log_q - log_m)).sum(-1) + 0.5 * (log_p.exp() * (log_p - log_m)).sum(-1)
    is_own = torch.tensor([mine is not None for mine in own])[batch.sample_of_row]
    on_given = {"forward_kl": forward, "jsd": jsd}[objective.divergence]
    rows = tau**2 * torch.where(is_own, reverse, on_given)
    factor = torch.ones(len(rows))
    if objective.row_weight != "none":
        scored = [torch.log_softmax(z, -1).gather(1, batch.targets[:, None])[:, 0] for z in (positive, negative)]
        factor = (scored[0] - scored[1]).clamp(0, objective.row_weight_cap)
        factor = factor / factor.mean()
    if share_of_hidden := objective.hidden_weight:
        distance = (states - ((1 + alpha) * h_pos - alpha * h_neg)).square().mean(-1)
        rows = (1 - share_of_hidden) * rows + share_of_hidden * distance
    gold_logits, _, gold_batch = logits(student, gold)
    crossed = F.cross_entropy(gold_logits, gold_batch.targets, reduction="none")

    def mean(values, sample):
        if objective.reduction == "token":
            return values.mean()
        return torch.stack([values[sample == number].mean() for number in sample.unique()]).mean()

    loss = lam * mean(factor * rows, batch.sample_of_row) + (1 - lam) * mean(crossed, gold_batch.sample_of_row)
    loss.backward()
    return {name: p.grad for name, p in student.module.named_parameters() if p.requires_grad}


def test_a_student_that_writes_the_pseudo_ground_truth_gives_the_loss_of_training_on_it(world, tmp_path):
    """Its weights have learned four answers by heart; drawn at a low temperature they are these."""
    folder = by_heart(world, tmp_path)
    same = {"student": start_from(folder), "optimizer": {"steps": 1, "batch_size": 4}}
    cold = {"temperature": 1e-3, "divergence": "forward_kl"}
    drawn = drawn_by(tmp_path, drawing(world, tmp_path / "own", 1, on_policy=cold, **same), 1)
    reader = auto.load(folder).reader
    data = IndexedReader(world / "shards")
    samples = [data[int(n)] for n in GlobalOrder(len(data), 4, 0).batch(0)]
    given = {
        (0, s.key): row[row != -100].tolist() for s, row in zip(samples, reader.collate(samples).labels, strict=True)
    }
    assert drawn == given
    train(config(world, tmp_path / "given", **same), 1)
    for metric in ("kd", "ce", "grad_norm", "agreement", "token_accuracy"):
        [(_, a)], [(_, b)] = (curve(tmp_path / out, f"train/{metric}") for out in ("own", "given"))
        assert_close(a, b, 100, max(1.0, abs(b)), torch.float32)
    [(_, same)], [(_, longer)] = (curve(tmp_path / "own", f"train/rollout/{name}") for name in ("same", "longer"))
    assert (same, longer) == (1, 0)


def by_heart(world, tmp_path) -> Path:
    """The tiny teacher after training on the first step's samples alone."""
    student = auto.load(world / "teacher")
    data = IndexedReader(world / "shards")
    batch = student.prepare(student.reader.collate([data[int(n)] for n in GlobalOrder(len(data), 4, 0).batch(0)]))
    optimizer = torch.optim.AdamW(student.module.parameters(), lr=5e-3)
    student.module.eval()
    for _ in range(600):
        loss = F.cross_entropy(student.hidden(batch) @ student.head().weight.T, batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.005:
            break
    else:
        pytest.fail(f"not learned: {loss.item()}")
    student.save(tmp_path / "by_heart")
    return tmp_path / "by_heart"


def test_what_is_drawn_is_counted_and_a_collapse_is_reported(world, tmp_path):
    file = drawing(world, tmp_path / "out", 1, on_policy={"max_new_tokens": 1})
    printed = train(file, 1)
    for name in ("length", "given", "ended", "empty", "longer", "distinct", "same", "entropy", "tokens", "token_share"):
        assert len(curve(tmp_path / "out", f"train/rollout/{name}")) == STEPS, name
    assert {value for _, value in curve(tmp_path / "out", "train/rollout/tokens")} == {8.0}
    assert "share/rollout" in " ".join(tracked(tmp_path / "out")[1].data.metrics)
    assert "collapsing" not in printed
    ended = drawing(world, tmp_path / "short", 1, tracking={"enabled": False})
    run = Run(ended, 1, prepare=nothing_but_ends)
    assert run.wait() == [0]
    assert "drawn answers have 1.0 tokens where the pseudo ground truth has" in run.output()
    assert "(100% are empty)" in run.output()


def test_answers_that_collapse_or_never_end_are_reported_with_their_numbers():
    settings = OnPolicySection(max_new_tokens=50)
    healthy = {"length": 20.0, "given": 20.0, "ended": 0.9, "empty": 0.0, "distinct": 0.8, "entropy": 1.0}
    changed = [{}, {"length": 4.0, "empty": 0.5}, {"entropy": 0.001, "distinct": 0.1}, {"ended": 0.0}]
    messages = [warnings({f"rollout/{k}": v for k, v in (healthy | each).items()}, settings) for each in changed]
    assert [len(each) for each in messages] == [0, 1, 1, 1]
    assert "4.0 tokens where the pseudo ground truth has 20.0 (50% are empty)" in messages[1][0]
    assert "0.0010 nats (10% of them are distinct)" in messages[2][0]
    assert "100% of the drawn answers were cut at on_policy.max_new_tokens 50" in messages[3][0]
    assert warnings({}, settings) == warnings({"rollout/length": 1.0}, None) == []


def nothing_but_ends() -> None:
    """In a rank: leave the student one token."""
    from caad_ds.training import on_policy

    def all_but_the_end(lm, *_):
        forbidden = torch.ones(len(lm.head().weight), dtype=torch.bool)
        forbidden[lm.reader.prompts.turn.end] = False
        return forbidden

    on_policy.forbidden_tokens = all_but_the_end


AHEAD = {
    "stage": 3,
    "stage3_param_persistence_threshold": 0,
    "stage3_prefetch_bucket_size": 2000,
    "stage3_max_reuse_distance": 1000,
}
QUICK = "after a validation pass that has fetched weights for a backward"
WAYS = {
    QUICK: {
        "validation": {"every": 1}, "student": {"deepspeed": "ahead.json"},
    },
    "adapters of the encoder, activations made again": {
        "student": {"train": "lora", "lora": {"rank": 2, "encoder": True}, "gradient_checkpointing": True},
    },
    "bf16": {"run": {"precision": "bf16"}},
    "the connector alone, without the audio": {
        "student": {"train": "connector"}, "teacher": {"negative": "text_only"},
    },
    "encoded clips that are kept, prompts of one clip together": {
        "student": {"keep_encoded_gb": 1}, "data": {"group_by_audio": True},
    },
}  # fmt: skip


@pytest.mark.parametrize("way", [QUICK, *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS if way != QUICK)])
def test_two_ranks_draw_and_learn_in_every_way_of_training(world, tmp_path, way):
    changes = {section: dict(keys) for section, keys in WAYS[way].items()}
    changes.setdefault("data", {})["validation"] = str(world / "shards")
    (tmp_path / "ahead.json").write_text(json.dumps({"zero_optimization": AHEAD}))
    if "deepspeed" in changes.get("student", {}):
        changes["student"]["deepspeed"] = str(tmp_path / "ahead.json")
    changes["student"] = start_from(world / "teacher") | changes.get("student", {})
    file = drawing(world, tmp_path / "out", 1, **changes)
    train(file, 2)
    kd = [value for _, value in curve(tmp_path / "out", "train/kd")]
    assert len(kd) == STEPS and all(map(math.isfinite, kd))
    assert {value for _, value in curve(tmp_path / "out", "train/skipped_steps")} == {0.0}


def test_a_student_whose_logits_are_not_finite_is_skipped_as_ever(world, tmp_path):
    file = drawing(world, tmp_path / "out", 1, optimizer={"steps": 3, "lr": 1e9}, tracking={"enabled": False})
    run = Run(file, 2)
    assert run.wait() == [2, 2], run.output()
    assert "Traceback" not in run.output()
    assert "not finite" in run.output() and (tmp_path / "out/not_finite.json").exists()


def test_what_stands_for_audio_in_either_model_is_never_drawn(world):
    lm, other = auto.load(world / "teacher"), auto.load(world / "teacher")
    allowed = ~forbidden_tokens(lm, lm, None)
    vocabulary = lm.reader.tokenizer.get_vocab()
    assert all(allowed[token] for token in answer_ends(lm)) and int(allowed.sum()) >= len(vocabulary) - 2
    other.generator.config.audio_token_id, other.generator.config.image_token_index = 7, 9
    shared = SharedVocabulary(20, torch.tensor([n for n in range(21) if n != 5]))
    forbidden = forbidden_tokens(lm, other, shared)
    assert forbidden[[5, 7, 9]].all() and forbidden[21:].all() and not forbidden[[6, 8]].any()


REFUSED = {
    "a cache": ({"teacher": {"cache": {"path": "x"}}}, "teacher.cache holds its states of the data's answers"),
    "a token budget": (
        {"optimizer": {"batch_size": None, "batch_tokens": 240, "micro_tokens": 120}}, "give batch_size",
    ),
    "nothing distilled": ({"objective": {"kd_weight": 0.0}}, "kd_weight 0 distils nothing"),
    "an unknown divergence": ({"on_policy": {"divergence": "total_variation"}}, "total_variation"),
    "an infinite divergence": ({"objective": {"plausibility": 0.1}}, "plausibility"),
    "no room": ({"on_policy": {"max_new_tokens": 200}}, "objective.on_policy.max_new_tokens"),
    "no share": ({"on_policy": {"share": 1.5}}, "share"),
    "MFU": ({"run": {"peak_tflops": 1.0}}, "no two steps draw as many tokens"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_by_name(world, tmp_path, case):
    changes, message = REFUSED[case]
    file = drawing(world, tmp_path / "out", tracking={"enabled": False}, **changes)
    assert message in refusal(file, ranks=1)


def test_ce_has_nothing_to_distil(world, tmp_path):
    file = drawing(world, tmp_path / "out")
    values = yaml.safe_load(file.read_text())
    values["objective"] |= {"name": "ce", "alpha": 1.0}
    values.pop("teacher")
    file.write_text(yaml.safe_dump(values))
    assert "on_policy: belongs to objective distill" in refusal(file)
