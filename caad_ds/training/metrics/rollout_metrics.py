"""What a run reports of answers that its student has drawn, and warnings where these collapse."""

from collections.abc import Iterable, Mapping
from itertools import chain

from caad_ds.config.on_policy_section import OnPolicySection
from caad_ds.distill.rollouts import Rollouts
from caad_ds.utils.ranks import gathered

SHORT = 0.25  # of the pseudo ground truth's length
SURE = 0.01  # nats
RARE = 0.05  # share of answers that end


def means_of(sums: Mapping[str, float], different: Iterable[int], tokens: float) -> dict[str, float]:
    """What is reported of drawn answers, from sums over all ranks: lengths in tokens, and shares of the answers.

    `same` is the share of an answer's tokens that stand in the pseudo ground truth at the same place; `given` the
    length that the pseudo ground truth has, as far as an answer may be drawn; `different` has a number for each.
    `token_share` is what was drawn as a share of the `tokens` of the samples that were read.
    """
    answers = sums.get("answers", 0.0)
    if not answers:
        return {}
    named = {"length": "tokens", **{name: name for name in ("given", "ended", "empty", "same")}}
    found = {f"rollout/{name}": sums[of] / answers for name, of in named.items()}
    drawn = {"rollout/tokens": sums["tokens"], "rollout/token_share": sums["tokens"] / tokens}
    return found | drawn | {"rollout/distinct": len(set(different)) / answers}


def report(rollouts: Rollouts | None, tokens: float) -> dict[str, float]:
    """The means of what all ranks have drawn since the last report, beside the `tokens` that they read.

    Every rank calls it.
    """
    if rollouts is None:
        return {}
    counts, different = rollouts.read_counts()
    found = gathered((counts, different))
    sums = {name: sum(each.get(name, 0.0) for each, _ in found) for name in found[0][0]}
    return means_of(sums, chain(*(numbers for _, numbers in found)), tokens)


def warnings(values: Mapping[str, float], settings: OnPolicySection | None) -> list[str]:
    """What to say of the drawn answers behind a report, where they collapse or do not end."""
    if settings is None or "rollout/length" not in values:
        return []
    length, given = values["rollout/length"], values["rollout/given"]
    told = []
    if length < SHORT * given:
        told.append(
            f"drawn answers have {length:.1f} tokens where the pseudo ground truth has {given:.1f} "
            f"({values['rollout/empty']:.0%} are empty): the student may be collapsing to short answers"
        )
    if values.get("rollout/entropy", SURE) < SURE:  # there is none where no step was applied
        told.append(
            f"the student's entropy on drawn answers is {values['rollout/entropy']:.4f} nats "
            f"({values['rollout/distinct']:.0%} of them are distinct): it may be collapsing to few answers"
        )
    if values["rollout/ended"] < RARE and given < settings.max_new_tokens:
        told.append(
            f"{1 - values['rollout/ended']:.0%} of the drawn answers were cut at on_policy.max_new_tokens "
            f"{settings.max_new_tokens}: the student does not end its answers"
        )
    return told
