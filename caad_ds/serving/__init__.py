"""Models in use: asked from the command line."""
