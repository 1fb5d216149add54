"""Low-rank adapters for a model that is there: little memory, small checkpoints.

    python -m instructrec_jax.train --config=configs/lora.py --init=DIR --dataset=DIR

`--init` takes a run, a model folder of `convert` or a Hugging Face folder; its architecture and
tokenizer are the run's.
Hardware, an estimate: what the model takes to decode, and a tenth of what full training adds.
Result: a run folder runs/lora whose checkpoints hold the adapters alone. decode, evaluate and
convert read them as the whole model, for as long as the folder of --init is where it was.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """configs/base.py with adapters on every projection, trained by AdamW."""
    config = base.get_config()
    config.workdir = "runs/lora"
    config.model.name = ""
    config.model.frozen_dtype = "bfloat16"
    config.lora.rank = 16
    config.lora.alpha = 32.0
    config.lora.dropout = 0.05
    config.optimizer.name = "adamw"
    # Adapters take larger steps than whole matrices do.
    config.optimizer.learning_rate = 3e-4
    config.optimizer.schedule = "linear"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0
    config.train.steps = 3_000
    return config
