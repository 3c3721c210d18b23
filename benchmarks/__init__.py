"""Benchmarks of caad-ds; a package, since another `benchmarks` may be installed."""
