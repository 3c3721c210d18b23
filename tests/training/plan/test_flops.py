"""FLOPs that a plan predicts against PyTorch's count of a real step."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch

from benchmarks import step
from benchmarks.step_models import ANSWER, PROMPT, SCALES, Setting
from caad_ds.config.schema import Config
from caad_ds.distill.student_objective import StudentObjective
from caad_ds.distill.teacher_signal import TeacherForward
from caad_ds.models import auto, negatives
from caad_ds.models.language_model.head_form import HeadForm
from caad_ds.training.plan import formulas
from caad_ds.training.plan.memory_plan import Engines
from caad_ds.training.plan.meta_models import Described, MetaModel, student_of, teacher_described, teacher_of
from caad_ds.training.plan.rehearsal import Costs, Shape, rehearse
from caad_ds.utils.flops import flop_counter
from tests.models.families.conftest import sample

FAMILIES = [name for name in auto.supported() if name != "caad_speech_lm"]


def config(teacher: str, student: dict, train: str) -> Config:
    """A distillation in fp32."""
    return Config.model_validate({
        "run": {"output_dir": "unused"}, "data": {"train": "unused"}, "teacher": {"path": teacher},
        "student": student | {"train": train}, "optimizer": {"steps": 1},
    })  # fmt: skip


def predicted(cfg: Config, student: MetaModel, teacher: MetaModel, costs: Costs) -> float:
    """All of a step."""
    heads = Engines(cfg, None, 1, student, teacher).heads(costs.rows)
    body = costs.encoder + costs.teacher + costs.student_forward + costs.student_backward
    return body + formulas.head_flops(heads)


@pytest.fixture(scope="module", params=["tiny", pytest.param("cpu", marks=pytest.mark.slow)])
def ours(request):
    """Count the FLOPs of a setting of benchmarks/step.py and compute the plan's, for our step and the authors'."""
    scale = SCALES[request.param]
    if request.param == "cpu":
        scale = replace(scale, samples=2)
    setting, cfg = Setting(scale, "cpu"), step.config("fp32")
    real = step.ours(setting, cfg)
    real()  # the encoding of the negative is made in the first
    counted = 1e9 * step.gigaflops(real), 1e9 * step.gigaflops(step.authors(setting, cfg))
    meta = Setting(scale, "meta")
    for lm in (meta.student, meta.teacher):
        lm.generator._caad_head = HeadForm()
    student, teacher = (MetaModel(lm, Described({}, "made here")) for lm in (meta.student, meta.teacher))
    shape = Shape(
        scale.samples,
        PROMPT,
        ANSWER,
        PROMPT + ANSWER,
        scale.samples,
        1.0,
    )
    costs = rehearse(student, teacher, "zero_mel", shape)
    heads = Engines(cfg, None, 1, student, teacher).heads(costs.rows)
    authors = costs.authors_encoder + costs.authors_teacher + costs.student_forward + costs.student_backward
    found = predicted(cfg, student, teacher, costs), authors + formulas.authors_head_flops(heads, costs.positions)
    return counted, found


def test_our_own_family(ours):
    counted, found = ours
    assert found[0] == pytest.approx(counted[0], rel=0.02)


def test_the_authors_graph(ours):
    counted, found = ours
    assert found[1] == pytest.approx(counted[1], rel=0.02)


@pytest.mark.parametrize("train", ["connector", "all"])
@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_transformers(tmp_path, name, train):
    """The real step reads samples of equal length by the family's processor; the plan has the folder."""
    folder = import_module(f"tests.models.families.tiny.{name}").write(tmp_path)
    cfg = config(str(folder), {"path": str(folder)}, train)
    student, teacher = auto.load(folder), auto.load(folder)
    student.choose_weights(train)
    teacher.module.requires_grad_(False)
    samples = [sample(f"sample-{n}", 1.5) for n in range(3)]
    batch = student.reader.collate(samples)
    second = negatives.find("zero_mel")(batch, samples, teacher.reader, None)
    objective = StudentObjective(student, cfg.objective).train()
    with flop_counter() as counter:
        with torch.no_grad():
            signals = TeacherForward(teacher)(teacher.prepare(batch), teacher.prepare(second))
        loss = objective(student.prepare(batch), *signals, teacher.head(), len(batch.targets))[0]
        loss.backward()
    described = teacher_described(cfg, None)
    models = student_of(cfg, described), teacher_of(cfg, described)
    answer, positions = len(batch.targets) // 3, int(batch.audio_positions[0])
    prompt = batch.input_ids.shape[1] - answer - positions
    costs = rehearse(*models, "zero_mel", Shape(3, prompt, answer, prompt + answer, 3, 1.5))
    assert costs.positions == batch.input_ids.numel() and costs.rows == len(batch.targets)
    assert predicted(cfg, *models, costs) == pytest.approx(counter.get_total_flops(), rel=0.02)
