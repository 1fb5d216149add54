"""Instruction examples to packed batches: tokenizer, token cache, packing plan, tf.data."""
