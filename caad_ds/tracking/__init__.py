"""MLflow: where runs are logged, their origin, and a tracker that never delays or stops training."""

from caad_ds.tracking.run import Tracker
from caad_ds.tracking.target import Target

__all__ = ["Target", "Tracker"]
