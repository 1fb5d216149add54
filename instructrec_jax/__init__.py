"""Instruction-tune T5-family encoder-decoder models in JAX, from raw data to evaluation."""
