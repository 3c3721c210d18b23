"""How a batch is dealt to ranks, micro-batches and accumulation steps changes nothing (fp32)."""

import pytest

from tests.training.alike import assert_same_curves, assert_same_weights
from tests.training.launching import curve, train
from tests.training.tiny import ce, config, start_from

STEPS = 6
DEALT = {"world 2, micro 4": (2, 4), "world 1, micro 2, accumulation 4": (1, 2)}
OBJECTIVES = {
    "token": (config, {"reduction": "token"}),
    "sample": (config, {"reduction": "sample"}),
    "row weights": (config, {"row_weight": "audio_advantage"}),
    "hidden states": (config, {"hidden_weight": 0.3, "hidden_distance": "cosine"}),
    "ce with audio dropout": (ce, {"audio_dropout": 0.5, "dropout_negative": "silence"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all runs go, with one MLflow store."""
    return tmp_path_factory.mktemp("dealt")


def run(world, out, objective: str, ranks: int, micro: int):
    write, settings = OBJECTIVES[objective]
    # A fresh student hardly hears, and what was dropped would not show.
    student = start_from(world / "teacher") if write is ce else {}
    steps = {"steps": STEPS, "micro_batch": micro}
    train(write(world, out, objective=settings, student=student, optimizer=steps), ranks)
    return out


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("token", marks=pytest.mark.numeric),
        "sample",
        pytest.param("row weights", marks=pytest.mark.slow),
        pytest.param("hidden states", marks=pytest.mark.slow),
        "ce with audio dropout",
    ],
)
def whole(world, folder, request):
    """An objective, and the output of its run on one rank without accumulation."""
    return request.param, run(world, folder / f"{request.param}-whole", request.param, 1, 8)


@pytest.mark.parametrize("dealt", DEALT)
def test_the_curve_does_not_depend_on_how_a_batch_is_dealt(world, folder, whole, dealt, terms):
    objective, expected = whole
    out = run(world, folder / f"{objective}-{dealt}", objective, *DEALT[dealt])
    assert [step for step, _ in curve(out, "train/ce" if objective.startswith("ce") else "train/kd")] == list(
        range(1, STEPS + 1)
    )
    assert_same_curves(out, expected, terms)
    assert_same_weights(out, expected, terms, STEPS)
