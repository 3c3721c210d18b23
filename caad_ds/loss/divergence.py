"""The divergences between the target q and the student's p, both distributions over the vocabulary at temperature tau.

With m = mix * q + (1 - mix) * p:

    forward_kl   KL(q || p)                                  CAAD, and Hinton et al. 2015
    reverse_kl   KL(p || q)                                  MiniLLM, Gu et al. 2024
    jsd          mix * KL(q || m) + (1 - mix) * KL(p || m)   GKD, Agarwal et al. 2024
    skewed_kl    KL(q || m)                                  DistiLLM, Ko et al. 2024
"""

import math

import torch
from torch import Tensor

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd", "skewed_kl")


def divergence(name: str, mix: float, log_q: Tensor, log_p: Tensor) -> Tensor:
    """The divergence of each row, [N], from log-probabilities [N, V], which must be finite; differentiable."""
    q, p = log_q.exp(), log_p.exp()
    if name == "reverse_kl":
        return _kl(p, log_p, log_q)
    if name == "forward_kl":
        return _kl(q, log_q, log_p)
    log_m = _log_mixture(mix, log_q, log_p)
    forward = _kl(q, log_q, log_m)
    return forward if name == "skewed_kl" else mix * forward + (1 - mix) * _kl(p, log_p, log_m)


def divergence_and_gradient(name: str, mix: float, log_q: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """The divergence of each row, [m], and its gradient in the student's logits over tau, [m, V].

    For a divergence D(p) with p = softmax(u): dD/du = p * (dD/dp - sum(p * dD/dp)). Not for the forward KL, whose
    gradient is p - q.
    """
    p, q = log_p.exp(), log_q.exp()
    if name == "reverse_kl":
        ratio = log_p - log_q
        value = (p * ratio).sum(-1)
        return value, ratio.sub_(value.unsqueeze(-1)).mul_(p)
    log_m = _log_mixture(mix, log_q, log_p)
    forward = (log_q - log_m).mul_(q).sum(-1)
    ratio = log_p - log_m
    if name == "skewed_kl":
        posterior = ratio.exp_().mul_(q)
        return forward, p.mul_(posterior.sum(-1, keepdim=True)).sub_(posterior).mul_(1 - mix)
    backward = (p * ratio).sum(-1)
    gradient = ratio.sub_(backward.unsqueeze(-1)).mul_(p).mul_(1 - mix)
    return mix * forward + (1 - mix) * backward, gradient


def _log_mixture(mix: float, log_q: Tensor, log_p: Tensor) -> Tensor:
    return torch.logaddexp(log_q + math.log(mix), log_p + math.log1p(-mix))


def _kl(a: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    return (a * (log_a - log_b)).sum(-1)
