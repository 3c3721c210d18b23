"""Metrics of the answers that a run's student has drawn, and warnings when these collapse."""

from collections.abc import Iterable, Mapping
from itertools import chain

from caad_ds.config.on_policy_section import OnPolicySection
from caad_ds.distill.rollouts import Rollouts
from caad_ds.utils.ranks import gathered

SHORT = 0.25  # of the pseudo ground truth's length
SURE = 0.01  # nats
RARE = 0.05  # share of answers that end


def means_of(sums: Mapping[str, float], different: Iterable[int], tokens: float) -> dict[str, float]:
    """Return metrics of drawn answers, from sums over all ranks: lengths in tokens, and shares of the answers.

    `same` is the share of an answer's tokens that the pseudo ground truth has at the same position; `longer` the share
    of answers with more tokens than their pseudo ground truth; `given` the length of the pseudo ground truth, up to the
    longest answer that may be drawn; `different` has a number for each distinct answer. `token_share` is the number of
    drawn tokens over the `tokens` of the samples that were read.
    """
    answers = sums.get("answers", 0.0)
    if not answers:
        return {}
    named = {"length": "tokens", **{name: name for name in ("given", "ended", "empty", "longer", "same")}}
    means = {f"rollout/{name}": sums[of] / answers for name, of in named.items()}
    drawn = {"rollout/tokens": sums["tokens"], "rollout/token_share": sums["tokens"] / tokens}
    return means | drawn | {"rollout/distinct": len(set(different)) / answers}


def report(rollouts: Rollouts | None, tokens: float) -> dict[str, float]:
    """Return metrics of what all ranks have drawn since the last report, while they read `tokens`.

    Every rank calls it.
    """
    if rollouts is None:
        return {}
    counts, different = rollouts.read_counts()
    ranks = gathered((counts, different))
    sums = {name: sum(counted.get(name, 0.0) for counted, _ in ranks) for name in ranks[0][0]}
    return means_of(sums, chain(*(numbers for _, numbers in ranks)), tokens)


def warnings(values: Mapping[str, float], settings: OnPolicySection | None) -> list[str]:
    """Return warnings about the drawn answers behind a report: they collapse, or do not end."""
    if settings is None or "rollout/length" not in values:
        return []
    length, given = values["rollout/length"], values["rollout/given"]
    messages = []
    if length < SHORT * given:
        messages.append(
            f"drawn answers have {length:.1f} tokens where the pseudo ground truth has {given:.1f} "
            f"({values['rollout/empty']:.0%} are empty): the student may be collapsing to short answers"
        )
    if values.get("rollout/entropy", SURE) < SURE:  # missing if no step was applied
        messages.append(
            f"the student's entropy on drawn answers is {values['rollout/entropy']:.4f} nats "
            f"({values['rollout/distinct']:.0%} of them are distinct): it may be collapsing to few answers"
        )
    if values["rollout/ended"] < RARE and given < settings.max_new_tokens:
        messages.append(
            f"{1 - values['rollout/ended']:.0%} of the drawn answers were cut at on_policy.max_new_tokens "
            f"{settings.max_new_tokens}: the student does not end its answers"
        )
    return messages
