"""Small models of each family with random weights and real processors, made offline: a module for each `model_type`."""
