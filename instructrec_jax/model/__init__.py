"""The T5 family in Flax Linen."""
