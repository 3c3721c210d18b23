"""A divergence from outside the package: found by its name, differentiated by autograd, left to PyTorch."""

import pytest
import torch

from caad_ds.loss import Divergence
from caad_ds.loss.choose_implementation import fastest
from caad_ds.loss.divergence import DIVERGENCES, find_divergence
from caad_ds.loss.objective import Objective
from tests.loss.conftest import close

TOY = """
from caad_ds.loss import Divergence

def value(log_q, log_p, mix):
    return ((log_q.exp() - log_p.exp()) * (log_q - log_p)).sum(-1)

jeffreys = Divergence("jeffreys", value, infinite_at_zero=True)
"""


@pytest.fixture
def toy(tmp_path, monkeypatch) -> str:
    """The name of Jeffreys's divergence, KL(q || p) + KL(p || q), in a module of somebody else."""
    (tmp_path / "toy_losses.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    return "toy_losses:jeffreys"


@pytest.mark.numeric
@pytest.mark.parametrize("implementation", ["reference", "auto"])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_value_and_gradient_are_those_of_the_two_kl_divergences(problem, toy, implementation, softcap):
    options = {"kd_weight": 1.0, "implementation": "reference"}
    shape = {"rows": 40, "vocab": 37, "scale": 3.0, "bias": True, "softcap": softcap, "masked": 0.3}
    exact = [
        problem(**shape, dtype=torch.float64).with_gradients(divergence=name, **options)
        for name in ("forward_kl", "reverse_kl")
    ]
    for divergence in (toy, find_divergence(toy)):
        found, gradients = problem(**shape).with_gradients(
            divergence=divergence, kd_weight=1.0, implementation=implementation
        )
        close(found.kd, sum(out.kd for out, _ in exact), torch.float32)
        for gradient, parts in zip(gradients, zip(*(parts for _, parts in exact), strict=True), strict=True):
            close(gradient, sum(parts), torch.float32)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_written_gradient_is_that_of_the_equation(problem, name):
    by_autograd = Divergence(name, DIVERGENCES[name].value)
    written, found = (
        problem(bias=True, dtype=torch.float64).with_gradients(divergence=each, mix=0.2, implementation="chunked")
        for each in (name, by_autograd)
    )
    close(found[0].loss, written[0].loss)
    for gradient, expected in zip(found[1], written[1], strict=True):
        close(gradient, expected)


def test_kernels_that_lack_it_are_named_and_auto_takes_another(problem, toy):
    objective = Objective(1.0, 2.0, 0.7, divergence=find_divergence(toy))
    for device, kernel in {"cpu": "native", "cuda": "triton"}.items():
        assert fastest(objective, device, torch.float32) == ("chunked", f"{kernel} has no divergence jeffreys")
        with pytest.raises(ValueError, match=f"expected another: {kernel} has no divergence jeffreys"):
            problem().loss(divergence=toy, implementation=kernel)
    assert problem().loss(divergence=toy).loss == problem().loss(divergence=toy, implementation="chunked").loss


def test_a_mask_that_makes_it_infinite_is_refused(problem, toy):
    with pytest.raises(ValueError, match=r"plausibility is 0\.1, expected None with jeffreys"):
        problem().loss(divergence=toy, plausibility=0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("forward-kl", "expected one of forward_kl, .* or package.module:name of your own; did you mean forward_kl?"),
        ("absent.losses:mine", "No module named 'absent'.*PYTHONPATH"),
        ("toy_losses:mine", "has no attribute 'mine'"),
        ("toy_losses:value", "no Divergence but a function"),
    ],
)
def test_a_name_that_is_none(problem, toy, name, message):
    with pytest.raises(ValueError, match=f"^divergence is '{name}', {message}" if "did" in message else message):
        problem().loss(divergence=name)


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_one_value_a_row_is_asked_for(problem, implementation):
    mean = Divergence("mean", lambda log_q, log_p, mix: (log_q - log_p).mean())
    with pytest.raises(ValueError, match=r"divergence mean gives \(\) for \(6, 11\), expected one value a row"):
        problem().loss(divergence=mean, implementation=implementation)
