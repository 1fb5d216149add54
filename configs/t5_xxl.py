"""T5 1.1 xxl, 11.1 billion parameters with T5's vocabulary, on the dataset of this machine.

    python -m instructrec_jax.train --config=configs/t5_xxl.py

Hardware, an estimate from the memory that --dry_run prints: 32 GPUs with 40 GB or 64 TPU
cores.
Result: checkpoints, curves and samples in runs/t5_xxl; the dataset is built first where it is
missing. Trained from scratch, unless --init=DIR names a model of the same size.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """configs/base.py with the changes for this size."""
    config = base.get_config()
    config.workdir = "runs/t5_xxl"
    config.model.name = "t5_1_1_xxl"
    config.model.remat = "full"
    config.train.batch_size = 128
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
