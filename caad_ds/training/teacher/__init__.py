"""The teacher of a run: its placement, its cache on disk, and filling that cache before training."""
