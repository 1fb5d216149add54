"""Brings weights of the T5 family in from Hugging Face or T5X, and a trained model out.

    python -m instructrec_jax.convert --source=flan-t5-base --target=models/flan --to=orbax
    python -m instructrec_jax.convert --source=t5x/checkpoint_1000000 --target=models/t5 \
        --to=orbax --architecture=t5_1_1_small --tokenizer=spiece.model
    python -m instructrec_jax.convert --source=runs/demo --target=exported --to=hf

The source is a Hugging Face folder (config.json, safetensors in one file or several with an index,
the tokenizer's files), a T5X checkpoint, a run folder, one of its steps or a model folder.
`--to=orbax` writes a model folder for decode, evaluate and train; `--to=hf` a folder that
transformers loads. Adapters are merged.

Numbers keep their type, float32, float16 or bfloat16, unless --dtype names another. The plan, which
tensor becomes which parameter, goes to stderr before anything is written; with --dry_run nothing
is. One parameter is in memory at a time. Nothing is ever unpickled, and transformers is not needed.
"""

from pathlib import Path

from absl import flags

from instructrec_jax.command_line import run, say
from instructrec_jax.errors import ConfigError
from instructrec_jax.training.conversion import (
    KEEP,
    check_folders,
    open_source,
    parse_size,
    write_hugging_face,
    write_orbax,
)

_SOURCE = flags.DEFINE_string("source", None, "Folder to read.")
_TARGET = flags.DEFINE_string("target", None, "Folder to write; must not exist, or be empty.")
_TO = flags.DEFINE_enum("to", None, ["hf", "orbax"], "Format of the target.")
_DTYPE = flags.DEFINE_enum(
    "dtype", KEEP, [KEEP, "float32", "bfloat16", "float16"], "Type of the numbers that are written."
)
_MAX_SHARD_SIZE = flags.DEFINE_string(
    "max_shard_size", "5GB", "Largest safetensors file, as 500MB or 2GB."
)
_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Show the plan and write nothing.")
_ARCHITECTURE = flags.DEFINE_string(
    "architecture", "", "Of a T5X source: a name such as t5_1_1_base."
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "Folder or file of the tokenizer, for a source that has none."
)


def main() -> None:
    """The binary."""
    if not _SOURCE.value or not _TARGET.value or not _TO.value:
        raise ConfigError("give --source=FOLDER, --target=FOLDER and --to=hf or --to=orbax")
    max_shard_size = parse_size(_MAX_SHARD_SIZE.value)
    source, target = Path(_SOURCE.value), Path(_TARGET.value)
    check_folders(source, target)
    model = open_source(source, architecture=_ARCHITECTURE.value, tokenizer=_TOKENIZER.value)
    say(f"source: {model.description}")
    if _TO.value == "hf":
        write_hugging_face(
            model,
            target,
            dtype=_DTYPE.value,
            max_shard_size=max_shard_size,
            dry_run=_DRY_RUN.value,
            tell=say,
        )
    else:
        write_orbax(model, target, dtype=_DTYPE.value, dry_run=_DRY_RUN.value, tell=say)
    say("nothing is written (--dry_run)" if _DRY_RUN.value else f"written: {target}")


if __name__ == "__main__":
    run(main, needs_config=False)
