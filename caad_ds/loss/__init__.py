"""The objective of contrastive audio-aware distillation."""

from caad_ds.loss.contrastive_target import contrast
from caad_ds.loss.distillation import contrastive_distillation_loss
from caad_ds.loss.divergence import Divergence
from caad_ds.loss.head import LMHead
from caad_ds.loss.objective import LossOutput

__all__ = ["Divergence", "LMHead", "LossOutput", "contrast", "contrastive_distillation_loss"]
