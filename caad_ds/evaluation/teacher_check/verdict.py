"""Decide whether a teacher is fit for contrastive distillation, and with which negative and alpha."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from caad_ds.evaluation.scoring.bootstrap_scores import LEVEL, POOLED, score
from caad_ds.evaluation.scoring.metric_definitions import CONFLICTS, metrics_of
from caad_ds.evaluation.teacher_check.contrast_signals import Signal
from caad_ds.evaluation.teacher_check.generalisation import (
    UNKNOWN,
    NeutralAnswers,
    advice,
    comparison,
    finding,
    loss_trend,
)
from caad_ds.evaluation.teacher_check.option_likelihoods import entropy
from caad_ds.utils.formatting import counted

# Below this share of the labels' entropy a negative favours one option although the text gives no reason for it. A
# higher entropy is necessary, not sufficient: the negative may still be out of distribution.
ENTROPY_SHARE = 0.7
# Neutral accuracy that a contrast may cost: systems within this distance are comparable.
NEUTRAL_TOLERANCE = 0.02
# Gap between faithful and adversarial accuracy from which on a text bias matters.
BIAS = 0.05
NEUTRAL = "neutral"
HINTED = (NEUTRAL, "faithful", "adversarial")  # the conditions that show the effect of a contrast


@dataclass(frozen=True, eq=False)
class Attribute:
    """Results of one attribute's rows: `likelihoods[signal]` [rows, conditions, options], `gt` [rows].

    If rows have their own choices, an option is an index into them.
    """

    name: str
    gt: np.ndarray
    likelihoods: dict[Signal, np.ndarray]

    def right(self, signal: Signal) -> np.ndarray:
        """Return whether the right option is the likeliest, bool [conditions, rows]."""
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
    def neutral(self) -> NeutralAnswers:
        """The neutral answers of z_pos."""
        return NeutralAnswers(self.right(Signal())[0], float(self.shares.max()))

    @property
    def audible(self) -> bool:
        """Whether the neutral accuracy of z_pos is above the share of the commonest label, beyond its 95% interval."""
        return self.neutral.above_chance

    @property
    def enough_rows(self) -> bool:
        """Whether there are enough rows to decide if the teacher hears the attribute.

        They would show it if every answer were right, or the answers are below chance, or there is a single label,
        with which no number of rows decides.
        """
        commonest = float(self.shares.max())
        below = self.neutral.interval[1] <= commonest
        return below or commonest == 1 or NeutralAnswers(np.ones(len(self.gt), bool), commonest).above_chance


def signal_metrics(attributes: list[Attribute], signal: Signal) -> dict:
    """Return every metric of a signal per attribute and pooled, and its neutral entropy over that of the labels."""
    named = {attribute.name: [attribute] for attribute in attributes}
    groups = {POOLED: attributes, **named}
    found = {}
    for name, members in groups.items():
        right = np.concatenate([attribute.right(signal) for attribute in members], axis=1)
        scores = score(right[None], metrics=metrics_of(len(right)))
        found[name] = {**scores, "entropy_share": _entropy_share(members, signal)}
    return found


def _entropy_share(attributes: list[Attribute], signal: Signal) -> float | None:
    answers = np.concatenate([entropy(attribute.likelihoods[signal][:, 0]) for attribute in attributes]).mean()
    labels = sum(attribute.label_entropy * len(attribute.gt) for attribute in attributes)
    return float(answers * sum(len(attribute.gt) for attribute in attributes) / labels) if labels else None


def judge(
    attributes: list[Attribute],
    table: dict[Signal, dict],
    training: Mapping[str, NeutralAnswers] | None = None,
    losses: Mapping[int, float] | None = None,
) -> dict:
    """Return the verdict: `lines` of text, the recommended `negative` and `alpha` (None and 0: standard KD), findings.

    `training` holds the teacher's neutral answers about its training clips, by attribute; `losses` the validation
    losses of its run by step, if known.
    """
    audible = [attribute for attribute in attributes if attribute.audible]
    inaudible = [attribute.name for attribute in attributes if not attribute.audible]
    training = training or {}
    here = {attribute.name: attribute.neutral for attribute in attributes}
    findings = {name: finding(answers, training.get(name)) for name, answers in here.items()}
    lines = [_hearing(attributes), *comparison(here, training)]
    if inaudible and (trend := loss_trend(losses or {})):
        line, trend_finding = trend
        lines.append(line)
        findings = {name: trend_finding if found == UNKNOWN else found for name, found in findings.items()}
    lines += [_bias(audible, inaudible)] if audible and _hinted(audible) else []
    fit = []
    for signal in table:
        if signal.negative is not None and signal.alpha is None:
            usable, line = _negative(audible or attributes, table, signal)
            lines.append(line)
            fit += usable
    best = _best(audible, fit)
    remedy = advice([findings[name] for name in inaudible])
    if audible and remedy:
        lines.append(f"About {', '.join(inaudible)}: {remedy}")
    lines.append(_advice(audible, best, bool(fit), remedy))
    return {
        "negative": best.negative if best else None,
        "alpha": best.alpha if best else 0.0,
        "inaudible": inaudible,
        "findings": findings,
        "lines": lines,
    }


def _hearing(attributes: list[Attribute]) -> str:
    named = {a: f"{a.name} ({a.neutral}; commonest label {_points(a.shares.max())})" for a in attributes}
    inaudible = [name for a, name in named.items() if not a.audible and a.enough_rows]
    unknown = [f"{name}, {counted(len(a.gt), 'row')}" for a, name in named.items() if not a.enough_rows]
    if not inaudible + unknown:
        return "The teacher hears every attribute: neutral accuracy is above the commonest label's share."
    lines = []
    if inaudible:
        lines.append(
            f"The teacher does not hear {', '.join(inaudible)}: neutral accuracy is not above the commonest label's "
            "share beyond its interval; there the contrast can only add noise, and its share of shift remains."
        )
    if unknown:
        lines.append(
            f"Too few rows to tell if the teacher hears {', '.join(unknown)}: all right answers would not show it. "
            "What follows treats it as not heard; check again with more rows before you rely on it."
        )
    return " ".join(lines)


def _hinted(attributes: list[Attribute]) -> bool:
    """Return whether there are rows with hints; without them a text bias cannot be measured."""
    return len(attributes[0].right(Signal())) > 1


def _bias(audible: list[Attribute], inaudible: list[str]) -> str:
    faithful, adversarial = (_accuracy(audible, Signal(), c) for c in ("faithful", "adversarial"))
    gap = f"faithful {_points(faithful)}, adversarial {_points(adversarial)} on {_names(audible)}"
    rest = f"; not counted, since not heard: {', '.join(inaudible)}" if inaudible else ""
    if _biased(audible):
        return f"There is a text bias to remove: {gap}{rest}."
    return f"There is little text bias to remove: {gap}{rest}."


def _biased(audible: list[Attribute]) -> bool:
    return _accuracy(audible, Signal(), "faithful") - _accuracy(audible, Signal(), "adversarial") >= BIAS


def _negative(attributes: list[Attribute], table: dict, neg: Signal) -> tuple[list[Signal], str]:
    """Return the contrasts with this negative that keep neutral accuracy, and a line about the negative."""
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
    """Return whether the teacher guesses evenly without audio about every attribute, and a description."""
    known = {name: share or 0.0 for name, share in shares.items()}
    poor = ", ".join(f"{name} {share:.2f}" for name, share in known.items() if share < ENTROPY_SHARE)
    if poor:
        return False, f"outside the teacher's distribution (entropy without audio over the labels': {poor})"
    share, name = min((share, name) for name, share in known.items())
    return True, (
        f"in the teacher's distribution by entropy (without audio at least {share:.2f} of the labels', "
        f"the least for {name}: a necessary sign, not a proof)"
    )


def _leak(attributes: list[Attribute], neg: Signal) -> str:
    right = np.concatenate([attribute.right(neg)[0] for attribute in attributes])
    commonest = np.concatenate([np.full(len(a.gt), a.shares.max()) for a in attributes]).mean()
    leaks = NeutralAnswers(right, float(commonest)).above_chance
    return ", above the commonest labels': the text alone gives answers away" if leaks else ""


def _best(audible: list[Attribute], fit: list[Signal]) -> Signal | None:
    """Return the contrast with the highest adversarial accuracy on audible attributes (without hints: the highest
    accuracy), if it beats z_pos; ties: the lowest alpha.

    None if there is little text bias: gains of a contrast are then noise.
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


def _advice(audible: list[Attribute], best: Signal | None, any_fit: bool, remedy: str) -> str:
    if not audible:
        return f"Do not distil from this teacher: it hears none of the attributes. {remedy}"
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
    significant = binomtest(int((gain > 0).sum()), int((gain != 0).sum())).pvalue < 1 - LEVEL  # McNemar's test
    changes = ", ".join(
        f"{c} {_points(_accuracy(audible, Signal(), c))} -> {_points(_accuracy(audible, best, c))}"
        for c in (HINTED if hinted else [NEUTRAL])
    )
    noise = "" if significant else f" The gain is within the noise of {len(gain)} items."
    taken = f"Take negative {best.negative} with alpha {best.alpha:g}"
    return f"{taken}: on {_names(audible)} {changes}.{noise}{_unhinted(hinted)}"


def _unhinted(hinted: bool) -> str:
    return "" if hinted else " This benchmark has no conflicting texts: it does not tell whether there is a text bias."


def _accuracy(attributes: list[Attribute], signal: Signal, condition: str) -> float:
    """Return the accuracy over the pooled rows of the attributes; `NEUTRAL` is the first condition of a benchmark."""
    k = 0 if condition == NEUTRAL else CONFLICTS.conditions.index(condition)
    return np.concatenate([a.right(signal)[k] for a in attributes]).mean()


def _names(attributes: list[Attribute]) -> str:
    return ", ".join(attribute.name for attribute in attributes)


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
