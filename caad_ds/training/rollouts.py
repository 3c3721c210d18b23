"""Answers that the student draws during a run: what draws them, and warnings of answers that collapse."""

from collections.abc import Mapping

import torch

from caad_ds.config.on_policy_section import OnPolicySection
from caad_ds.config.schema import Config
from caad_ds.distill.gathered_copy import GatheredCopy
from caad_ds.distill.rollouts import Rollouts, forbidden_tokens
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.shared_vocabulary import SharedVocabulary

SHORT = 0.25  # of the pseudo ground truth's length
SURE = 0.01  # nats
RARE = 0.05  # share of answers that end


def build_rollouts(
    cfg: Config, student: AudioLM, shared: SharedVocabulary | None, device: torch.device
) -> Rollouts | None:
    """What draws the answers of a run, before the student's engine is there; None where the student writes none."""
    if not cfg.objective.draws:
        return None
    return Rollouts(cfg.objective, cfg.run.seed, GatheredCopy(student, device), forbidden_tokens(student, shared))


def rollout_warnings(values: Mapping[str, float], settings: OnPolicySection | None) -> list[str]:
    """What to say of the drawn answers behind a report, where they collapse or do not end."""
    if settings is None or "rollout/length" not in values:
        return []
    length, given = values["rollout/length"], values["rollout/given"]
    warnings = []
    if length < SHORT * given:
        warnings.append(
            f"drawn answers have {length:.1f} tokens where the pseudo ground truth has {given:.1f} "
            f"({values['rollout/empty']:.0%} are empty): the student may be collapsing to short answers"
        )
    if values["rollout/entropy"] < SURE:
        warnings.append(
            f"the student's entropy on drawn answers is {values['rollout/entropy']:.4f} nats "
            f"({values['rollout/distinct']:.0%} of them are distinct): it may be collapsing to few answers"
        )
    if values["rollout/ended"] < RARE and given < settings.max_new_tokens:
        warnings.append(
            f"{1 - values['rollout/ended']:.0%} of the drawn answers were cut at on_policy.max_new_tokens "
            f"{settings.max_new_tokens}: the student does not end its answers"
        )
    return warnings
