"""What a plan counts of a run, against what the run does."""

from caad_ds.training.plan.meta_models import student_of
from caad_ds.training.plan.rehearsal import Shape, rehearse
from tests.training.plan.small import config

CHECKPOINTED = {"gradient_checkpointing": True}


def test_a_checkpointed_backward_holds_about_a_layer(tmp_path):
    """Above what the forward holds, six times as many layers take no more."""
    above = []
    for layers in (2, 12):
        student = student_of(config(tmp_path, layers, student=CHECKPOINTED), None)
        costs = rehearse(student, None, None, Shape(2, 16, 24, 40, 2, 1.0))
        above.append(costs.student_bytes - costs.student_held)
    assert above[1] < 1.1 * above[0]
