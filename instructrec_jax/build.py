"""Raw corpora to an instruction dataset.

    python -m instructrec_jax.build --config=configs/t5_base.py --output=datasets/mine

Your own corpora in place of the config's, by any reader of instructions/sources/__init__.py:

    python -m instructrec_jax.build --config=configs/base.py --output=datasets/mine \
        --corpus=markdown:docs --corpus=python:src,licence=MIT \
        --corpus='records:news.csv,licence=CC0-1.0,fields=title:headline|text:body'

Writes OUTPUT (dataset.json, shards of JSON lines, rejected.jsonl.gz, datasheet.html, tokenizer/).
The same recipe and raw files give the same bytes, whatever the number of processes.
"""

from pathlib import Path

from absl import flags

from instructrec_jax.command_line import loaded_config, run, say
from instructrec_jax.errors import ConfigError
from instructrec_jax.instructions.building import build_from_config
from instructrec_jax.instructions.sources import READERS
from instructrec_jax.instructions.sources.corpus import corpora_from_flags

_CORPUS = flags.DEFINE_multi_string(
    "corpus",
    [],
    "READER:PATH[,name=...][,licence=...][,OPTION=...]: a corpus to read in place of the config's "
    f"sources; may be given again. Readers: {', '.join(READERS)}. Several values of an option are "
    "written a|b, a field map name:column|name:column.",
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the dataset to write.")


def main() -> None:
    """Build the dataset of `--config` into `--output` (else the config's own dataset folder)."""
    config, _ = loaded_config()
    if _CORPUS.value:
        corpora = corpora_from_flags(_CORPUS.value)
        config.build.corpora = corpora
        config.build.sources = tuple(entry["name"] for entry in corpora)
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
