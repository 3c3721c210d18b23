"""Estimate what a run needs, from its config and architectures: no weights, no GPU (`caad-ds plan`)."""
