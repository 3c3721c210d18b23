"""Both ZeRO-3 engines in this process: one forward per engine and step, the encoder once, heads on answer rows only."""

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from caad_ds.config.reading import load_config
from caad_ds.data.batch import Batch, PairedBatch
from caad_ds.data.shard_reader import IndexedReader
from caad_ds.distill import student_objective, teacher_signal
from caad_ds.distill.pairing import Pairing
from caad_ds.distill.step import DistillStep
from caad_ds.models import auto
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.families.caad_speech_lm import SpeechAudioLM
from caad_ds.models.whisper_qformer.encoder import SpeechEncoder
from caad_ds.training import engines
from caad_ds.training.checks.finite_weights import diagnosis
from caad_ds.training.trainer import Trainer
from caad_ds.utils.progress import Heartbeat
from tests.tolerance import assert_close
from tests.training.tiny import config, encoder, shared_vocabulary, start_from

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(params=["zero_mel", "text_only", None], ids=["zero_mel", "text_only", "standard KD"])
def parts(request, world, tmp_path):
    """Step, engines, encoder and batches of a run with that negative."""
    alpha = 0.0 if request.param is None else 1.0
    file = config(
        world, tmp_path / "out", teacher={"negative": request.param or "zero_mel"}, objective={"alpha": alpha}
    )
    cfg = load_config(file)
    student, teacher_lm = engines.load_student(cfg), engines.load_teacher(cfg)
    assert student.shares_encoding(teacher_lm)
    shared = shared_vocabulary(student, teacher_lm)
    teacher = engines.teacher_signal(cfg, teacher_lm, shares=True)
    engine = engines.student_engine(cfg, student, 4, 1, shared=shared)
    reader = IndexedReader(cfg.data.train)
    pairing = Pairing(student.reader, teacher_lm.reader, request.param)
    assert pairing.alike

    def batch(*numbers: int) -> PairedBatch:
        return pairing([reader[n] for n in numbers])

    step = DistillStep(engine, student, teacher)
    yield SimpleNamespace(
        step=step, engine=engine, teacher=teacher, student=student, lm=teacher_lm, batch=batch, negative=request.param,
        train=cfg.data.train,
    )  # fmt: skip
    engine.destroy()
    teacher.close()


def prepared(lm: AudioLM, *batches: Batch | None) -> list[Batch | None]:
    """The batches with their audio encoded."""
    return [None if batch is None else lm.prepare(batch) for batch in batches]


def of(teacher: teacher_signal.OnlineTeacher, lm: AudioLM, shares: bool) -> teacher_signal.OnlineTeacher:
    """The teacher's engine with the encoder and the reader of another model."""
    made = teacher_signal.OnlineTeacher(teacher.engine, shares)
    made.lm = lm
    return made


def counted(monkeypatch, owner, name: str) -> list:
    """The arguments of every call of `owner.name` from now on."""
    calls, original = [], getattr(owner, name)

    def call(*args, **kwargs):
        calls.append((args, kwargs))
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_the_traces_stay_complete_and_the_weights_partitioned(parts):
    student, teacher = parts.engine.optimizer.parameter_offload, parts.teacher.engine.optimizer
    coordinators = [part.get_param_coordinator() for part in (student, teacher)]
    for n in range(5):
        batch = parts.batch(*range(n, n + 4))
        with parts.step.teacher_head():
            parts.step.train([batch], len(batch.student.targets))
        if n == 3:
            parts.engine.eval()
            with parts.step.teacher_head():
                parts.step.evaluate(batch, len(batch.student.targets))
            parts.engine.train()
        if n > 0:  # the first step records
            assert [c.is_complete_trace() for c in coordinators] == [True, True], n
    for module in (parts.engine.module, parts.teacher.engine.module):
        assert all(p.numel() == 0 and p.ds_numel > 0 for p in module.parameters())


def test_the_encoder_runs_once_a_batch_and_heads_see_answer_rows_only(parts, monkeypatch):
    perceived = counted(monkeypatch, parts.student.encoder, "encode")
    scored = counted(monkeypatch, student_objective, "contrastive_distillation_loss")
    batch = parts.batch(0, 1, 2, 3)
    widths = []
    models = (parts.student.generator, parts.lm.generator)
    hooks = [m.get_output_embeddings().register_forward_hook(lambda *_: widths.append(1)) for m in models]
    with parts.step.teacher_head():
        parts.step.train([batch], len(batch.student.targets))
    for hook in hooks:
        hook.remove()
    # A constant negative is encoded when it is first met, by the teacher's own encoder.
    assert len(perceived) == 1 and parts.lm.encoder is not parts.student.encoder
    [(args, _)] = scored
    student, _, positive, negative = args[:4]
    rows = len(batch.student.answer_rows)
    assert 0 < rows < batch.student.input_ids.numel() / 2
    assert len(student) == len(positive) == rows
    assert negative is None if parts.negative is None else len(negative) == rows
    assert widths == []  # the LM heads' own forward, over all positions, never runs


def test_the_teachers_head_is_gathered_once_a_step_and_is_one_weight(parts, monkeypatch):
    """For all micro-steps and for a validation pass; the tiny teacher's head is tied to its embedding."""
    gathered = counted(monkeypatch, teacher_signal.deepspeed.zero, "GatheredParameters")
    first, second = parts.batch(0, 1), parts.batch(2, 3)
    with parts.step.teacher_head():
        parts.step.train([first], 8)
        parts.step.train([second], 8)
    with parts.step.teacher_head():
        parts.step.evaluate(first, 8)
        parts.step.evaluate(second, 8)
    weight = parts.lm.generator.get_output_embeddings().weight
    assert len(gathered) == 2
    for (weights,), _ in gathered:
        assert len(weights) == 1 and weights[0] is weight
    assert weight.numel() == 0  # partitioned again


def test_offloaded_layers_are_gathered_once_for_a_window(parts, monkeypatch):
    """One forward of the teacher takes all micro-batches, of unequal length; its trace stays complete."""
    window = [parts.batch(0, 1), parts.batch(5, 6, 7), parts.batch(20)]
    assert len({batch.student.input_ids.shape[1] for batch in window}) > 1
    together = DistillStep(parts.engine, parts.student, parts.teacher, teacher_batch=3)
    layers = parts.lm.decoder.model.layers
    gathered: list[list[str]] = []  # of each all-gather the weights
    names = {weight: f"{n}.{name}" for n, layer in enumerate(layers) for name, weight in layer.named_parameters()}
    for weight in names:
        monkeypatch.setattr(weight, "all_gather_coalesced", counting(weight.all_gather_coalesced, names, gathered))
    ran: list[int] = []
    hooks = [
        layer.self_attn.q_proj.register_forward_pre_hook(
            lambda projection, _, n=n: ran.append(n if projection.weight.numel() else None)
        )
        for n, layer in enumerate(layers)
    ]
    coordinator = parts.teacher.engine.optimizer.get_param_coordinator()
    for turn in range(3):
        gathered.clear()
        ran.clear()
        with together.teacher_head():
            terms = together.train(window, 40)
        assert len(terms) == 3 and ran == [0, 1]
        assert sorted(name for each in gathered for name in each) == sorted(names.values())
        assert turn > 0 or len(gathered) == len(layers)  # whole, where nothing is known yet to be fetched before
        assert turn == 0 or coordinator.is_complete_trace()
    for hook in hooks:
        hook.remove()


def counting(gather, names: dict, gathered: list):
    """`gather`, an all-gather of weights, with those of `names` noted in `gathered`."""

    def call(weights, **kwargs):
        gathered.append([names[weight] for weight in weights if weight in names])
        return gather(weights, **kwargs)

    return call


@pytest.mark.numeric
def test_a_window_gives_each_batch_what_it_gets_alone(parts, terms):
    window = [parts.batch(0, 1), parts.batch(5, 6, 7), parts.batch(20)]
    each = [prepared(parts.lm, batch.teacher, batch.negative) for batch in window]
    alone = [parts.teacher.signal(*batches) for batches in each]
    heard, seconds = zip(*each, strict=True)
    together = parts.teacher.signal(Batch.cat(heard), Batch.cat(seconds) if parts.negative else None)
    for path in (0, 1):
        if together[path] is not None:
            expected = torch.cat([signals[path] for signals in alone])
            assert_close(together[path], expected, terms)


def test_an_audio_that_several_prompts_ask_about_is_encoded_once(parts, monkeypatch):
    perceived = counted(monkeypatch, parts.student.encoder, "encode")
    batch = parts.batch(0, 1, 0, 0)
    with parts.step.teacher_head():
        parts.step.train([batch], len(batch.student.targets))
    [((features,), _)] = perceived
    assert len(features) == 2 and batch.student.audio_index.tolist() == [0, 1, 0, 0]


def test_an_encoder_of_its_own_runs_for_the_teacher_too(parts, monkeypatch):
    other = SpeechAudioLM(parts.lm.module, encoder(layers=3), parts.lm.reader.tokenizer)
    step = DistillStep(parts.engine, parts.student, of(parts.teacher, other, shares=False))
    batch = parts.batch(0, 1)
    prepared(other, batch.negative)
    ours, theirs = (counted(monkeypatch, each.encoder, "encode") for each in (parts.student, other))
    with step.teacher_head():
        step.train([batch], len(batch.student.targets))
    assert (len(ours), len(theirs)) == (1, 1)


@pytest.mark.parametrize("parts", ["zero_mel"], indirect=True)
def test_an_encoder_that_both_have_runs_once_where_prompts_differ(parts, monkeypatch):
    lm = SpeechAudioLM(parts.lm.module, parts.student.encoder, copy.deepcopy(parts.lm.reader.tokenizer))
    lm.reader.set_transcript("none")
    step = DistillStep(parts.engine, parts.student, of(parts.teacher, lm, shares=True))
    reader = IndexedReader(parts.train)
    batch = Pairing(parts.student.reader, lm.reader, "zero_mel")([reader[0], reader[1], reader[0]])
    assert batch.teacher.input_ids.shape != batch.student.input_ids.shape
    expected = parts.teacher.signal(*prepared(lm, batch.teacher, batch.negative))
    heard = counted(monkeypatch, parts.student.encoder, "encode")
    with step.teacher_head():
        [(_, states)] = step._signals([batch])
    assert len(heard) == 1
    assert torch.equal(states.positive, expected[0]) and torch.equal(states.negative, expected[1])


@pytest.mark.numeric
def test_the_teachers_states_are_those_of_the_plain_model(parts, terms, world):
    batch = parts.batch(3, 4, 5)
    positive, negative = parts.teacher.signal(*prepared(parts.lm, batch.teacher, batch.negative))
    plain = auto.load(world / "teacher")
    plain.module.eval()
    with torch.no_grad():
        assert_close(positive, plain.hidden(plain.prepare(batch.teacher)), terms)
        if negative is not None:
            assert_close(negative, plain.hidden(plain.prepare(batch.negative)), terms)
            assert (negative - positive).abs().max() > 0.1
    with parts.teacher.head() as head:
        assert torch.equal(head.weight, plain.head().weight)


def test_a_batch_without_answers_costs_nothing_and_breaks_nothing(parts):
    batch = parts.batch(0, 1)
    batch = batch.ignoring(torch.ones(len(batch.keys), dtype=torch.bool))
    parts.engine.eval()
    with parts.step.teacher_head():
        kd, ce, diagnostics = parts.step.evaluate(batch, 1.0)
    assert (float(kd), float(ce), float(diagnostics["rows"])) == (0, 0, 0)


def test_heads_padded_to_different_sizes_share_one_vocabulary(parts):
    batch = parts.batch(0, 1)
    [ours] = prepared(parts.student, batch.student)
    positive, negative = parts.teacher.signal(*prepared(parts.lm, batch.teacher, batch.negative))
    with parts.teacher.head() as head, torch.no_grad():
        padded = type(head)(torch.cat([head.weight, torch.ones(8, head.weight.shape[1])]), head.bias, head.softcap)
        plain, wide = (parts.engine(ours, positive, negative, h, 4.0)[0] for h in (head, padded))
    assert torch.equal(plain, wide)


@pytest.mark.parametrize("origin", ["llm", "path"])
def test_in_bf16_weights_are_cast_and_rotary_frequencies_are_not(world, tmp_path, origin):
    """The student is trained, so a loaded one is checkpointed too."""
    student = {"gradient_checkpointing": True} | (start_from(world / "teacher") if origin == "path" else {})
    cfg = load_config(config(world, tmp_path / "out", student=student, run={"precision": "bf16"}))
    made = engines.load_student(cfg)
    teacher = engines.teacher_signal(cfg, engines.load_teacher(cfg))
    engine = engines.student_engine(cfg, made, 4, 1)
    for whole, lm in ((engine, engine.module.student.llm), (teacher.engine, teacher.engine.module.model.llm)):
        assert {p.dtype for p in whole.module.parameters()} == {torch.bfloat16}
        assert lm.model.rotary_emb.inv_freq.dtype == torch.float32
    assert all(layer.training and layer.gradient_checkpointing for layer in engine.module.student.llm.model.layers)
    assert not teacher.engine.module.training
    engine.destroy()
    teacher.close()


@pytest.fixture
def closed(monkeypatch) -> list:
    """The teachers that are closed, as they are."""
    teachers, close = [], teacher_signal.OnlineTeacher.close
    monkeypatch.setattr(teacher_signal.OnlineTeacher, "close", lambda self: (teachers.append(self), close(self)))
    return teachers


@pytest.mark.parametrize("where", ["student_engine", "forward"])
def test_the_teacher_is_closed_where_a_run_fails(made, monkeypatch, closed, where):
    def fail(*_):
        raise RuntimeError("out of memory")

    owner, name = (engines, where) if where == "student_engine" else (teacher_signal.TeacherForward, where)
    monkeypatch.setattr(owner, name, fail)
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        Trainer(load_config(made()), torch.device("cpu"), Heartbeat(enabled=False)) as trainer,
    ):
        trainer.run()
    assert len(closed) == 1


def test_a_teacher_that_hears_alike_uses_the_students_encoder(made):
    with Trainer(load_config(made()), torch.device("cpu"), Heartbeat(enabled=False)) as trainer:
        assert trainer.teacher.tower is trainer.student.tower  # on the device once, and constants are heard there
        assert trainer.teacher.reader.encoder is trainer.student.reader.encoder


def test_a_constant_is_encoded_before_zero_replaces_the_linear_product(made, monkeypatch):
    linear = torch.nn.functional.linear
    products = []
    encode = SpeechEncoder.encode

    def noted(encoder, features):
        products.append((len(features), torch.nn.functional.linear is linear))
        return encode(encoder, features)

    monkeypatch.setattr(SpeechEncoder, "encode", noted)
    with Trainer(load_config(made()), torch.device("cpu"), Heartbeat(enabled=False)) as trainer:
        trainer.run()
    assert products[0] == (1, True) and all(rows > 1 for rows, _ in products[1:])


@pytest.mark.parametrize("parts", ["zero_mel"], indirect=True)
def test_another_teacher_takes_the_place_of_an_engine(parts):
    """What training asks of a teacher is the protocol: no engine, no model."""
    batch = parts.batch(0, 1)
    with parts.teacher.head() as head:
        kept = parts.teacher.signal(*prepared(parts.lm, batch.teacher, batch.negative)), head

    class Kept:
        def states(self, batches, ours):
            return [teacher_signal.TeacherStates(*kept[0])]

        def head(self):
            return nullcontext(kept[1])

        def named_parameters(self):
            return iter(())

        def close(self):
            pass

    step = DistillStep(parts.engine, parts.student, Kept())
    parts.engine.eval()
    with parts.step.teacher_head(), step.teacher_head():
        count = len(batch.student.targets)
        assert torch.equal(step.evaluate(batch, count)[0], parts.step.evaluate(batch, count)[0])
    assert diagnosis(step)["teacher"] == []
