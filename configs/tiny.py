"""A tiny T5, 5 million parameters at most: for tests, own small files and a first look.

    python -m instructrec_jax.train --config=configs/tiny.py --dataset=examples.jsonl

Hardware: any CPU. Result: a run folder runs/tiny after a few minutes.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """configs/base.py with a model and rows that a CPU can train."""
    config = base.get_config()
    config.workdir = "runs/tiny"
    config.model.name = "tiny"
    config.model.activation_dtype = "float32"
    config.tokenizer.vocabulary_size = 4_000
    config.data.encoder_length = 256
    config.data.decoder_length = 128
    # Relative to each matrix: a new model moves far more in a step than a pretrained one should.
    config.optimizer.learning_rate = 0.03
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.train.steps = 500
    config.train.batch_size = 16
    config.checkpoint.every = 100
    config.evaluate.every = 100
    return config
