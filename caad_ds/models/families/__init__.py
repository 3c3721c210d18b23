"""What differs by family: a module for each `model_type` of a config.json, looked up by that name (docs/models.md)."""
