"""How a batch is dealt to ranks, micro-batches and accumulation steps changes nothing (fp32)."""

import pytest
import torch

from tests.training.launching import curve, train, weights
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


@pytest.fixture(scope="module", params=OBJECTIVES)
def whole(world, folder, request):
    """An objective, and the output of its run on one rank without accumulation."""
    return request.param, run(world, folder / f"{request.param}-whole", request.param, 1, 8)


@pytest.mark.parametrize("dealt", DEALT)
def test_the_curve_does_not_depend_on_how_a_batch_is_dealt(world, folder, whole, dealt):
    objective, expected = whole
    out = run(world, folder / f"{objective}-{dealt}", objective, *DEALT[dealt])
    for metric in ("train/kd", "train/ce"):
        a, b = curve(expected, metric), curve(out, metric)
        assert [step for step, _ in a] == [step for step, _ in b] == list(range(1, STEPS + 1))
        assert [value for _, value in b] == pytest.approx([value for _, value in a], abs=1e-5, rel=0)
    # AdamW forgives a wrong scale of the gradient, its norm does not.
    norms = [[value for _, value in curve(o, "train/grad_norm")] for o in (expected, out)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    a, b = weights(expected), weights(out)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-3, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
