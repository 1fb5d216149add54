"""A small synthesiser: one model that words instructions, answers them, and judges both.

    python -m instructrec_jax.build --config=configs/synthesiser.py --output=datasets/dates
    python -m instructrec_jax.build --config=configs/synthesiser.py --turn_round=datasets/dates \\
        --output=datasets/turned.jsonl
    python -m instructrec_jax.train --config=configs/synthesiser.py --dataset=datasets/turned.jsonl

Hardware: any CPU with two cores and 4 GB; the training takes about a quarter of an hour.
Result: runs/synthesiser, for `build --synthesiser=` and `--checkpoint=`; its figures stand in
docs/instruction_design.md.
"""

from ml_collections import ConfigDict

from configs import demo


def get_config() -> ConfigDict:
    """configs/demo.py with six of its tasks, and rows for examples turned round."""
    config = demo.get_config()
    config.workdir = "runs/synthesiser"
    config.dataset = "datasets/dates"
    config.build.tasks = (
        "translate_dates",
        "translate_relative_times",
        "normalise_date",
        "identify_language",
        "classify_change",
        "list_parameters",
    )
    config.build.holdout_tasks = ()
    config.build.max_examples_per_task = 2_500
    # A prompt for an instruction holds input and target, an answer the instruction and the target.
    config.data.encoder_length = 160
    config.train.steps = 900
    config.train.batch_size = 16
    config.checkpoint.every = 300
    config.evaluate.every = 450
    return config
