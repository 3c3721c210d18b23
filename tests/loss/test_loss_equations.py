"""The loss against equations written here a second time, and against plain loops."""

import pytest
import torch
import torch.nn.functional as F

from caad_ds.loss import LMHead, contrast, contrastive_distillation_loss
from tests.loss.conftest import close

pytestmark = pytest.mark.numeric

IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["reference", "chunked"])


@IMPLEMENTATIONS
def test_gradient_is_the_closed_formula(implementation):
    """dL/dz_s = [lambda tau (p^tau - q) + (1 - lambda) (p - onehot(y))] / Z; with identity heads z is the hidden."""
    z_s, z_pos, z_neg = torch.randn(3, 9, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels, identity = torch.arange(9), LMHead(torch.eye(13, dtype=torch.float64))
    alpha, tau, share = 1.5, 2.0, 0.7
    z_s.requires_grad_(True)
    arguments = (z_s, identity, z_pos, z_neg, identity, labels)
    out = contrastive_distillation_loss(
        *arguments, alpha=alpha, temperature=tau, kd_weight=share, normalizer=20, implementation=implementation
    )
    out.loss.backward()
    p, p_tau = z_s.softmax(-1), (z_s / tau).softmax(-1)
    q = (((1 + alpha) * z_pos - alpha * z_neg) / tau).softmax(-1)
    expected = (share * tau * (p_tau - q) + (1 - share) * (p - F.one_hot(labels, 13))) / 20
    close(z_s.grad, expected.detach())


@IMPLEMENTATIONS
def test_alpha_zero_is_plain_distillation(problem, implementation):
    p = problem(rows=8, dtype=torch.float64)
    z_s, z_pos = p.student_head.logits(p.student), p.teacher_head.logits(p.positive)
    tau = 3.0
    kl = F.kl_div((z_s / tau).log_softmax(-1), (z_pos / tau).log_softmax(-1), reduction="batchmean", log_target=True)
    expected = 0.4 * tau**2 * kl + 0.6 * F.cross_entropy(z_s, p.labels)
    options = {"alpha": 0.0, "temperature": tau, "kd_weight": 0.4, "implementation": implementation}
    close(p.loss(**options).loss, expected)
    p.negative = None
    close(p.loss(**options).loss, expected)


@IMPLEMENTATIONS
def test_sharpened_distillation(problem, implementation):
    p = problem(rows=8, bias=True, dtype=torch.float64)
    p.negative = None
    z_s, z_pos = p.student_head.logits(p.student), p.teacher_head.logits(p.positive)
    expected = 4 * F.kl_div((z_s / 2).log_softmax(-1), (2.5 * z_pos / 2).softmax(-1), reduction="batchmean")
    out = p.loss(alpha=0.0, kd_weight=1.0, sharpen=1.5, implementation=implementation)
    close(out.loss, expected)


@IMPLEMENTATIONS
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "skewed_kl"])
@pytest.mark.parametrize("mix", [0.2, 0.5])
def test_divergences_between_the_same_two_distributions(problem, implementation, name, mix):
    p = problem(rows=8, dtype=torch.float64)
    student = (p.student_head.logits(p.student) / 2).softmax(-1)
    target = (contrast(p.teacher_head.logits(p.positive), p.teacher_head.logits(p.negative), 1.0) / 2).softmax(-1)
    mixture = mix * target + (1 - mix) * student

    def kl(a, b):
        return (a * (a / b).log()).sum(-1).mean()

    expected = {
        "forward_kl": kl(target, student),
        "reverse_kl": kl(student, target),
        "jsd": mix * kl(target, mixture) + (1 - mix) * kl(student, mixture),
        "skewed_kl": kl(target, mixture),
    }
    out = p.loss(kd_weight=1.0, divergence=name, mix=mix, implementation=implementation)
    close(out.loss, 4 * expected[name])


@IMPLEMENTATIONS
def test_plausibility_keeps_tokens_by_the_teachers_own_probability(problem, implementation):
    p = problem(rows=8, dtype=torch.float64)
    z_pos, z_neg = p.teacher_head.logits(p.positive), p.teacher_head.logits(p.negative)
    q = torch.zeros_like(z_pos)
    for row in range(8):
        p_pos = z_pos[row].softmax(-1)
        kept = (p_pos >= 0.3 * p_pos.max()).nonzero().squeeze(-1)
        assert 0 < len(kept) < 11
        q[row, kept] = ((2 * z_pos - z_neg)[row, kept] / 2).softmax(-1)
    expected = 4 * F.kl_div((p.student_head.logits(p.student) / 2).log_softmax(-1), q, reduction="batchmean")
    close(p.loss(kd_weight=1.0, plausibility=0.3, implementation=implementation).loss, expected)


@pytest.mark.parametrize("implementation", ["reference", "chunked", "native", "triton"])
def test_the_authors_formula(problem, implementation):
    """Their reduction: each sample's answer tokens are averaged, then the samples of the batch (method.md)."""
    p = problem(rows=9, dtype=torch.float64)
    alpha, tau, share = 1.5, 2.0, 0.7
    samples = [range(0, 2), range(2, 6), range(6, 9)]
    total = 0.0
    for rows in samples:
        h = p.positive[rows], p.negative[rows]
        z_c = (1 + alpha) * p.teacher_head.logits(h[0]) - alpha * p.teacher_head.logits(h[1])
        z_s = p.student_head.logits(p.student[rows])
        kl = F.kl_div(F.log_softmax(z_s / tau, -1), F.softmax(z_c / tau, -1), reduction="batchmean")
        total += (share * tau**2 * kl + (1 - share) * F.cross_entropy(z_s, p.labels[rows])) / len(samples)
    sample_of_row = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2])
    options = {"alpha": alpha, "temperature": tau, "kd_weight": share, "reduction": "sample"}
    if implementation in ("native", "triton"):
        p, total = p.to(torch.float32), total.float()
    if implementation == "triton" and torch.cuda.is_available():
        p, sample_of_row, total = p.to("cuda"), sample_of_row.cuda(), total.cuda()
    out = p.loss(sample_of_row=sample_of_row, implementation=implementation, **options)
    close(out.loss, total)


@IMPLEMENTATIONS
@pytest.mark.parametrize("normalizer", [None, 7, torch.tensor(7.0)])
def test_sample_reduction_is_a_mean_of_means(problem, implementation, normalizer):
    p = problem(rows=9, dtype=torch.float64)
    p.labels[[2, 8]] = -100
    sample_of_row = torch.tensor([4, 4, 4, 0, 0, 9, 9, 9, 2])  # the only row of sample 2 is ignored
    options = {"implementation": implementation, "reduction": "sample", "sample_of_row": sample_of_row}
    means = []
    for rows in ([0, 1], [3, 4], [5, 6, 7]):
        alone = problem(rows=9, dtype=torch.float64)
        alone.student, alone.positive, alone.negative = alone.student[rows], alone.positive[rows], alone.negative[rows]
        alone.labels = alone.labels[rows]
        means.append(alone.loss(implementation=implementation).loss)
    expected = sum(means) / (3 if normalizer is None else 7)
    close(p.loss(normalizer=normalizer, **options).loss, expected)


@IMPLEMENTATIONS
@pytest.mark.parametrize("reduction", ["token", "sample"])
def test_token_weights_scale_each_rows_share(problem, implementation, reduction):
    """Weights of 0 and 2 on two halves give twice the second half's share, whatever an ignored row's weight is."""
    options = {"implementation": implementation, "reduction": reduction, "sample_of_row": torch.arange(8) // 2}
    p, half = problem(rows=8, dtype=torch.float64), problem(rows=8, dtype=torch.float64)
    p.labels[7] = half.labels[7] = -100
    half.labels[:4] = -100
    weights = torch.tensor([0.0, 0, 0, 0, 2, 2, 2, float("nan")])
    normalizer = {"token": 7, "sample": 4}[reduction]
    expected, gradient = half.with_gradients(normalizer=normalizer / 2, **options)
    found, found_gradient = p.with_gradients(token_weights=weights, **options)
    for name in ("loss", "kd", "ce"):
        close(getattr(found, name), getattr(expected, name))
    close(found_gradient[0], gradient[0])
    assert found.diagnostics["rows"] == 7


@IMPLEMENTATIONS
@pytest.mark.parametrize("reduction", ["token", "sample"])
def test_micro_batches_under_one_normalizer_add_up(problem, implementation, reduction):
    """Loss, terms, gradients and diagnostics of two parts add up to those of all rows."""
    whole = problem(rows=10, masked=0.2, dtype=torch.float64)
    samples = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2, 3])
    options = {"implementation": implementation, "reduction": reduction, "normalizer": 6}
    expected, gradient = whole.with_gradients(sample_of_row=samples, **options)
    outputs, gradients = [], []
    for rows in (slice(0, 5), slice(5, 10)):
        part = problem(rows=10, masked=0.2, dtype=torch.float64)
        part.student, part.positive, part.negative = part.student[rows], part.positive[rows], part.negative[rows]
        part.labels = part.labels[rows]
        output, found = part.with_gradients(sample_of_row=samples[rows], **options)
        outputs.append(output)
        gradients.append(found)
    for name in ("loss", "kd", "ce"):
        close(sum(getattr(o, name) for o in outputs), getattr(expected, name))
    for name, value in expected.diagnostics.items():
        close(sum(o.diagnostics[name] for o in outputs), value)
    close(torch.cat([g[0] for g in gradients]), gradient[0])
    close(gradients[0][1] + gradients[1][1], gradient[1])


@IMPLEMENTATIONS
def test_diagnostics(problem, implementation):
    p = problem(rows=30, masked=0.2, softcap=5.0, scale=3.0, dtype=torch.float64)
    found = p.loss(implementation=implementation).diagnostics
    keep = p.labels != -100
    z_s, z_pos, z_neg = (
        head.logits(h[keep])
        for head, h in ((p.student_head, p.student), (p.teacher_head, p.positive), (p.teacher_head, p.negative))
    )
    q, p_pos, p_s = (z.div(2).softmax(-1) for z in (contrast(z_pos, z_neg, 1.0), z_pos, z_s))
    expected = {
        "rows": keep.sum(),
        "token_accuracy": (z_s.argmax(-1) == p.labels[keep]).sum(),
        "agreement": (z_s.argmax(-1) == q.argmax(-1)).sum(),
        "student_entropy": -(p_s * p_s.log()).sum(),
        "teacher_entropy": -(q * q.log()).sum(),
        "contrast_shift": (q * (q / p_pos).log()).sum(),
    }
    assert set(found) == set(expected)
    for name, value in expected.items():
        close(found[name], value.double())


def test_contrast_shift_only_where_z_pos_is_there(problem):
    assert "contrast_shift" not in problem().loss().diagnostics
    assert "contrast_shift" in problem().loss(plausibility=0.1).diagnostics
    assert "contrast_shift" in problem(softcap=5.0).loss().diagnostics
