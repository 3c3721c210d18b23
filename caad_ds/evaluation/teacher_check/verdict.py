"""Whether a teacher is fit for contrastive distillation, and with which negative and alpha, in plain words."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from caad_ds.evaluation.scoring.metrics import CONFLICTS, metrics_of
from caad_ds.evaluation.scoring.scores import LEVEL, POOLED, score
from caad_ds.evaluation.teacher_check.generalisation import UNKNOWN, Heard, advice, comparison, course, finding
from caad_ds.evaluation.teacher_check.option_likelihoods import entropy
from caad_ds.evaluation.teacher_check.signals import Signal

# Below this share of the labels' entropy a negative favours one option for no reason that the text gives. Above it,
# the negative may still be foreign to the teacher: an even guess is a necessary sign, not a proof.
ENTROPY_SHARE = 0.7
# A contrast may cost this much neutral accuracy, the distance at which systems still compare.
NEUTRAL_TOLERANCE = 0.02
# From this gap between faithful and adversarial accuracy on, the text decides often enough to matter.
BIAS = 0.05
NEUTRAL = "neutral"
HINTED = (NEUTRAL, "faithful", "adversarial")  # what shows a contrast


@dataclass(frozen=True)
class Attribute:
    """What the teacher made of one attribute's rows: `likelihoods[signal]` [rows, conditions, options], `gt` [rows].

    Where rows have choices of their own, an option is a place among them.
    """

    name: str
    gt: np.ndarray
    likelihoods: dict[Signal, np.ndarray]

    def right(self, signal: Signal) -> np.ndarray:
        """bool [conditions, rows]: whether the right option is the likeliest."""
        return (self.likelihoods[signal].argmax(-1) == self.gt[:, None]).T

    @property
    def shares(self) -> np.ndarray:
        """The labels' distribution in the benchmark, [options]."""
        options = next(iter(self.likelihoods.values())).shape[-1]
        return np.bincount(self.gt, minlength=options) / len(self.gt)

    @property
    def label_entropy(self) -> float:
        """Entropy of the labels in nats."""
        shares = self.shares[self.shares > 0]
        return float(-(shares * np.log(shares)).sum())

    @property
    def heard(self) -> Heard:
        """The neutral answers of z_pos."""
        return Heard(self.right(Signal())[0], float(self.shares.max()))

    @property
    def audible(self) -> bool:
        """Whether the neutral accuracy of z_pos is above always saying the commonest label, beyond its 95% interval."""
        return self.heard.above_chance


def figures(attributes: list[Attribute], signal: Signal) -> dict:
    """Every metric of a signal per attribute and pooled, and in the neutral condition its entropy over the labels'."""
    named = {attribute.name: [attribute] for attribute in attributes}
    groups = {POOLED: attributes, **named}
    found = {}
    for name, members in groups.items():
        right = np.concatenate([attribute.right(signal) for attribute in members], axis=1)
        scores = score(right[None], metrics=metrics_of(len(right)))
        found[name] = {**scores, "entropy_share": _entropy_share(members, signal)}
    return found


def _entropy_share(attributes: list[Attribute], signal: Signal) -> float | None:
    said = np.concatenate([entropy(attribute.likelihoods[signal][:, 0]) for attribute in attributes]).mean()
    labels = sum(attribute.label_entropy * len(attribute.gt) for attribute in attributes)
    return float(said * sum(len(attribute.gt) for attribute in attributes) / labels) if labels else None


def judge(
    attributes: list[Attribute],
    table: dict[Signal, dict],
    training: Mapping[str, Heard] | None = None,
    losses: Mapping[int, float] | None = None,
) -> dict:
    """The verdict: `lines` of words, `negative` and `alpha` to take (None and 0: standard KD), and its grounds.

    `training` has the same teacher's neutral answers about clips that it was trained on, by attribute, and `losses` the
    validation losses of its run by step, where they are known.
    """
    audible = [attribute for attribute in attributes if attribute.audible]
    inaudible = [attribute.name for attribute in attributes if not attribute.audible]
    training = training or {}
    here = {attribute.name: attribute.heard for attribute in attributes}
    findings = {name: finding(heard, training.get(name)) for name, heard in here.items()}
    lines = [_hearing(attributes), *comparison(here, training)]
    if inaudible and (told := course(losses or {})):
        lines.append(told[0])
        findings = {name: told[1] if found == UNKNOWN else found for name, found in findings.items()}
    lines += [_bias(audible, inaudible)] if audible and _hinted(audible) else []
    fit = []
    for signal in table:
        if signal.negative is not None and signal.alpha is None:
            usable, line = _negative(audible or attributes, table, signal)
            lines.append(line)
            fit += usable
    best = _best(audible, fit)
    deaf = advice([findings[name] for name in inaudible])
    if audible and deaf:
        lines.append(f"About {', '.join(inaudible)}: {deaf}")
    lines.append(_advice(audible, best, bool(fit), deaf))
    return {
        "negative": best.negative if best else None,
        "alpha": best.alpha if best else 0.0,
        "inaudible": inaudible,
        "findings": findings,
        "lines": lines,
    }


def _hearing(attributes: list[Attribute]) -> str:
    deaf = [f"{a.name} ({a.heard}; commonest label {_points(a.shares.max())})" for a in attributes if not a.audible]
    if not deaf:
        return "The teacher hears every attribute: neutral accuracy is above the commonest label's share."
    return (
        f"The teacher does not hear {', '.join(deaf)}: neutral accuracy is not above the commonest label's share "
        "beyond its interval; there the contrast can only add noise, and shift has a floor."
    )


def _hinted(attributes: list[Attribute]) -> bool:
    """Whether rows were asked with hints too; without them nothing tells a text bias."""
    return len(attributes[0].right(Signal())) > 1


def _bias(audible: list[Attribute], inaudible: list[str]) -> str:
    faithful, adversarial = (_accuracy(audible, Signal(), c) for c in ("faithful", "adversarial"))
    gap = f"faithful {_points(faithful)}, adversarial {_points(adversarial)} on {_names(audible)}"
    floor = f"; a floor, not counted: {', '.join(inaudible)}" if inaudible else ""
    if _biased(audible):
        return f"There is a text bias to remove: {gap}{floor}."
    return f"There is little text bias to remove: {gap}{floor}."


def _biased(audible: list[Attribute]) -> bool:
    return _accuracy(audible, Signal(), "faithful") - _accuracy(audible, Signal(), "adversarial") >= BIAS


def _negative(attributes: list[Attribute], table: dict, neg: Signal) -> tuple[list[Signal], str]:
    """The contrasts with this negative that keep neutral accuracy on the attributes, and what to know about it."""
    contrasts = [s for s in table if s.negative == neg.negative and s.alpha is not None]
    floor = _accuracy(attributes, Signal(), "neutral") - NEUTRAL_TOLERANCE
    kept = [s for s in contrasts if _accuracy(attributes, s, "neutral") >= floor]
    spread, where = _distribution({a.name: table[neg][a.name]["entropy_share"] for a in attributes})
    neutral = _points(_accuracy(attributes, neg, "neutral"))
    lost = [f"{s.alpha:g}" for s in contrasts if s not in kept]
    cost = (
        f"neutral accuracy falls at alpha {', '.join(lost)}"
        if lost
        else "no alpha lowers neutral accuracy by likelihood, the attributes taken together"
    )
    line = f"{neg.negative}: {where}; neutral accuracy without audio {neutral}{_leak(attributes, neg)}; {cost}."
    return (kept if spread else []), line


def _distribution(shares: dict[str, float | None]) -> tuple[bool, str]:
    """Whether without audio the teacher guesses evenly about every attribute, and that in words."""
    known = {name: share or 0.0 for name, share in shares.items()}
    poor = ", ".join(f"{name} {share:.2f}" for name, share in known.items() if share < ENTROPY_SHARE)
    if poor:
        return False, f"outside the teacher's distribution (entropy without audio over the labels': {poor})"
    share, name = min((share, name) for name, share in known.items())
    return True, (
        f"in the teacher's distribution as far as entropy tells (without audio at least {share:.2f} of the labels', "
        f"the least for {name}: a necessary sign, not a proof)"
    )


def _leak(attributes: list[Attribute], neg: Signal) -> str:
    right = np.concatenate([attribute.right(neg)[0] for attribute in attributes])
    commonest = np.concatenate([np.full(len(a.gt), a.shares.max()) for a in attributes]).mean()
    leaks = Heard(right, float(commonest)).above_chance
    return ", above the commonest labels': the text alone gives answers away" if leaks else ""


def _best(audible: list[Attribute], fit: list[Signal]) -> Signal | None:
    """The contrast with the highest adversarial accuracy on audible attributes, or the highest accuracy where there are
    no hints, if it beats z_pos; ties: low alpha.

    None where there is little text bias: what a contrast gains there is noise.
    """
    if not audible or (_hinted(audible) and not _biased(audible)):
        return None
    gains = {signal: _gain(audible, signal).mean() for signal in fit}
    best = max(fit, key=lambda s: (gains[s], -(s.alpha or 0)), default=None)
    return best if best and gains[best] > 0 else None


def _gain(attributes: list[Attribute], signal: Signal) -> np.ndarray:
    k = CONFLICTS.conditions.index("adversarial") if _hinted(attributes) else 0
    both = [(a.right(signal)[k], a.right(Signal())[k]) for a in attributes]
    return np.concatenate([new.astype(float) - old for new, old in both])


def _advice(audible: list[Attribute], best: Signal | None, any_fit: bool, deaf: str) -> str:
    if not audible:
        return f"Do not distil from this teacher: it hears none of the attributes. {deaf}"
    hinted = _hinted(audible)
    if hinted and not _biased(audible):
        return (
            "Take standard KD (alpha 0): there is little text bias to remove, so a contrast has nothing to correct "
            "and is not recommended."
        )
    if not any_fit:
        return (
            "Take standard KD (alpha 0): no negative is fit for a contrast. Train the teacher with audio dropout, "
            "using the negative that distillation will use, and check again."
        )
    if best is None:
        raised = "adversarial accuracy" if hinted else "accuracy"
        return f"Take standard KD (alpha 0): no contrast raises {raised} on what the teacher hears.{_unhinted(hinted)}"
    gain = _gain(audible, best)
    sure = binomtest(int((gain > 0).sum()), int((gain != 0).sum())).pvalue < 1 - LEVEL  # McNemar's test
    changes = ", ".join(
        f"{c} {_points(_accuracy(audible, Signal(), c))} -> {_points(_accuracy(audible, best, c))}"
        for c in (HINTED if hinted else [NEUTRAL])
    )
    noise = "" if sure else f" The gain is within the noise of {len(gain)} items."
    taken = f"Take negative {best.negative} with alpha {best.alpha:g}"
    return f"{taken}: on {_names(audible)} {changes}.{noise}{_unhinted(hinted)}"


def _unhinted(hinted: bool) -> str:
    return "" if hinted else " This benchmark has no conflicting texts: it does not tell whether there is a text bias."


def _accuracy(attributes: list[Attribute], signal: Signal, condition: str) -> float:
    """Over the pooled rows of the attributes; `NEUTRAL` is the first condition of all benchmarks."""
    k = 0 if condition == NEUTRAL else CONFLICTS.conditions.index(condition)
    return np.concatenate([a.right(signal)[k] for a in attributes]).mean()


def _names(attributes: list[Attribute]) -> str:
    return ", ".join(attribute.name for attribute in attributes)


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
