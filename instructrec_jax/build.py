"""Raw corpora to an instruction dataset.

    python -m instructrec_jax.build --config=configs/t5_base.py --output=datasets/mine

Your own corpora in place of the config's, by any reader of instructions/sources/__init__.py:

    python -m instructrec_jax.build --config=configs/base.py --output=datasets/mine \
        --corpus=markdown:docs --corpus=python:src,licence=MIT \
        --corpus='records:news.csv,licence=CC0-1.0,fields=title:headline|text:body'

Instructions by a model that this project trained, beside those of the tasks, and instructions for
a task of your own from its examples (docs/instruction_design.md):

    python -m instructrec_jax.build --config=configs/base.py --output=datasets/mine \
        --synthesiser=runs/synthesiser
    python -m instructrec_jax.build --config=configs/base.py --output=datasets/turned.jsonl \
        --turn_round=datasets/mine
    python -m instructrec_jax.build --config=configs/base.py --output=proposed \
        --propose_instructions=reviews.csv --checkpoint=runs/mine
    python -m instructrec_jax.build --config=configs/base.py --output=curated.jsonl \
        --curate=datasets/mine --checkpoint=runs/mine

Writes OUTPUT (dataset.json, shards of JSON lines, rejected.jsonl.gz, datasheet.html, tokenizer/).
The same recipe and raw files give the same bytes, whatever the number of processes; a build that
was killed goes on when it is run again. On Apache Beam (pip install 'instructrec_jax[beam]') it is
the same dataset; docs/scaling_a_build.md says what is needed:

    python -m instructrec_jax.build --config=configs/base.py --output=/shared/mine \
        --runner=beam --beam_options=--runner=FlinkRunner
"""

from pathlib import Path

from absl import flags

from instructrec_jax.command_line import loaded_config, run, say
from instructrec_jax.errors import ConfigError
from instructrec_jax.instructions.building import RUNNERS, build_from_config
from instructrec_jax.instructions.sources import READERS
from instructrec_jax.instructions.sources.corpus import corpora_from_flags
from instructrec_jax.instructions.synthesis.backward import write_turned_round
from instructrec_jax.instructions.synthesis.corpus import Synthesis, add_synthesised_corpus
from instructrec_jax.instructions.synthesis.curated_file import write_curated
from instructrec_jax.instructions.synthesis.curation import CurationSettings
from instructrec_jax.instructions.synthesis.design import (
    DesignSettings,
    design_instructions,
    read_tasks,
)
from instructrec_jax.instructions.synthesis.generation import SynthesisSettings
from instructrec_jax.instructions.synthesis.likelihood import load_judge

_CORPUS = flags.DEFINE_multi_string(
    "corpus",
    [],
    "READER:PATH[,name=...][,licence=...][,OPTION=...]: a corpus to read in place of the config's "
    f"sources; may be given again. Readers: {', '.join(READERS)}. Several values of an option are "
    "written a|b, a field map name:column|name:column.",
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the dataset to write.")
_RUNNER = flags.DEFINE_enum(
    "runner", "local", RUNNERS, "Who does the work: processes of this machine, or Apache Beam."
)
_BEAM_OPTIONS = flags.DEFINE_multi_string(
    "beam_options", [], "An option of Beam's own, such as --runner=FlinkRunner; may be repeated."
)
_SYNTHESISER = flags.DEFINE_string(
    "synthesiser",
    None,
    "Checkpoint trained on a file of --turn_round: it words questions about the documents, which "
    "are judged by --checkpoint (else by itself) and go into the dataset beside the tasks.",
)
_DOCUMENTS = flags.DEFINE_integer(
    "synthesised_documents", 1_000, "Documents of each corpus that --synthesiser sees; 0 = all."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "The model that judges, for the flags that mention it."
)
_TURN_ROUND = flags.DEFINE_string(
    "turn_round",
    None,
    "Instruction dataset; --output becomes a file of its examples turned round, on which `train` "
    "makes a synthesiser. No dataset is built.",
)
_PROPOSE = flags.DEFINE_string(
    "propose_instructions",
    None,
    "Dataset, or table of inputs and targets; --output becomes a folder with a file of templates "
    "for each of its tasks, the likeliest under --checkpoint. No dataset is built.",
)
_CURATE = flags.DEFINE_string(
    "curate",
    None,
    "Instruction dataset; --output becomes a file of what --checkpoint has no objection to. No "
    "dataset is built.",
)
_FIELDS = flags.DEFINE_string(
    "fields", "", "input:COLUMN|target:COLUMN of the table of --propose_instructions."
)
_KEEP = flags.DEFINE_integer("keep", 10, "Instructions kept for each task.")


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
    commands = [flag.name for flag in (_SYNTHESISER, _TURN_ROUND, _PROPOSE, _CURATE) if flag.value]
    if len(commands) > 1:
        raise ConfigError(f"--{' and --'.join(commands)} are different commands; give one of them")
    if _CHECKPOINT.value and not (_SYNTHESISER.value or _PROPOSE.value or _CURATE.value):
        raise ConfigError("--checkpoint judges for --synthesiser, --propose_instructions, --curate")
    if _TURN_ROUND.value:
        write_turned_round(_TURN_ROUND.value, Path(output), progress=say)
        return
    if _CURATE.value:
        _curate(_CURATE.value, Path(output))
        return
    if _PROPOSE.value:
        _propose(_PROPOSE.value, Path(output), seed=config.seed)
        return
    if _SYNTHESISER.value:
        synthesiser = load_judge(_SYNTHESISER.value)
        judge = load_judge(_CHECKPOINT.value) if _CHECKPOINT.value else synthesiser
        settings = SynthesisSettings(seed=config.seed, documents=_DOCUMENTS.value)
        add_synthesised_corpus(config, Path(output), Synthesis(synthesiser, judge, settings), say)
    summary = build_from_config(
        config, Path(output), say, runner=_RUNNER.value, beam_options=_BEAM_OPTIONS.value
    )
    say()
    say(f"dataset    {summary.output}")
    say(f"datasheet  {summary.output / 'datasheet.html'}")
    say(f"read it    zcat {summary.output}/train-*.jsonl.gz | head -3")


def _curate(dataset: str, output: Path) -> None:
    """What the model leaves of a dataset."""
    if not _CHECKPOINT.value:
        raise ConfigError("--curate needs --checkpoint, the model that judges")
    judge = load_judge(_CHECKPOINT.value)
    write_curated(dataset, output, judge=judge, settings=CurationSettings(), progress=say)


def _propose(path: str, output: Path, *, seed: int) -> None:
    """Instructions for the tasks of the examples at `path`."""
    pairs = [part.partition(":") for part in _FIELDS.value.split("|") if part]
    design_instructions(
        read_tasks(path, fields={name: column for name, _, column in pairs}, progress=say),
        output,
        judge=load_judge(_CHECKPOINT.value) if _CHECKPOINT.value else None,
        settings=DesignSettings(seed=seed, keep=_KEEP.value),
        progress=say,
    )


if __name__ == "__main__":
    run(main, needs_config=True)
