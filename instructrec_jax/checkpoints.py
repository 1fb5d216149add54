"""Looks after the checkpoints of a run.

    python -m instructrec_jax.checkpoints list runs/demo
    python -m instructrec_jax.checkpoints verify runs/demo
    python -m instructrec_jax.checkpoints export runs/demo best --target=models/demo
    python -m instructrec_jax.checkpoints prune runs/demo --keep=2 --keep_steps=500,1000 --dry_run

`list` prints step, date, size, state and validation figures of every checkpoint, the damaged ones
and unfinished ones too; with --verify it reads them. `verify` reads every array of every checkpoint
and compares it with its fingerprint: exit code 4 where one is damaged. `export` writes the model of
one step, a number, "best" or "newest", as a model folder (--to=orbax) or for transformers
(--to=hf). `prune` removes all but the newest, the best, and those that --keep_steps names.
"""

import sys
from pathlib import Path

from absl import flags

from instructrec_jax.command_line import run, say
from instructrec_jax.errors import CheckpointError, ConfigError, nearest
from instructrec_jax.training.conversion import (
    check_folders,
    open_source,
    parse_size,
    write_hugging_face,
    write_orbax,
)
from instructrec_jax.training.disk_room import in_words
from instructrec_jax.training.inventory import Entry, inventory, prune, steps_folder, table, verify
from instructrec_jax.training.keeping import read_best, step_folders
from instructrec_jax.training.run_folder import claimed_run_folder

ACTIONS = ("list", "verify", "export", "prune")

_ACTION = flags.DEFINE_string("action", None, "list, verify, export or prune: the first word.")
_RUN = flags.DEFINE_string("run", None, "Run folder: the second word.")
_STEP = flags.DEFINE_string("step", None, "Step to export, or best or newest: the third word.")
_VERIFY = flags.DEFINE_boolean("verify", False, "With list: read every array.")
_TARGET = flags.DEFINE_string("target", None, "Folder to export to; must not exist, or be empty.")
_TO = flags.DEFINE_enum("to", "orbax", ["orbax", "hf"], "Format of an export.")
_MAX_SHARD_SIZE = flags.DEFINE_string(
    "max_shard_size", "5GB", "Largest safetensors file of an export, as 500MB or 2GB."
)
_KEEP = flags.DEFINE_integer("keep", None, "Newest checkpoints that prune leaves.", lower_bound=1)
_KEEP_STEPS = flags.DEFINE_list("keep_steps", [], "Steps that prune leaves besides.")
_DAMAGED = flags.DEFINE_boolean("damaged", False, "With prune: remove damaged ones too.")
_DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Say what would be done and do nothing.")


def main() -> None:
    """The binary."""
    if _ACTION.value not in ACTIONS:
        word = _ACTION.value or ""
        raise ConfigError(
            f"the first word must be one of {', '.join(ACTIONS)}, not {word!r}"
            f"{nearest(word, ACTIONS)}; for example: checkpoints list runs/demo"
        )
    if not _RUN.value:
        raise ConfigError(f"name the run folder: checkpoints {_ACTION.value} RUN")
    folder = steps_folder(Path(_RUN.value))
    {"list": _list, "verify": _verify, "export": _export, "prune": _prune}[_ACTION.value](folder)


def _list(folder: Path) -> None:
    entries = inventory(folder)
    if _VERIFY.value:
        entries = [verify(entry) for entry in entries]
    # stdout: the table is what was asked for.
    print(table(entries))


def _verify(folder: Path) -> None:
    entries = []
    for entry in inventory(folder):
        entries.append(verify(entry))
        say(f"{entries[-1].name}: {entries[-1].state}")
    damaged = [entry.name for entry in entries if entry.step is not None and not entry.verified]
    if damaged:
        raise CheckpointError(f"{folder}: {len(damaged)} damaged: {', '.join(damaged)}")
    if not any(entry.verified for entry in entries):
        raise CheckpointError(f"{folder} holds no checkpoint")


def _export(folder: Path) -> None:
    if not _STEP.value or not _TARGET.value:
        raise ConfigError("name the step and the target: checkpoints export RUN STEP --target=DIR")
    max_shard_size = parse_size(_MAX_SHARD_SIZE.value)
    source, target = _step(folder, _STEP.value), Path(_TARGET.value)
    check_folders(source, target)
    model = open_source(source)
    say(f"source: {model.description}")
    if _TO.value == "hf":
        write_hugging_face(
            model, target, max_shard_size=max_shard_size, dry_run=_DRY_RUN.value, tell=say
        )
    else:
        write_orbax(model, target, dry_run=_DRY_RUN.value, tell=say)
    say("nothing is written (--dry_run)" if _DRY_RUN.value else f"written: {target}")


def _step(folder: Path, word: str) -> Path:
    steps, best = step_folders(folder), read_best(folder)
    if word == "newest" and steps:
        return steps[max(steps)]
    if word == "best" and best is not None and best["step"] in steps:
        return steps[best["step"]]
    if word.isdecimal() and int(word) in steps:
        return steps[int(word)]
    if word == "best":
        raise CheckpointError(
            f"{folder}: which checkpoint is best is not known; a run with checkpoint.best_metric "
            "notes it"
        )
    raise CheckpointError(
        f"{folder} has no step {word}; there are {', '.join(map(str, steps)) or 'none'}"
    )


def _prune(folder: Path) -> None:
    if _KEEP.value is None:
        raise ConfigError("say how many stay: checkpoints prune RUN --keep=2")
    steps = step_folders(folder)
    unknown = [word for word in _KEEP_STEPS.value if not word.isdecimal() or int(word) not in steps]
    if unknown:
        raise ConfigError(
            f"--keep_steps: {folder} has no step {unknown[0]}; "
            f"there are {', '.join(map(str, steps)) or 'none'}"
        )
    with claimed_run_folder(folder.parent):
        removed = prune(
            folder,
            keep=_KEEP.value,
            keep_steps={int(word) for word in _KEEP_STEPS.value},
            damaged=_DAMAGED.value,
            dry_run=_DRY_RUN.value,
        )
    _tell_removed(removed)


def _tell_removed(removed: list[Entry]) -> None:
    verb = "would remove" if _DRY_RUN.value else "removed"
    for entry in removed:
        say(f"{verb} {entry.name} ({in_words(entry.size_bytes)})")
    total = in_words(sum(entry.size_bytes for entry in removed))
    say(f"{verb} {len(removed)} checkpoint(s), {total}")


def with_flags(arguments: list[str]) -> list[str]:
    """`list runs/demo --verify` as `--action=list --run=runs/demo --verify`."""
    names = ["action", "run", "step"]
    result = []
    for argument in arguments:
        if names and not argument.startswith("-"):
            argument = f"--{names.pop(0)}={argument}"
        else:
            # A word after a flag may be the flag's value.
            names = names if argument.startswith("-") and "=" in argument else []
        result.append(argument)
    return result


if __name__ == "__main__":
    sys.argv[1:] = with_flags(sys.argv[1:])
    run(main, needs_config=False)
