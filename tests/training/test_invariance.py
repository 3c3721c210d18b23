"""How a batch is dealt to ranks, micro-batches and accumulation steps changes nothing (fp32)."""

import pytest

from tests.training.alike import assert_same_curve, assert_same_weights
from tests.training.launching import curve, train
from tests.training.tiny import ce, config

STEPS = 6
DEALT = {"world 2, micro 4": (2, 4), "world 1, micro 2, accumulation 4": (1, 2)}
OBJECTIVES = {
    "token": (config, {"objective": {"reduction": "token"}}),
    "sample": (config, {"objective": {"reduction": "sample"}}),
    "ce with audio dropout": (ce, {"objective": {"audio_dropout": 0.5, "dropout_negative": "silence"}}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all runs go, with one MLflow store."""
    return tmp_path_factory.mktemp("dealt")


def run(world, out, objective: str, ranks: int, micro: int):
    write, changes = OBJECTIVES[objective]
    train(write(world, out, optimizer={"steps": STEPS, "micro_batch": micro}, **changes), ranks)
    return out


@pytest.fixture(
    scope="module", params=[pytest.param("token", marks=pytest.mark.numeric), "sample", "ce with audio dropout"]
)
def whole(world, folder, request):
    """An objective, and the output of its run on one rank without accumulation."""
    return request.param, run(world, folder / f"{request.param}-whole", request.param, 1, 8)


@pytest.mark.parametrize("dealt", DEALT)
def test_the_curve_does_not_depend_on_how_a_batch_is_dealt(world, folder, whole, dealt, terms):
    objective, expected = whole
    out = run(world, folder / f"{objective}-{dealt}", objective, *DEALT[dealt])
    assert [step for step, _ in curve(out, "train/kd")] == list(range(1, STEPS + 1))
    for metric in ("train/kd", "train/ce", "train/grad_norm"):  # AdamW forgives a wrong scale of the gradient
        assert_same_curve(out, expected, metric, terms)
    assert_same_weights(out, expected, terms, STEPS)
