"""The Python API, a short script for each use."""
