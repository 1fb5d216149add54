"""T5 1.1 large, 783 million parameters with T5's vocabulary, on the dataset of this machine.

    python -m instructrec_jax.train --config=configs/t5_large.py

Hardware, an estimate from the memory that --dry_run prints: one GPU with 40 GB or 4 TPU cores.
Result: checkpoints, curves and samples in runs/t5_large; the dataset is built first where it is
missing. Trained from scratch, unless --init=DIR names a model of the same size.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """configs/base.py with the changes for this size."""
    config = base.get_config()
    config.workdir = "runs/t5_large"
    config.model.name = "t5_1_1_large"
    config.model.remat = "full"
    config.train.batch_size = 64
    config.train.accumulation_steps = 2
    return config
