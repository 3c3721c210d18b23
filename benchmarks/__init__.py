"""Benchmarks of caad-ds; a package, since another one's of this name may be installed."""
