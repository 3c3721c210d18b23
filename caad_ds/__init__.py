"""caad-ds: Contrastive Audio-Aware Distillation of speech language models on DeepSpeed.

The names in `__all__` are imported on first use: `import caad_ds` does not load PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # types of the names in `_MODULES`; keep both in sync
    from caad_ds.config.reading import load_config as load_config
    from caad_ds.config.schema import Config as Config
    from caad_ds.evaluation.comparison.compare import compare as compare
    from caad_ds.evaluation.comparison.result import Comparison as Comparison
    from caad_ds.evaluation.evaluate import evaluate as evaluate
    from caad_ds.generation.model import Model as Model
    from caad_ds.generation.model import load as load
    from caad_ds.loss.contrastive_target import contrast as contrast
    from caad_ds.loss.distillation import contrastive_distillation_loss as contrastive_distillation_loss
    from caad_ds.loss.divergence import Divergence as Divergence
    from caad_ds.loss.head import LMHead as LMHead
    from caad_ds.loss.objective import LossOutput as LossOutput
    from caad_ds.training.train_command import train as train
    from caad_ds.utils.errors import UserError as UserError

_MODULES = {
    "Comparison": "caad_ds.evaluation.comparison.result",
    "Config": "caad_ds.config.schema",
    "Divergence": "caad_ds.loss.divergence",
    "LMHead": "caad_ds.loss.head",
    "LossOutput": "caad_ds.loss.objective",
    "Model": "caad_ds.generation.model",
    "UserError": "caad_ds.utils.errors",
    "compare": "caad_ds.evaluation.comparison.compare",
    "contrast": "caad_ds.loss.contrastive_target",
    "contrastive_distillation_loss": "caad_ds.loss.distillation",
    "evaluate": "caad_ds.evaluation.evaluate",
    "load": "caad_ds.generation.model",
    "load_config": "caad_ds.config.reading",
    "train": "caad_ds.training.train_command",
}

__all__ = [*_MODULES]

if not TYPE_CHECKING:  # else a type checker would accept every name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
