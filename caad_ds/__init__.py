"""caad-ds: Contrastive Audio-Aware Distillation of speech language models on DeepSpeed."""

__version__ = "0.1.0"
