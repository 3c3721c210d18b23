"""Examples of the Python API, one short script per use."""
