"""Every implementation against one float64 reference, within a stated multiple of the rounding error."""

import math
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from caad_ds.loss import chunked
from caad_ds.loss.divergence import DIVERGENCES
from tests.tolerance import rounding

pytestmark = pytest.mark.numeric

# The worst of some thousand random cases is about a third of this.
MULTIPLE = 4
EPS = torch.finfo(torch.float32).eps

tensors = st.fixed_dictionaries(
    {
        "rows": st.sampled_from([0, 1, 2, 7, 40, 300]),
        "vocab": st.sampled_from([1, 3, 37, 101]),
        "widths": st.sampled_from([(5, 7), (16, 8)]),
        "scale": st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
        "seed": st.integers(0, 999),
        "bias": st.booleans(),
        "softcap": st.sampled_from([None, None, 30.0]),
        "factors": st.sampled_from([(1.0, 1.0), (1.0, 1.0), (0.0625, 8.0), (3.7, 0.3)]),
        "masked": st.sampled_from([0.0, 0.0, 0.3, 1.0]),
        "padding": st.sampled_from([(0, 0), (0, 0), (2, 0), (1, 4)]),
    }
)
scalars = st.fixed_dictionaries(
    {
        "alpha": st.sampled_from([0.0, 0.5, 1.0, 4.0, "by row"]),
        "alpha_gate": st.sampled_from(["none", "none", "text_certainty"]),
        "gate_m": st.sampled_from([1.1, 2.0, 60.0]),
        "temperature": st.sampled_from([0.5, 1.0, 2.0, 10.0]),
        "kd_weight": st.sampled_from([0.0, 0.3, 0.7, 1.0]),
        "plausibility": st.sampled_from([None, None, 0.1, 1.0]),
        "divergence": st.sampled_from(list(DIVERGENCES)),
        "mix": st.sampled_from([0.1, 0.5, 0.9]),
    }
)


def largest_alpha(options):
    """Of all rows."""
    alpha = options["alpha"]
    return max([0.0, *alpha.tolist()]) if torch.is_tensor(alpha) else alpha


def logit_sizes(p, options):
    """Upper bounds of |z_s| and |z_c|: sums of magnitudes, which is what rounding errors scale with, or the cap."""

    def size(hidden, head):
        bias = 0 if head.bias is None else head.bias.detach().abs().max().item()
        product = hidden.detach().abs() @ head.weight.detach().abs().t()
        largest = head.scale * (product.max().item() + bias) if product.numel() else 0.0
        # d(cap * tanh(z / cap)) = (1 - tanh^2) dz, which is never above cap / 2 times the relative error of z.
        return largest if head.softcap is None else min(largest, head.softcap)

    alpha, teacher = largest_alpha(options), size(p.positive, p.teacher_head)
    contrasted = (1 + alpha) * teacher + (alpha * size(p.negative, p.teacher_head) if p.negative is not None else 0)
    return size(p.student, p.student_head), (1 + options.get("sharpen", 0)) * contrasted


def gate_error(p, options):
    """What rounding z_neg by a relative EPS, magnitudes summed, may change in z_c through alpha_n.

    dH = -sum_v p_v (log p_v + H) dz_v, of at most 2 H max|dz|; where H is above log m, alpha_n stays 0.
    """
    if options.get("alpha_gate", "none") == "none" or not len(p.labels) or p.negative is None:
        return 0.0
    exact = p.to(torch.float64)
    z_pos, z_neg = exact.teacher_head.logits(exact.positive), exact.teacher_head.logits(exact.negative)
    entropy = torch.special.entr(z_neg.softmax(-1)).sum(-1) / math.log(options["gate_m"])
    alone = replace(p, student=p.negative, student_head=p.teacher_head)
    z_n, _ = logit_sizes(alone, options | {"alpha": 0.0, "sharpen": 0})
    share = options["alpha"] * 2 * entropy.clamp(max=1) * EPS * (1 + z_n)
    return (share * (z_pos - z_neg).abs().amax(-1)).max().item()


def clear_of_the_plausibility_bound(p, plausibility):
    """Whether rounding cannot carry a token across p_pos = beta * max p_pos."""
    z = p.to(torch.float64).teacher_head.logits(p.positive.double())
    if plausibility is None or not z.numel():
        return True
    distance = z - z.amax(-1, keepdim=True) - torch.log(torch.tensor(plausibility))
    return distance.abs().where(distance != 0, torch.inf).min() > 64 * EPS * (1 + z.abs().max())


def assert_close(p, options, found, exact, gradient_eps=0.0):
    """Loss, terms and gradients within MULTIPLE * EPS * (1 + max|z| / tau) of the exact ones, by first-order analysis.

    A relative error d in a distribution moves KL by d * (1 + KL) and the gradient's row, whose magnitudes add up to
    2 lambda tau + 2 (1 - lambda), by d times that; `gradient_eps` is the final rounding of gradients. In the reverse KL
    and others without a bound the magnitudes add up to as much more as the divergence itself is above 1.
    """
    (out, gradients), (out64, gradients64) = found, exact
    tau, share = options["temperature"], options["kd_weight"]
    z_s, z_c = logit_sizes(p, options)
    d_kd, d_ce = EPS * (1 + (z_s + z_c) / tau) + gate_error(p, options) / tau, EPS * (1 + z_s)
    if p.student_head.softcap is not None:
        d_kd, d_ce = (d + EPS * (1 + z_s / p.student_head.softcap) for d in (d_kd, d_ce))
    error_kd, error_ce = MULTIPLE * d_kd * (tau**2 + out64.kd.item()), MULTIPLE * d_ce * (1 + out64.ce.item())
    if "alpha" in out64.diagnostics:
        error = MULTIPLE * EPS * largest_alpha(options) * len(p.labels) * (3 + z_c)
        assert out.diagnostics["alpha"].item() == pytest.approx(out64.diagnostics["alpha"].item(), abs=error)
    assert out.kd.item() == pytest.approx(out64.kd.item(), abs=error_kd)
    assert out.ce.item() == pytest.approx(out64.ce.item(), abs=error_ce)
    assert out.loss.item() == pytest.approx(out64.loss.item(), abs=error_kd + error_ce)
    unbounded = DIVERGENCES[options.get("divergence", "forward_kl")].infinite_at_zero
    large = out64.kd.item() / tau if unbounded else 0.0
    row = MULTIPLE * 2 * (share * (tau + large) * d_kd + (1 - share) * d_ce)
    counted = max(1, int((p.labels >= 0).sum()))  # rows that share the loss; in the head's gradient they add up again
    hidden = p.student.abs().max().item() if p.student.numel() else 0
    factors = [p.student_head.weight.abs().max().item() / counted, hidden, 1]
    for gradient, exact_gradient, factor in zip(gradients, gradients64, factors):
        allowed = p.student_head.scale * row * factor + gradient_eps * exact_gradient.abs()
        assert gradient.shape == exact_gradient.shape
        assert ((gradient.double() - exact_gradient).abs() <= allowed).all()


def small_chunks(p, rows):
    """A logits budget for so many rows at a time."""
    return patch.dict(chunked.LOGITS_BYTES, cpu=rows * 4 * len(p.student_head.weight))


def drawn(problem, shape, options, sharpen):
    """Draw a problem and compute its exact answer; completes `options`, and draws again what the loss refuses."""
    p = problem(**shape)
    if sharpen is not None:
        p.negative, options["alpha"], options["sharpen"] = None, 0.0, sharpen
    if options["alpha"] == "by row":
        options["alpha"] = 4 * torch.rand(shape["rows"], generator=torch.Generator().manual_seed(shape["seed"]))
    if torch.is_tensor(options["alpha"]) or options["alpha"] == 0:
        options["alpha_gate"] = "none"
    assume(not DIVERGENCES[options["divergence"]].infinite_at_zero or options["plausibility"] is None)
    if shape["padding"] != (0, 0):
        options["vocab_size"] = shape["vocab"]
    assume(clear_of_the_plausibility_bound(p, options["plausibility"]))
    exact = p.to(torch.float64).with_gradients(implementation="reference", **options)
    return p, exact


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    shape=tensors, options=scalars, chunk=st.sampled_from([1, 3, 64, 1000]), sharpen=st.sampled_from([None, 0.0, 1.5])
)
def test_matches_the_reference_in_float64(problem, shape, options, chunk, sharpen):
    p, exact = drawn(problem, shape, options, sharpen)
    with small_chunks(p, chunk):
        assert_close(p, options, p.with_gradients(implementation="chunked", **options), exact)
    assert_close(p, options, p.with_gradients(implementation="reference", **options), exact)


GATED = {"alpha_gate": "text_certainty", "gate_m": 50.0}


@pytest.mark.parametrize("gate", [{}, GATED, {"alpha": torch.linspace(0, 2.3, 50)}])
@pytest.mark.parametrize("softcap, factors", [(None, (1.0, 1.0)), (20.0, (1.0, 1.0)), (None, (0.3, 2.7))])
def test_bfloat16_inputs_lose_nothing_but_the_gradients_last_rounding(problem, softcap, factors, gate):
    options = {"alpha": 2.0, "temperature": 2.0, "kd_weight": 0.7, **gate}
    shape = {"rows": 50, "vocab": 301, "widths": (32, 48), "scale": 5.0, "softcap": softcap, "factors": factors}
    p = problem(**shape, bias=True, dtype=torch.bfloat16)
    found = p.with_gradients(**options)
    assert [g.dtype for g in found[1]] == [torch.bfloat16] * 3
    exact = p.to(torch.float64).with_gradients(implementation="reference", **options)
    assert_close(p.to(torch.float32), options, found, exact, gradient_eps=torch.finfo(torch.bfloat16).eps / 2)


@pytest.mark.parametrize(
    "extra",
    [{}, {"plausibility": 0.2}, {"kd_weight": 1.0}, {"kd_weight": 0.0}]
    + [{"divergence": name, "mix": 0.3} for name in DIVERGENCES if name != "forward_kl"]
    + [{"divergence": "jsd", "plausibility": 0.2}]
    + [{"alpha_gate": "text_certainty", "gate_m": 8.0, **extra} for extra in ({}, {"plausibility": 0.2})],
)
@pytest.mark.parametrize("softcap, factors", [(None, (1.0, 1.0)), (3.0, (0.4, 2.5))])
def test_gradcheck(problem, extra, softcap, factors):
    p = problem(rows=4, vocab=7, bias=True, softcap=softcap, factors=factors, masked=0.3, dtype=torch.float64)
    for x in p.parameters():
        x.requires_grad_(True)
    with small_chunks(p, 4):  # two rows of float64
        assert torch.autograd.gradcheck(lambda *_: p.loss(**extra).loss, p.parameters())


def test_autocast_does_not_lower_the_precision(problem):
    p = problem(rows=20, vocab=101, scale=10.0)
    plain = p.with_gradients()
    with torch.autocast("cpu", torch.bfloat16):
        cast = p.with_gradients()
    assert cast[0].loss == plain[0].loss
    assert all(torch.equal(a, b) for a, b in zip(cast[1], plain[1]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("gate", [{}, GATED])
@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize(
    "dtype, logits", [(torch.float32, "float32"), (torch.bfloat16, "float32"), (torch.bfloat16, "bfloat16")]
)
def test_on_a_gpu(problem, dtype, logits, softcap, gate):
    options = {"alpha": 2.0, "temperature": 2.0, "kd_weight": 0.7, **gate}
    p = problem(rows=70, vocab=1001, widths=(64, 96), scale=5.0, bias=True, softcap=softcap, dtype=dtype)
    found = p.to("cuda").with_gradients(logits=logits, **options)
    exact = p.to(torch.float64).with_gradients(implementation="reference", **options)
    found = found[0], [g.cpu() for g in found[1]]
    if dtype == torch.float32:
        assert_close(p, options, found, exact)
    else:
        # The hidden-space contrast and dL/dz are rounded to bfloat16 once, before their products. Logits of up to some
        # tens may be too, which weighs as ten roundings; the loss is a mean over rows.
        roundings = 1 if logits == "float32" else 10
        loss, gradient = (rounding(n, 1.0, torch.bfloat16) for n in (roundings / len(p.labels), roundings))
        assert found[0].loss.item() == pytest.approx(exact[0].loss.item(), rel=loss)
        assert all((a - b).norm() <= gradient * b.norm() for a, b in zip(found[1], exact[1]))
