"""The divergences between the target q and the student's p, both distributions over the vocabulary at temperature tau.

With m = mix * q + (1 - mix) * p:

    forward_kl   KL(q || p)                                  CAAD, and Hinton et al. 2015
    reverse_kl   KL(p || q)                                  MiniLLM, Gu et al. 2024
    jsd          mix * KL(q || m) + (1 - mix) * KL(p || m)   GKD, Agarwal et al. 2024
    skewed_kl    KL(q || m)                                  DistiLLM, Ko et al. 2024

Divergences are defined only here: a new one is a function and an entry of DIVERGENCES.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

import torch
from torch import Tensor

from caad_ds.utils.plugins import load_plugin


@dataclass(frozen=True)
class Divergence:
    """A divergence D of the student's p from the target q, row by row.

    Args:
        name: what messages call it.
        value: `value(log_q, log_p, mix)`: D of each row, [N], from finite log-probabilities [N, V], in differentiable
            operations; the definition that every implementation is tested against.
        step: `step(log_q, q, log_p, p, mix)`: D of each row, [m], and dD/du [m, V], u being the student's logits over
            tau; it may overwrite its arguments. Without it autograd differentiates `value`, in more time and memory.
        kernels: implementations besides reference and chunked: "triton" (triton_kernel.py), "native" (c_kernel.c).
        infinite_at_zero: whether D is infinite if q is 0, as outside a plausibility mask.
    """

    name: str
    value: Callable[[Tensor, Tensor, float], Tensor]
    step: Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]] | None = None
    kernels: frozenset[str] = frozenset()
    infinite_at_zero: bool = False

    def __call__(self, log_q: Tensor, log_p: Tensor, mix: float) -> Tensor:
        """Compute D of each row, [N]; differentiable."""
        value = self.value(log_q, log_p, mix)
        if value.shape != log_p.shape[:-1]:
            shape = tuple(log_p.shape)
            raise ValueError(f"divergence {self.name} gives {tuple(value.shape)} for {shape}, expected one value a row")
        return value

    def with_gradient(self, log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor, mix: float) -> tuple[Tensor, Tensor]:
        """Compute D of each row, [m], and dD/du [m, V]; it may overwrite its arguments."""
        if self.step is not None:
            return self.step(log_q, q, log_p, p, mix)
        with torch.enable_grad():
            leaf = log_p.detach().requires_grad_(True)
            value = self(log_q, leaf, mix)
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        # log p = u - log sum exp(u)
        return value.detach(), slope - p * slope.sum(-1, keepdim=True)


def forward_kl(log_q: Tensor, log_p: Tensor, mix: float = 0.5) -> Tensor:
    """Compute KL(q || p)."""
    return _kl(log_q, log_p)


def _forward_kl_step(log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    return torch.linalg.vecdot(q, log_q.sub_(log_p)), p.sub_(q)


# With p = softmax(u), dD/du = p * (dD/dp - sum(p * dD/dp)).


def _reverse_kl(log_q: Tensor, log_p: Tensor, mix: float) -> Tensor:
    return _kl(log_p, log_q)


def _reverse_kl_step(log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    ratio = log_p - log_q
    value = (p * ratio).sum(-1)
    return value, ratio.sub_(value.unsqueeze(-1)).mul_(p)


def _jsd(log_q: Tensor, log_p: Tensor, mix: float) -> Tensor:
    log_m = _log_mixture(log_q, log_p, mix)
    return mix * _kl(log_q, log_m) + (1 - mix) * _kl(log_p, log_m)


def _jsd_step(log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    log_m = _log_mixture(log_q, log_p, mix)
    forward = (log_q - log_m).mul_(q).sum(-1)
    ratio = log_p - log_m
    backward = (p * ratio).sum(-1)
    gradient = ratio.sub_(backward.unsqueeze(-1)).mul_(p).mul_(1 - mix)
    return mix * forward + (1 - mix) * backward, gradient


def _skewed_kl(log_q: Tensor, log_p: Tensor, mix: float) -> Tensor:
    return _kl(log_q, _log_mixture(log_q, log_p, mix))


def _skewed_kl_step(log_q: Tensor, q: Tensor, log_p: Tensor, p: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    log_m = _log_mixture(log_q, log_p, mix)
    forward = (log_q - log_m).mul_(q).sum(-1)
    posterior = (log_p - log_m).exp_().mul_(q)
    return forward, p.mul_(posterior.sum(-1, keepdim=True)).sub_(posterior).mul_(1 - mix)


def _log_mixture(log_q: Tensor, log_p: Tensor, mix: float) -> Tensor:
    return torch.logaddexp(log_q + math.log(mix), log_p + math.log1p(-mix))


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    return (log_a.exp() * (log_a - log_b)).sum(-1)


TRITON = frozenset({"triton"})
DIVERGENCES = {
    divergence.name: divergence
    for divergence in (
        Divergence("forward_kl", forward_kl, _forward_kl_step, TRITON | {"native"}),
        Divergence("reverse_kl", _reverse_kl, _reverse_kl_step, TRITON, infinite_at_zero=True),
        Divergence("jsd", _jsd, _jsd_step, TRITON),
        Divergence("skewed_kl", _skewed_kl, _skewed_kl_step, TRITON),
    )
}


def find_divergence(name: str | Divergence) -> Divergence:
    """Return the divergence with a name in DIVERGENCES or at `package.module:name`; a `Divergence` is returned as is.

    Raises:
        ValueError: naming the argument, its value and what was expected.
    """
    return name if isinstance(name, Divergence) else _named(str(name))


@cache
def _named(name: str) -> Divergence:
    if name in DIVERGENCES:
        return DIVERGENCES[name]
    expected = f"divergence is {name!r}, expected one of {', '.join(DIVERGENCES)}, or package.module:name of your own"
    if ":" not in name:
        near = get_close_matches(name, DIVERGENCES, n=1)
        raise ValueError(expected + (f"; did you mean {near[0]}?" if near else ""))
    try:
        loaded = load_plugin(name)
    except ImportError as error:
        raise ValueError(f"{expected}: {error}") from error
    if not isinstance(loaded, Divergence):
        raise ValueError(f"{expected}: that is no Divergence but a {type(loaded).__name__}")
    return loaded
