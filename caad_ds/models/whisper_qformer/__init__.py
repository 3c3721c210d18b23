"""The modelling of a speech language model: Whisper encoder, Q-Former connector, causal LM.

These modules import PyTorch, transformers, NumPy and one another, nothing else, so that the folder can be copied into a
model's own and run there without this package.
"""
