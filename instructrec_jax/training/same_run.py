"""Whether a checkpoint is of the run that goes on or starts from it, told in figures if not."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from instructrec_jax.errors import CheckpointError, ConfigError
from instructrec_jax.model.config import COMPUTED_FIELDS, T5Config, padded_vocabulary_size
from instructrec_jax.training.checks import model_config, with_computed_fields
from instructrec_jax.training.model_folder import ModelFolder
from instructrec_jax.training.run import Run, identity


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, left value, right value) of each key that has not the same on both sides."""
    keys = sorted({*left, *right})
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def side_by_side(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    """A table of two configs; lines that differ begin with "*"."""
    rows: list[tuple[str, ...]] = [("", "checkpoint", "this run")]
    differing = {key for key, _, _ in differences(left, right)}
    for key in sorted({*left, *right}):
        mark = "* " if key in differing else "  "
        rows.append((mark + key, *(str(side.get(key, "-")) for side in (left, right))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def model_of_run(
    config: ConfigDict, initial: ModelFolder | None, *, vocabulary_size: int
) -> T5Config:
    """The architecture of the config, or of the model that the run starts from.

    Args:
      config: with the keys of configs/base.py.
      initial: of `config.init`.
      vocabulary_size: of the tokenizer, for a model that is new.

    Raises:
      ConfigError: both are named and differ, or a value is impossible.
    """
    if initial is None:
        return model_config(config, vocabulary_size=padded_vocabulary_size(vocabulary_size))
    if not config.model.name:
        return with_computed_fields(config, initial.config)
    asked = model_config(config, vocabulary_size=initial.config.vocabulary_size)
    computed = {name: getattr(asked, name) for name in COMPUTED_FIELDS}
    model = dataclasses.replace(initial.config, **computed)
    differing = differences(model.to_dict(), dataclasses.replace(asked, lora=None).to_dict())
    if differing:
        raise ConfigError(
            f"model.name={config.model.name} is not the model of {config.init}: "
            + ", ".join(f"{key} {theirs} there, {ours} here" for key, theirs, ours in differing)
        )
    return dataclasses.replace(model, lora=asked.lora)


def check_same_run(parts: Run, metadata: Mapping[str, Any], *, tell: Callable[[str], None]) -> None:
    """Refuses to go on from a checkpoint of another model, other data or another optimizer.

    Args:
      parts: the run.
      metadata: the checkpoint's.
      tell: given both model configs side by side where they differ.

    Raises:
      CheckpointError: another model or tokenizer made the checkpoint.
      ConfigError: the data, or what is trained, is not the checkpoint's.
    """
    _check_same_model(parts, metadata, tell)
    config = parts.config
    of_position = ("position", "bookmark")
    theirs = {key: v for key, v in metadata["identity"].items() if key not in of_position}
    differing = differences(theirs, identity(parts))
    # The plan's hash changes with whatever else is named, and what is drawn from data without
    # splits of their own with the seed.
    follows = {"plan", "dataset"} if "seed" in {key for key, _, _ in differing} else {"plan"}
    differing = [change for change in differing if change[0] not in follows] or differing
    of_data = {key for key, _, _ in differing} <= parts.data.identity(config).keys()
    if differing and not (of_data and config.data.allow_data_change):
        way_out = ", or --config.data.allow_data_change=true to go on" if of_data else ""
        raise ConfigError(
            f"this is not the run that {config.workdir} holds: "
            + ", ".join(f"{key} was {_word(old)}, is {_word(new)}" for key, old, new in differing)
            + f"; give another --workdir{way_out}"
        )


def _check_same_model(parts: Run, metadata: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    # How a model is computed may change between two parts of a run; its shapes may not.
    # Adapters are compared with all else that is trained.
    left_out = (*COMPUTED_FIELDS, "lora")
    models = (T5Config.from_dict(metadata["model"]), parts.model)
    theirs, ours = (
        {key: value for key, value in model.to_dict().items() if key not in left_out}
        for model in models
    )
    differing = differences(theirs, ours)
    if differing:
        tell(side_by_side(theirs, ours))
    if metadata["tokenizer"]["sha256"] != parts.data.tokenizer.sha256:
        differing.append(("tokenizer", metadata["tokenizer"]["sha256"][:12], "another one"))
    if differing:
        raise CheckpointError(
            f"the checkpoints in {parts.config.workdir} are of another model: "
            + ", ".join(f"{key} {there} there, {here} here" for key, there, here in differing)
            + "; give another --workdir"
        )


def _word(value: Any) -> Any:
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    return "off" if value is None else value
