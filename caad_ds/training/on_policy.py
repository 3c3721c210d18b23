"""Build what draws a run's on-policy answers."""

import torch

from caad_ds.config.schema import Config
from caad_ds.distill.gathered_copy import GatheredCopy
from caad_ds.distill.rollouts import Rollouts, forbidden_tokens
from caad_ds.models.audio_lm import AudioLM
from caad_ds.models.shared_vocabulary import SharedVocabulary


def build_rollouts(
    cfg: Config, student: AudioLM, teacher: AudioLM | None, shared: SharedVocabulary | None, device: torch.device
) -> Rollouts | None:
    """Build the rollouts of a run, before the student's engine exists; None if the student draws no answers."""
    if not cfg.objective.draws:
        return None
    assert teacher is not None  # the config refuses a cache here
    forbidden = forbidden_tokens(student, teacher, shared)
    return Rollouts(cfg.objective, cfg.run.seed, GatheredCopy(student, device), forbidden)
