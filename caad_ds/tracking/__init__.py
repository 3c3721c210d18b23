"""MLflow: where runs are logged, what they come from, and a tracker that never holds up or ends training."""

from caad_ds.tracking.run import Tracker
from caad_ds.tracking.target import Target

__all__ = ["Target", "Tracker"]
