"""Raw corpora to an instruction dataset.

    python -m instructrec_jax.build --config=configs/t5_base.py --output=datasets/mine

Writes OUTPUT (dataset.json, shards of JSON lines, rejected.jsonl.gz, datasheet.html, tokenizer/).
The same recipe and raw files give the same bytes, whatever the number of processes.
"""

from pathlib import Path

from absl import flags

from instructrec_jax.command_line import loaded_config, run, say
from instructrec_jax.errors import ConfigError
from instructrec_jax.instructions.building import build_from_config

_OUTPUT = flags.DEFINE_string("output", None, "Folder of the dataset to write.")


def main() -> None:
    """Build the dataset of `--config` into `--output` (else the config's own dataset folder)."""
    config, _ = loaded_config()
    output = _OUTPUT.value or config.dataset
    if not output:
        raise ConfigError("--output is missing: the folder of the dataset to write")
    summary = build_from_config(config, Path(output), say)
    say()
    say(f"dataset    {summary.output}")
    say(f"datasheet  {summary.output / 'datasheet.html'}")
    say(f"read it    zcat {summary.output}/train-*.jsonl.gz | head -3")


if __name__ == "__main__":
    run(main, needs_config=True)
