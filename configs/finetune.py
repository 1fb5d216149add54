"""Fine-tuning of a released model, or of any other, on instructions.

    python -m instructrec_jax.train --config=configs/finetune.py:flan_t5_xl \\
        --init=DIR --dataset=FILE

DIR holds the model: a run, a checkpoint or a Hugging Face folder. The name is one in the table of
instructrec_jax/model/families.py, and DIR is checked against it. Without a name
(--config=configs/finetune.py) the architecture is DIR's, whatever it is.

The recipe is the T5 paper's (Raffel et al. 2020, section 3.1.3): Adafactor at a constant rate of
0.001 and dropout 0.1, which T5 1.1 was pretrained without; the batch is Flan-T5's, 64 rows (Chung
et al. 2022, appendix E).
Hardware, an estimate from the memory that --dry_run prints: one GPU or TPU core with 16 GB up to
300 million parameters and 40 GB up to a billion; the larger models are split over all devices: 8
GPUs with 40 GB for 3 billion, 32 for 11 billion, 64 for 20 billion.
Result: checkpoints, curves and samples in runs/finetune_NAME.
"""

from ml_collections import ConfigDict

from configs import base
from instructrec_jax.errors import ConfigError, nearest
from instructrec_jax.model.families import ARCHITECTURES, Architecture

# Parameters beyond which a model is split over the devices, and activations are recomputed.
_SPLIT = 1_500_000_000
_RECOMPUTED = 100_000_000


def get_config(name: str = "") -> ConfigDict:
    """configs/base.py for fine-tuning the architecture `name`; "" is the architecture of --init.

    Raises:
      ConfigError: a name that the table does not have.
    """
    config = base.get_config()
    config.workdir = f"runs/finetune_{name}" if name else "runs/finetune"
    config.model.name = name
    config.model.dropout_rate = 0.1
    config.optimizer.name = "adafactor"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "constant"
    config.train.steps = 10_000
    config.train.batch_size = 64
    # Logits of a few places at a time: a multilingual vocabulary has 250,000 of them for each.
    config.train.loss_chunk = 32
    # What serves a model of any size.
    config.model.remat = "full"
    config.mesh.data = 1
    config.mesh.fsdp = -1
    if name:
        if name not in ARCHITECTURES:
            hint = nearest(name, ARCHITECTURES)
            raise ConfigError(f"configs/finetune.py:{name}: no architecture of this name{hint}")
        _fit(config, ARCHITECTURES[name])
    return config


def _fit(config: ConfigDict, architecture: Architecture) -> None:
    """Mesh, recomputation, lengths and vocabulary for a known architecture."""
    count, vocabulary = architecture.parameter_count, architecture.vocabulary
    if count < _RECOMPUTED:
        config.model.remat = "none"
    if count < _SPLIT:
        config.mesh.data = -1
        config.mesh.fsdp = 1
        config.train.accumulation_steps = 4
    if vocabulary.kind == "bytes":
        # Some four bytes a token.
        config.data.encoder_length = 1024
        config.data.decoder_length = 512
    # For a run without --init; with it the tokenizer is the model's.
    config.tokenizer.kind = vocabulary.kind
    config.tokenizer.vocabulary_size = vocabulary.tokens
    config.tokenizer.sentinels = vocabulary.sentinels
