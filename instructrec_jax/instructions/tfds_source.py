"""Instruction examples from a dataset of TensorFlow Datasets and three templates.

A recipe file, NAME.tfds.json, stands wherever a file of examples does:

    {"name": "glue/sst2:2.0.0", "splits": {"train": "train", "test": "validation"},
     "instruction": "Is this review positive or negative?", "input": "{{ sentence }}",
     "target": "{{ label }}"}

The templates are as strict as those of the template bank: no calls, a few filters, no loop over a
text (templates.py). "task" and "data_dir" may be added. A token cache made from a recipe is made
again when the files of the dataset in that folder (without "data_dir": TFDS_DATA_DIR, or
~/tensorflow_datasets) change. Only prepared data are read: nothing is downloaded. Records keep
the order of the files.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

# TensorFlow has to be set up before tensorflow_datasets loads it.
import instructrec_jax.data.tensorflow_cpu  # noqa: F401  isort: skip
import tensorflow_datasets as tfds

from instructrec_jax.errors import DataError, nearest
from instructrec_jax.instructions.example import SPLITS, InstructionExample, Provenance
from instructrec_jax.instructions.templates import compiled, rendered

_REQUIRED = ("name", "splits", "instruction", "target")
_OPTIONAL = ("input", "task", "data_dir")


def read_recipe(recipe: Mapping[str, Any], *, place: str) -> Iterator[InstructionExample]:
    """Yield the examples of every split that a recipe names.

    Args:
        recipe: the contents of a recipe file, see above.
        place: the file, for errors.

    Raises:
        DataError: a key that is missing, unknown or of the wrong type, or what `read_tfds` refuses.
    """
    for key in _REQUIRED:
        if key not in recipe:
            raise DataError(f"{place}: the TFDS recipe lacks {key!r}")
    for key, value in recipe.items():
        if key not in _REQUIRED + _OPTIONAL:
            raise DataError(f"{place}: unknown key {key!r}{nearest(key, _REQUIRED + _OPTIONAL)}")
        if not isinstance(value, dict if key == "splits" else str):
            raise DataError(f"{place}: {key!r} has the wrong type")
    if ":" not in recipe["name"]:
        # Without a version the data could change under a token cache made from it.
        raise DataError(f"{place}: give the version too, such as {recipe['name']}:1.0.0")
    for split, tfds_split in recipe["splits"].items():
        if split not in SPLITS:
            raise DataError(f"{place}: split {split!r} is not one of {', '.join(SPLITS)}")
        for example in read_tfds(
            recipe["name"],
            split=tfds_split,
            instruction_template=recipe["instruction"],
            input_template=recipe.get("input", ""),
            target_template=recipe["target"],
            task=recipe.get("task", ""),
            data_dir=Path(recipe["data_dir"]) if "data_dir" in recipe else None,
        ):
            yield dataclasses.replace(example, split=split)


def read_tfds(
    name: str,
    *,
    split: str,
    instruction_template: str,
    target_template: str,
    input_template: str = "",
    task: str = "",
    data_dir: Path | None = None,
) -> Iterator[InstructionExample]:
    """Yield one example for each record.

    Args:
        name: of the dataset, with config and version if need be: "glue/mnli:2.0.0".
        split: in the language of TFDS, such as "train" or "train[:1%]".
        instruction_template: Jinja text over the record's features, as in
            "Translate to German: {{ en }}". Text comes as text, a class label as its name, numbers
            and lists as such.
        target_template: likewise; must not come out empty.
        input_template: likewise, "" for no input.
        task: of the examples; the dataset's name where empty.
        data_dir: where the datasets are; None = TFDS's own default.

    Raises:
        DataError: the dataset or split is not there, a template is no Jinja or asks for a feature
            that is not there, or a target is empty.
    """
    builder = prepared_builder(name, data_dir)
    templates = [
        _compile(label, text)
        for label, text in (
            ("instruction", instruction_template),
            ("input", input_template),
            ("target", target_template),
        )
    ]
    for record in _records(builder, name, split):
        place = record.pop("tfds_id").decode()
        fields = _readable(record, builder.info.features)
        instruction, input_text, target = (
            _render(template, fields, place=f"{name} {place}") for template in templates
        )
        if not target.strip():
            raise DataError(f"{name} {place}: the target comes out empty")
        base_split = split.partition("[")[0]
        yield InstructionExample(
            id=place,
            task=task or builder.name,
            instruction=instruction,
            input=input_text,
            target=target,
            split=base_split if base_split in SPLITS else "",
            target_source="intrinsic",
            provenance=_provenance(builder, place, fields),
        )


def _records(builder: Any, name: str, split: str) -> Iterator[dict[str, Any]]:
    """The records of a split as NumPy values, with their place as "tfds_id"."""
    # Read once, so never kept in memory.
    reading = tfds.ReadConfig(add_tfds_id=True, try_autocache=False)
    try:
        dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=reading)
    except ValueError as error:
        splits = ", ".join(builder.info.splits)
        raise DataError(f"{name} has no split {split!r}; it has {splits} ({error})") from error
    yield from tfds.as_numpy(dataset)


def _provenance(builder: Any, place: str, record: Mapping[str, Any]) -> Provenance:
    text = json.dumps(record, sort_keys=True, default=_plain)
    return Provenance(
        corpus=f"tfds/{builder.info.full_name}",
        uri=place,
        span=None,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        licence=builder.info.redistribution_info.license or "unknown",
        generator="read_tfds",
        seed=0,
    )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def prepared_builder(name: str, data_dir: Path | None) -> Any:
    """The builder of a dataset whose files are there."""
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except (tfds.core.registered.DatasetNotFoundError, ValueError, AttributeError) as error:
        raise DataError(f"TFDS knows no dataset {name!r} in {data_dir or 'its folder'}") from error
    if not builder.info.splits:
        raise DataError(
            f"the TFDS dataset {name!r} is not prepared in {builder.data_dir}: "
            f"run `tfds build {name}` there first"
        )
    return builder


def readable_records(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a prepared dataset's split in the order of its files.

    Text comes as text, a class label as its name, numbers and lists as such.
    """
    for record in _records(builder, builder.info.full_name, split):
        record.pop("tfds_id")
        yield _readable(record, builder.info.features)


def columns_of(builder: Any) -> list[str]:
    """The names of a dataset's features."""
    return list(builder.info.features)


def _compile(label: str, text: str) -> tuple[str, jinja2.Template]:
    try:
        return label, compiled(text)[1]
    except jinja2.TemplateSyntaxError as error:
        raise DataError(f"the {label} template {text!r} is not Jinja: {error}") from error


def _render(template: tuple[str, jinja2.Template], fields: dict[str, Any], *, place: str) -> str:
    label, program = template
    try:
        return rendered(program, fields)
    except jinja2.TemplateError as error:
        raise DataError(
            f"{place}: the {label} template: {error}; features: {', '.join(sorted(fields))}"
        ) from error


def _readable(value: Any, feature: Any) -> Any:
    """Text for bytes, names for class labels, plain lists and numbers for arrays."""
    if isinstance(value, Mapping):
        return {key: _readable(value[key], feature[key]) for key in value}
    if isinstance(feature, tfds.features.Sequence):
        if isinstance(feature.feature, Mapping | tfds.features.FeaturesDict):
            return value
        return [_readable(item, feature.feature) for item in value]
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if value >= 0 else ""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value
