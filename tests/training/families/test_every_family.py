"""Every family in DeepSpeed's engines on two ranks: the steps of plain PyTorch, a resume, the folder that is left."""

import signal
from itertools import cycle

import pytest
import torch

from caad_ds.config.reading import load_config
from caad_ds.distill.student_objective import StudentObjective
from caad_ds.models import auto
from caad_ds.training.engines import load_student
from tests.training.drawn import DRAWN, answers, record_answers
from tests.training.families.every import FAMILIES, distilled, tiny_family, write_models, write_shards
from tests.training.families.qwen import MODES
from tests.training.families.test_equal_to_plain import assert_plain_losses
from tests.training.families.traces import watch_traces
from tests.training.launching import Run, curve, train, weights

WINDOWED = "audioflamingo3"
# What is hard of each: a connector inside the tower, several windows, a tied head and a BatchNorm, a fixed window.
MAIN = {"qwen2_5_omni": "connector", "audioflamingo3": "all", "granite_speech": "all", "voxtral": "lora"}
MODE = dict(zip(FAMILIES, cycle(MODES))) | MAIN
QUICK = [f if f in (WINDOWED, "granite_speech") else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES]
KILLED = {"optimizer": {"steps": 7}, "checkpoint": {"every": 2}}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Of a family a folder with `teacher/`, `student/` and `shards/`, made once."""
    made = {}

    def folder_of(family):
        module = tiny_family(family)
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            write_models(made[family], module)
            reader = auto.load(made[family] / "student").reader
            write_shards(made[family], reader.longest_seconds, reader.most_audios != 1)
        return made[family]

    return folder_of


@pytest.fixture
def ran(world, folder_of, tmp_path):
    """Train a family in a mode on two ranks, watched; the config and what rank 0 printed."""

    def ran(family, mode, **changes):
        file = distilled(world, folder_of(family), tmp_path / "out", mode, **changes)
        run = Run(file, 2, prepare=watch_traces)
        assert run.wait(240) == [0, 0], run.output()
        return file, run.output()

    return ran


@pytest.mark.parametrize("family", QUICK)
def test_two_ranks_take_the_steps_of_plain_pytorch(ran, folder_of, tmp_path, family):
    file, _ = ran(family, MODE[family], optimizer={"steps": 4 if family in MAIN else 2})
    assert_plain_losses(file, tmp_path / "out")
    assert_left(folder_of(family), tmp_path / "out", family, MODE[family])


def watch_and_record() -> None:
    """In a rank: both."""
    watch_traces()
    record_answers()


@pytest.mark.parametrize("family", [f if f == WINDOWED else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def test_what_the_student_draws_is_distilled_as_by_plain_pytorch(world, folder_of, tmp_path, family):
    drawn = {"alpha": 1.0, "on_policy": {"share": 0.6, "max_new_tokens": 5}}
    changes = {"objective": drawn, "optimizer": {"steps": 3}}
    file = distilled(world, folder_of(family), tmp_path / "out", MODE[family], **changes)
    run = Run(file, 2, prepare=watch_and_record, env={DRAWN: str(tmp_path / "drawn")})
    assert run.wait(240) == [0, 0], run.output()
    written = answers(tmp_path / "drawn")
    assert written and all(1 <= len(answer) <= 5 for answer in written.values())
    lm = auto.load(folder_of(family) / "student")
    assert not {lm.reader.prompts.placeholder, *lm.placeholders} & {
        token for each in written.values() for token in each
    }
    assert_plain_losses(file, tmp_path / "out", drawn=written)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "mode"), [(family, mode) for family, quick in MAIN.items() for mode in MODES if mode != quick]
)
def test_other_modes(ran, folder_of, tmp_path, family, mode):
    """Over more steps, the decoder's activations made again, another second path."""
    again = {"gradient_checkpointing": mode != "connector"}
    file, _ = ran(family, mode, student=again, teacher={"negative": "text_only"}, optimizer={"steps": 10})
    found = assert_plain_losses(file, tmp_path / "out")
    assert mode == "connector" or sum(found[-3:]) < sum(found[:3]), found
    assert_left(folder_of(family), tmp_path / "out", family, mode)


def assert_left(folder, out, family, mode) -> None:
    """Fail unless the family's own class reads a run's folder, in which that has changed which trains."""
    made = tiny_family(family)
    after, info = made.MODEL.from_pretrained(out / "model", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    auto.load(out / "model")
    lm = auto.load(folder / "student")
    values = after.state_dict()
    connector = {id(weight) for weight in lm.connector.parameters()}
    tower = {id(weight) for weight in lm.tower.parameters()} - connector
    decoder = {id(weight) for weight in lm.decoder.parameters()} - tower - connector
    linear = {id(part.weight) for part in lm.decoder.modules() if isinstance(part, torch.nn.Linear)}
    head = {id(weight) for weight in lm.module.get_output_embeddings().parameters()}
    trains = connector | {"connector": set(), "lora": linear & decoder - head, "all": decoder | head}[mode]
    for name, weight in lm.named_parameters():
        moved = not torch.equal(values[name], weight)
        assert moved == (id(weight) in trains), name
    for name, buffer in lm.module.named_buffers():
        assert name not in values or torch.equal(values[name], buffer), name


@pytest.mark.parametrize(
    "family", [WINDOWED] + [pytest.param(each, marks=pytest.mark.slow) for each in MAIN if each != WINDOWED]
)
def test_batches_without_audio_run_the_same_modules(ran, tmp_path, family):
    """Audio dropout leaves about half of either rank's micro-batches none, and no rank waits for another."""
    objective = {"name": "ce", "alpha": None, "audio_dropout": 0.5, "dropout_negative": "text_only"}
    ran(family, "connector", teacher=None, objective=objective)
    assert all(0 < value < 20 for _, value in curve(tmp_path / "out", "train/ce"))


@pytest.mark.slow
@pytest.mark.parametrize("family", MAIN)
def test_a_killed_run_ends_as_one_that_was_not(world, folder_of, tmp_path, family):
    outs = [tmp_path / name for name in ("undisturbed", "killed")]
    files = [distilled(world, folder_of(family), out, MODE[family], **KILLED) for out in outs]
    train(files[0], 2)
    run = Run(files[1], 2)
    run.wait_for("step 5/", 240)
    run.signal(signal.SIGKILL)
    assert run.wait() == [-signal.SIGKILL] * 2
    assert "at step 4" in train(files[1], 2)
    a, b = map(weights, outs)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert curve(outs[0], "train/loss") == curve(outs[1], "train/loss")


@pytest.mark.slow
@pytest.mark.parametrize("family", MAIN)
def test_in_bf16_features_are_cast_and_the_loss_falls(ran, folder_of, tmp_path, family):
    changes = {"run": {"precision": "bf16"}, "optimizer": {"lr": 2e-2, "steps": 10}}
    ran(family, "all", **changes)
    found = [value for _, value in curve(tmp_path / "out", "train/kd")]
    assert sum(found[-3:]) < sum(found[:3]), found
    written = weights(tmp_path / "out").values()  # of which a class may read some in fp32
    assert {each.dtype for each in written if each.is_floating_point()} == {torch.bfloat16}
    tiny_family(family).MODEL.from_pretrained(tmp_path / "out/model", dtype="auto")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", QUICK)
def test_the_tower_stays_in_evaluation(world, folder_of, tmp_path, family, mode):
    """The decoder alone recomputes its activations."""
    changes = {"student": {"gradient_checkpointing": True}}
    cfg = load_config(distilled(world, folder_of(family), tmp_path / "out", mode, **changes))
    student = load_student(cfg)
    StudentObjective(student, cfg.objective).train()
    connector = {id(part) for part in student.connector.modules()}
    for name, part in student.tower.named_modules():
        assert id(part) in connector or not part.training, name
    assert student.decoder.training
    layers = {id(part) for part in student.decoder.modules()}
    parts = student.module.named_modules()
    checkpointed = [(name, part) for name, part in parts if getattr(part, "gradient_checkpointing", False)]
    assert checkpointed and all(id(part) in layers for _, part in checkpointed), checkpointed
