"""DeepSpeed configurations, shipped as package data."""
