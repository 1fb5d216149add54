"""A run folder with a tiny untrained model and a dataset file, for tests that need a checkpoint."""

import json
from pathlib import Path

import jax

from instructrec_jax.data.tokenizer_training import train_tokenizer
from instructrec_jax.model.config import padded_vocabulary_size, t5_config
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training.checkpoint import save_model

ENCODER_LENGTH, DECODER_LENGTH = 24, 12


def write_dataset(path: Path, *, test_examples: int = 8) -> Path:
    """Sums and numbers in Chinese: 40 training examples, then the test split."""
    records = []
    for index in range(40 + test_examples):
        is_test = index >= 40
        task = "add" if index % 2 else "chinese"
        target = f"The sum is {index + 3}." if index % 2 else "零一二三"[index // 2 % 4]
        records.append(
            {
                "id": f"{task}/{index}",
                "task": task,
                "instruction": f"Do {task}:",
                "input": f"{index} and 3",
                "target": target,
                "split": "test" if is_test else "train",
                "holdout": ("document" if index < 44 else "phrasing") if is_test else "",
            }
        )
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_run(folder: Path, dataset: Path) -> Path:
    """A run folder as training leaves it: config, metrics, and a checkpoint of step 30."""
    records = [json.loads(line) for line in dataset.read_text(encoding="utf-8").splitlines()]
    tokenizer = train_tokenizer(
        [f"{each['instruction']} {each['input']} {each['target']}" for each in records],
        vocabulary_size=340,
        sentinels=10,
        seed=0,
    )
    config = t5_config(
        "tiny",
        vocabulary_size=padded_vocabulary_size(tokenizer.vocabulary_size),
        d_model=32,
        head_size=8,
        d_ff=48,
        num_encoder_layers=1,
        num_decoder_layers=1,
        activation_dtype="float32",
    )
    folder.mkdir(parents=True)
    save_model(
        folder / "checkpoints" / "30",
        params=init_parameters(config, jax.random.key(0)),
        config=config,
        tokenizer=tokenizer,
        encoder_length=ENCODER_LENGTH,
        decoder_length=DECODER_LENGTH,
        step=30,
    )
    lines = [
        *(
            {
                "kind": "train",
                "step": step,
                "loss_per_token": 6 - step / 10,
                "tokens_per_second": 100.0,
            }
            for step in range(1, 31)
        ),
        {"kind": "validation", "step": 30, "loss_per_token": 3.25},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text(
        json.dumps({"config": {"dataset": str(dataset), "seed": 0}, "origins": {}})
    )
    return folder
