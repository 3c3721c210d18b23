"""Standard KD (alpha 0) agrees with the losses of other libraries on the same tensors."""

import pytest
import torch

from tests.loss.conftest import close

pytestmark = pytest.mark.peers
TAU, SHARE = 2.0, 0.7
# Their beta is our mix; at its ends it is a KL divergence.
CASES = {0.0: {"divergence": "forward_kl"}, 0.3: {"divergence": "jsd", "mix": 0.3}, 1.0: {"divergence": "reverse_kl"}}


@pytest.mark.parametrize("beta", CASES)
def test_ligers_fused_linear_jsd(problem, beta):
    liger = pytest.importorskip("liger_kernel.chunked_loss", reason="Liger is not installed: pip install -e '.[peers]'")
    p = problem(rows=20, vocab=101, bias=True, masked=0.2, scale=3.0)
    expected, gradients = p.with_gradients(alpha=0.0, temperature=TAU, kd_weight=SHARE, **CASES[beta])
    theirs = liger.LigerFusedLinearJSDLoss(
        weight_hard_loss=1 - SHARE, weight_soft_loss=SHARE * TAU**2, beta=beta, temperature=TAU, compiled=False
    )
    heads = (p.student_head.weight, p.positive, p.teacher_head.weight)
    loss = theirs(p.student, *heads, p.labels, p.student_head.bias, p.teacher_head.bias)
    close(expected.loss, loss)
    for ours, other in zip(gradients, torch.autograd.grad(loss, p.parameters()), strict=True):
        close(ours, other)


@pytest.mark.parametrize("beta", CASES)
def test_trls_generalized_jsd(problem, beta):
    trl = pytest.importorskip("trl.experimental.gkd", reason="TRL is not installed: pip install -e '.[peers]'")
    p = problem(rows=20, vocab=101, bias=True, masked=0.2, scale=3.0, dtype=torch.float64)
    logits = p.student_head.logits(p.student), p.teacher_head.logits(p.positive)
    theirs = trl.GKDTrainer.generalized_jsd_loss(*logits, labels=p.labels, beta=beta, temperature=TAU)
    out = p.loss(alpha=0.0, temperature=TAU, kd_weight=1.0, **CASES[beta])
    close(out.loss, TAU**2 * theirs)
