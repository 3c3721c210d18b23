"""A factor of each row's distillation term alone, in every implementation, against the terms by themselves."""

import pytest
import torch

from caad_ds.loss.divergence import DIVERGENCES
from tests.loss.conftest import CAAD, close
from tests.loss.test_alpha_gate import CASES, DIVERGED, made, run

pytestmark = [pytest.mark.numeric, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

FACTORS = torch.tensor([0.0, 2, 1, 0.5, 3, 0, 1, 1.5, 0.25, 1, 2, 0.75])
EVERY = pytest.mark.parametrize(("implementation", "form"), CASES)


@pytest.mark.parametrize(("implementation", "form", "divergence"), DIVERGED)
def test_it_scales_the_distillation_term_of_a_row(problem, implementation, form, divergence):
    """lambda KD with the factors as weights of all, plus (1 - lambda) CE without."""
    p, options = made(problem, form, masked=0.2)
    options |= {"divergence": divergence, "normalizer": 10}
    share = CAAD["kd_weight"]
    kd, kd_gradient = run(p, "reference", kd_weight=1.0, token_weights=FACTORS, **options)
    ce, ce_gradient = run(p, "reference", kd_weight=0.0, **options)
    found, gradient = run(p, implementation, kd_token_weights=FACTORS, **options)
    close(found.kd.cpu(), kd.kd.cpu())
    close(found.ce.cpu(), ce.ce.cpu())
    close(found.loss.cpu(), (share * kd.loss + (1 - share) * ce.loss).cpu())
    for each, a, b in zip(gradient, kd_gradient, ce_gradient, strict=True):
        close(each, share * a + (1 - share) * b)


@EVERY
def test_it_multiplies_the_weights_of_whole_rows(problem, implementation, form):
    p, options = made(problem, form)
    both = run(p, implementation, token_weights=FACTORS, kd_token_weights=FACTORS.flip(0), **options)[0]
    close(both.kd.cpu(), run(p, "reference", token_weights=FACTORS * FACTORS.flip(0), **options)[0].kd.cpu())
    close(both.ce.cpu(), run(p, "reference", token_weights=FACTORS, **options)[0].ce.cpu())


@EVERY
def test_factors_of_1_change_no_bit(problem, implementation, form):
    p, options = made(problem, form, masked=0.3)
    plain, weighed = (run(p, implementation, **options, **more) for more in ({}, {"kd_token_weights": torch.ones(12)}))
    assert plain[0].loss == weighed[0].loss
    assert all(torch.equal(a, b) for a, b in zip(plain[1], weighed[1], strict=True))


@EVERY
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_shows_but_in_ignored_rows(problem, implementation, form, value):
    p, options = made(problem, form)
    factors = FACTORS.clone()
    factors[3] = value
    assert run(p, implementation, kd_token_weights=factors, **options)[0].loss.isnan()
    p.labels[3] = -100
    assert run(p, implementation, kd_token_weights=factors, **options)[0].loss.isfinite()


def test_every_divergence_is_tried():
    assert {divergence for _, _, divergence in DIVERGED} == {*DIVERGENCES}
