"""The whole paradigm in minutes on two CPU cores: what `make demo` runs.

    python -m instructrec_jax.train --config=configs/demo.py

Hardware: any CPU with two cores and 4 GB. A T5 of 4.2 million parameters learns, from
scratch, short tasks whose raw data lies on every machine with Python: dates, measures, amounts and
times in several languages, and small questions on Python code.
Result: README.md shows the table that this gives, the tasks where the model loses included.
"""

from ml_collections import ConfigDict

from configs import base
from instructrec_jax.instructions.templates import STYLES


def get_config() -> ConfigDict:
    """configs/base.py with short tasks, short rows and a small model."""
    config = base.get_config()
    config.workdir = "runs/demo"
    config.dataset = "datasets/demo"
    config.build.tasks = (
        "translate_dates",
        "translate_measures",
        "translate_relative_times",
        "translate_amounts",
        "translate_names",
        "normalise_date",
        "identify_language",
        "classify_change",
        "list_parameters",
        "predict_type",
    )
    config.build.holdout_tasks = ("translate_amounts",)
    config.build.languages = ("zh", "de", "ru")
    # A small model learns the tasks, not a second language of instructions besides.
    config.build.styles = tuple(style for style in STYLES if style != "chinese")
    config.build.max_examples_per_task = 5_000
    config.build.max_test_examples = 100
    config.build.test_fraction = 0.1
    config.tokenizer.vocabulary_size = 2_000
    config.data.encoder_length = 128
    config.data.decoder_length = 64
    config.model.name = "tiny"
    # Relative to each matrix: a new model moves far more in a step than a pretrained one should.
    config.optimizer.learning_rate = 0.03
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 50
    config.train.steps = 600
    config.train.loss_chunk = 16
    config.train.batch_size = 24
    config.train.log_every = 20
    config.checkpoint.every = 400
    config.evaluate.every = 200
    config.evaluate.examples = 256
    config.evaluate.max_new_tokens = 48
    return config
