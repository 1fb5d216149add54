"""T5 1.1 base, 248 million parameters with T5's vocabulary, on the dataset of this machine.

    python -m instructrec_jax.train --config=configs/t5_base.py

Hardware, an estimate from the memory that --dry_run prints: one GPU or TPU core with 16 GB. A CPU
with 16 GB works, slowly.
Result: checkpoints, curves and samples in runs/t5_base; the dataset is built first where it is
missing. Trained from scratch, unless --init=DIR names a model of the same size.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """configs/base.py with the changes for this size."""
    config = base.get_config()
    config.workdir = "runs/t5_base"
    config.model.name = "t5_1_1_base"
    config.model.remat = "full"
    config.train.batch_size = 16
    return config
