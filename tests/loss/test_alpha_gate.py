"""An alpha of each row's own: given as a tensor, or found by the text-certainty gate, in every implementation."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from caad_ds.loss import LMHead, c_kernel, contrast
from caad_ds.loss.alpha_gate import entropies, gated_alpha
from caad_ds.loss.divergence import DIVERGENCES
from tests.loss.conftest import close
from tests.tolerance import assert_close

pytestmark = [pytest.mark.numeric, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GATE = {"alpha_gate": "text_certainty", "gate_m": 8.0}
NAMES = ("reference", "chunked", "native", "triton")
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", NAMES)
# The contrast is formed in hidden space, or, where z_pos and z_neg are made separately, of logits.
FORMS = ("hidden", "plausibility", "softcap")
CASES = [(name, form) for name in NAMES for form in FORMS if name != "native" or form == "hidden"]
EVERY = pytest.mark.parametrize(("implementation", "form"), CASES)
DIVERGED = [
    (name, form, divergence.name)
    for name, form in CASES
    for divergence in DIVERGENCES.values()
    if (name != "native" or "native" in divergence.kernels)
    and not (form == "plausibility" and divergence.infinite_at_zero)
]


def made(problem, form, **shape):
    """A problem whose rows differ in how sure z_neg is, and the options of its form."""
    p = problem(**{"rows": 12, "vocab": 37, "bias": True, "softcap": 25.0 if form == "softcap" else None, **shape})
    p.negative = p.negative * torch.linspace(0.1, 12, len(p.negative), dtype=p.negative.dtype)[:, None]
    return p, {"plausibility": 0.1} if form == "plausibility" else {}


def run(p, implementation, **options):
    """Loss and gradients where the implementation can run, on a CPU in the end."""
    if implementation == "native" and c_kernel.unavailable():
        pytest.skip(c_kernel.unavailable())
    if implementation == "triton":
        pytest.importorskip("triton")
        p = p.to(DEVICE)
        options = {name: x.to(DEVICE) if torch.is_tensor(x) else x for name, x in options.items()}
    out, gradients = p.with_gradients(implementation=implementation, **options)
    return out, [gradient.cpu() for gradient in gradients]


def alphas(p, alpha, m):
    """The gate's formula, row by row."""
    found = []
    for z in p.to(torch.float64).teacher_head.logits(p.negative.double()):
        q = z.softmax(-1)
        entropy = -sum(v * math.log(v) for v in q.tolist() if v > 0)
        found.append(alpha * max(0.0, 1 - entropy / math.log(m)))
    return torch.tensor(found)


def test_the_formula():
    entropy = torch.tensor([0.0, math.log(2) / 2, math.log(2), 3.0, float("nan")])
    found = gated_alpha(entropy, 3.0, 2.0)
    assert found[:4].tolist() == [3.0, pytest.approx(1.5), 0.0, 0.0] and found[4].isnan()
    assert gated_alpha(torch.tensor([1.0]), 2.0, math.e**2).item() == pytest.approx(1.0)
    z = torch.tensor([[0.0, 0.0, -1e30], [0.0, -200.0, -1e4], [1.0, 1.0, 1.0]])
    assert entropies(z).tolist() == pytest.approx([math.log(2), 0, math.log(3)])
    assert entropies(torch.tensor([[0.0, -torch.inf], [torch.inf, 0.0], [torch.nan, 0.0]])).isnan().all()


@IMPLEMENTATIONS
def test_a_sure_text_gives_alpha_and_an_unsure_one_standard_distillation(problem, implementation):
    """By hand: logits are the hidden states; p_neg is one token in row 0, two equal ones in row 1 and more in row 2."""
    p = problem(rows=3, vocab=4, widths=(4, 4))
    p.student_head = p.teacher_head = LMHead(torch.eye(4))
    p.negative = torch.tensor([[0.0, 400, 0, 0], [0, 0, -400, -400], [0.0, 0, 0, 0.5]])
    out, _ = run(p, implementation, alpha=3.0, kd_weight=1.0, alpha_gate="text_certainty")
    z_c = torch.stack([4 * p.positive[0] - 3 * p.negative[0], p.positive[1], p.positive[2]])
    log_p = (p.student / 2).log_softmax(-1)
    expected = 4 * F.kl_div(log_p, (z_c / 2).log_softmax(-1), reduction="batchmean", log_target=True)
    assert out.kd.item() == pytest.approx(expected.item(), rel=1e-5)
    assert out.diagnostics["alpha"].item() == pytest.approx(3.0, abs=1e-5)


@pytest.mark.parametrize(("implementation", "form", "divergence"), DIVERGED)
def test_a_gate_is_the_tensor_of_its_alphas(problem, implementation, form, divergence):
    p, options = made(problem, form, masked=0.2)
    options |= {"divergence": divergence, "mix": 0.3}
    own = alphas(p, 2.0, 8.0)
    assert (own == 0).sum() > 1 and (own > 1.7).sum() > 1 and ((own > 0.2) & (own < 1.7)).sum() > 1
    exact = p.to(torch.float64).with_gradients(implementation="reference", alpha=own.double(), **options)
    for given in ({"alpha": 2.0, **GATE}, {"alpha": own}):
        out, gradients = run(p, implementation, **given, **options)
        close(out.kd.cpu(), exact[0].kd, torch.float32)
        assert out.diagnostics["alpha"].item() == pytest.approx(own[p.labels >= 0].sum().item(), rel=1e-5)
        assert set(out.diagnostics) - {"contrast_shift"} == set(exact[0].diagnostics) - {"contrast_shift"}
        for found, expected in zip(gradients, exact[1], strict=True):
            close(found, expected, torch.float32)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [1.5, 0.7])
def test_one_alpha_as_a_tensor_is_the_number_bit_for_bit(problem, implementation, form, dtype, alpha):
    p, options = made(problem, form, dtype=dtype)
    number = run(p, implementation, alpha=alpha, **options)
    rows = run(p, implementation, alpha=torch.full((12,), alpha, dtype=torch.float64), **options)
    assert rows[0].loss == number[0].loss and "alpha" not in number[0].diagnostics
    assert all(torch.equal(a, b) for a, b in zip(rows[1], number[1], strict=True))
    assert rows[0].diagnostics["alpha"].item() == pytest.approx(12 * alpha)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_contrast_of_rows_is_rounded_once(dtype):
    """As it is formed of hidden states on a GPU, whose products take bfloat16."""
    positive, negative = torch.randn(2, 200, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(contrast(positive, negative, torch.full((200,), 0.7)), contrast(positive, negative, 0.7))
    own = torch.linspace(0, 3, 200)
    wide = positive.double() + own.double()[:, None] * (positive.double() - negative.double())
    assert_close(contrast(positive, negative, own), wide, 1, 20.0, dtype)


@EVERY
@pytest.mark.parametrize("gate", [{"alpha": 2.0, **GATE}, {}])
def test_ignored_rows_may_hold_anything(problem, implementation, form, gate):
    found = []
    for value in (None, float("nan")):
        p, options = made(problem, form, masked=0.5)
        own, ignored = torch.linspace(0, 3, 12), p.labels == -100
        if value is not None:
            p.student[ignored] = p.positive[ignored] = p.negative[ignored] = value
            own[ignored] = value
        found.append(run(p, implementation, **({"alpha": own} | gate), **options))
    assert found[0][0].loss == found[1][0].loss
    assert found[0][0].diagnostics["alpha"] == found[1][0].diagnostics["alpha"]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@EVERY
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_shows(problem, implementation, form, value):
    for name in ("positive", "negative"):
        p, options = made(problem, form)
        getattr(p, name)[2, 0] = value
        assert run(p, implementation, alpha=2.0, **GATE, **options)[0].loss.isnan(), name


@EVERY
@pytest.mark.parametrize("value", [float("inf"), -1.0, 1e7])
def test_an_alpha_out_of_range_is_refused_or_shows(problem, implementation, form, value, monkeypatch):
    """On a GPU alphas are not looked at before, since that would wait for it."""
    p, options = made(problem, form)
    own = torch.ones(12)
    own[3] = value
    with pytest.raises(ValueError, match=r"^alpha is (inf|-1\.0|10000000\.0) in row 3, expected numbers in"):
        p.loss(implementation="chunked", alpha=own, **options)
    monkeypatch.setattr("caad_ds.loss.argument_checks.check_alphas", lambda *_: None)
    assert run(p, implementation, alpha=own, **options)[0].loss.isnan()


@EVERY
def test_an_alpha_of_nan_shows(problem, implementation, form):
    """As a gate makes of states that are not finite: the step is left out, and no rank ends alone."""
    p, options = made(problem, form)
    own = torch.ones(12)
    own[3] = float("nan")
    assert run(p, implementation, alpha=own, **options)[0].loss.isnan()


@IMPLEMENTATIONS
def test_over_a_shared_vocabulary(problem, implementation):
    """What a padded head has beyond the shared tokens does not make the text unsure."""
    p, _ = made(problem, "hidden", padding=(2, 40))
    cut = replace(p, teacher_head=p.teacher_head.first(37))
    out, _ = run(p, implementation, alpha=2.0, vocab_size=37, **GATE)
    assert out.diagnostics["alpha"].item() == pytest.approx(alphas(cut, 2.0, 8.0).sum().item(), rel=1e-5)
    assert abs(alphas(p, 2.0, 8.0).sum() - alphas(cut, 2.0, 8.0).sum()) > 0.05


BAD = {
    "alpha_gate is entropy, expected one of none, text_certainty": {"alpha_gate": "entropy"},
    "alpha_gate is text_certainty, expected none with alpha 0": {"alpha_gate": "text_certainty", "alpha": 0.0},
    "alpha_gate is text_certainty, expected none with a tensor alpha": {
        "alpha_gate": "text_certainty", "alpha": torch.ones(6),
    },
    "gate_m is 1.0, expected a finite number > 1": {"gate_m": 1.0},
    "gate_m is inf, expected": {"gate_m": math.inf},
    "gate_m is nan, expected": {"gate_m": math.nan},
    "gate_m is 2, expected": {"gate_m": "2"},
    r"alpha.shape is \(5,\), expected one number, or \[N\]": {"alpha": torch.ones(5)},
    r"alpha.shape is \(\), expected one number, or \[N\]": {"alpha": torch.tensor(1.0)},
    "alpha.dtype is torch.int64, expected": {"alpha": torch.ones(6, dtype=torch.int64)},
    "alpha.device is meta, expected cpu": {"alpha": torch.ones(6, device="meta")},
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_bad_input(problem, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        problem().loss(**BAD[message])


def test_rows_with_their_own_alpha_need_the_second_path(problem):
    p = problem()
    p.negative = None
    with pytest.raises(ValueError, match="teacher_neg is None"):
        p.loss(alpha=torch.zeros(6))
    assert p.loss(alpha=torch.zeros(6), kd_weight=0.0).loss.isfinite(), "the teacher is not looked at"
