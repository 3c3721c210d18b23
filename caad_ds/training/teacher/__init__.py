"""The teacher of a run: where it lies, its cache on disk, and the filling of that cache apart from a training."""
