"""Reading instruction data: our dataset folders, and other people's files by their field names.

Everything that is wrong with a file ends in a `DataError` that names the file and the line.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any, BinaryIO

from instructrec_jax.errors import DataError
from instructrec_jax.instructions.example import (
    SPLITS,
    TRAIN,
    VALIDATION,
    Demonstration,
    InstructionExample,
    Provenance,
    encoder_text,
)
from instructrec_jax.instructions.few_shot import read_demonstrations
from instructrec_jax.instructions.hashing import fraction

DATASET_FILE = "dataset.json"
# Ending of a recipe that reads a TFDS dataset.
TFDS_RECIPE = ".tfds.json"


@dataclass(frozen=True)
class _Format:
    """Which fields of a record hold the instruction, the input and the target."""

    name: str
    instruction: str
    input: str
    target: str


# A record is read by the first format whose instruction and target fields it has.
_FORMATS = (
    _Format("instructrec_jax", instruction="instruction", input="input", target="target"),
    _Format("Alpaca", instruction="instruction", input="input", target="output"),
    _Format("Dolly", instruction="instruction", input="context", target="response"),
    _Format("prompt and completion", instruction="prompt", input="", target="completion"),
)


def read_examples(path: str | Path, *, split: str = "") -> Iterator[InstructionExample]:
    """Yield the examples of a dataset folder, a file of JSON or JSON lines, or a glob of files.

    Records are ours, Alpaca, Dolly, prompt/completion or a Super-NaturalInstructions task; files
    may be gzip'd. A file NAME.tfds.json is a recipe for a TFDS dataset, see tfds_source.py. With
    `split`, the examples of that split; files whose records name no split give all their examples
    (`split_of` divides them).

    Raises:
        DataError: nothing to read, or a bad record, named by file and line.
    """
    folder = Path(path)
    if folder.is_dir():
        examples = _read_folder(folder, split=split)
    else:
        examples = _read_files(_matching_files(path), split=split)
    count = 0
    for example in examples:
        count += 1
        yield example
    if not count:
        of_split = f" of the split {split!r}" if split else ""
        raise DataError(f"{path}: no examples{of_split}")


def has_splits(path: str | Path) -> bool:
    """Whether the data brings its own train, validation and test split.

    Raises:
        DataError: nothing to read, or a bad first record.
    """
    if Path(path).is_dir():
        return True
    for example in _read_files(_matching_files(path), split=""):
        return bool(example.split)
    raise DataError(f"{path}: no examples")


def split_of(
    example: InstructionExample | Demonstration, *, validation_fraction: float, seed: int
) -> str:
    """`train` or `validation`, for data without splits of its own.

    By hash of the question without white space and case: equal questions go to the same split,
    whatever is shown in front of them.
    """
    question = "".join(encoder_text(example.instruction, example.input).casefold().split())
    held_out = fraction("split", seed, question) < validation_fraction
    return VALIDATION if held_out else TRAIN


def read_dataset_info(folder: str | Path) -> dict[str, Any]:
    """The contents of a dataset folder's dataset.json.

    Raises:
        DataError: no finished dataset, or a damaged dataset.json.
    """
    path = Path(folder) / DATASET_FILE
    if not path.is_file():
        raise DataError(
            f"{folder}: no {DATASET_FILE} in this folder, so it is no finished dataset; "
            "name a file or a glob to read loose files"
        )
    info = _parse(_decode_utf8(path.read_bytes(), place=str(path)), place=str(path))
    if not isinstance(info, dict):
        raise DataError(f"{path}: expected a JSON object, found {_type_name(info)}")
    return info


def _read_folder(folder: Path, *, split: str) -> Iterator[InstructionExample]:
    counts = _example_counts(folder)
    for name in (split,) if split else SPLITS:
        if counts is None:
            yield from _read_files(sorted(folder.glob(f"{name}-*.jsonl.gz")), split=name)
            continue
        for file, expected in counts.items():
            if not file.startswith(f"{name}-"):
                continue
            if not (folder / file).is_file():
                raise DataError(f"{folder / file}: missing, though {DATASET_FILE} lists it")
            found = 0
            for example in _read_files([folder / file], split=""):
                found += 1
                if example.split and example.split != name:
                    raise DataError(f"{folder / file}: an example of the split {example.split!r}")
                yield example
            if found != expected:
                raise DataError(
                    f"{folder / file}: holds {found:,} examples, {DATASET_FILE} says {expected:,}"
                )


def _example_counts(folder: Path) -> dict[str, int] | None:
    """Examples by file, as dataset.json tells them; None where it does not."""
    info = read_dataset_info(folder)
    if "files" not in info:
        return None
    try:
        return {name: int(record["examples"]) for name, record in info["files"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / DATASET_FILE}: `files` is not as the format says") from error


def _matching_files(path: str | Path) -> list[Path]:
    if Path(path).is_file():
        return [Path(path)]
    if not has_magic(str(path)):
        raise DataError(f"{path}: no such file or folder")
    files = [Path(name) for name in sorted(glob(str(path), recursive=True))]
    files = [file for file in files if file.is_file()]
    if not files:
        raise DataError(f"{path}: no file matches")
    return files


def _read_files(files: list[Path], *, split: str) -> Iterator[InstructionExample]:
    names_unique = len({file.name for file in files}) == len(files)
    any_split: bool | None = None
    for file in files:
        if file.name.endswith(TFDS_RECIPE):
            for example in _read_tfds_recipe(file):
                if not split or example.split == split:
                    yield example
            continue
        name = file.name if names_unique else file.as_posix()
        for line, record in _records(file):
            place = f"{file}:{line}"
            example = _example(record, place=place, default_id=f"{name}:{line}")
            if any_split is None:
                any_split = bool(example.split)
            elif any_split != bool(example.split):
                raise DataError(f"{place}: some records name a `split` and others do not")
            if not split or not any_split or example.split == split:
                yield example


def _read_tfds_recipe(file: Path) -> Iterator[InstructionExample]:
    # TensorFlow loads only where a recipe asks for it.
    from instructrec_jax.instructions.tfds_source import read_recipe

    recipe = _parse(_decode_utf8(file.read_bytes(), place=str(file)), place=str(file))
    if not isinstance(recipe, dict):
        raise DataError(f"{file}: expected a JSON object, found {_type_name(recipe)}")
    yield from read_recipe(recipe, place=str(file))


def _records(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield (line, parsed record) of a file: "12", or "12 (entry 3)" of several on a line.

    Of a Super-NaturalInstructions task, "12 (instance 3)".
    """
    if _is_one_document(file):
        entries = _entries_of_document(file)
    else:
        entries = _entries_of_lines(file)
    last, on_line = 0, 0
    for line, value in entries:
        last, on_line = line, on_line + 1 if line == last else 1
        if isinstance(value, dict) and {"Definition", "Instances"} <= value.keys():
            yield from _natural_instructions(value, file=file, line=line)
        else:
            yield (str(line) if on_line == 1 else f"{line} (entry {on_line})"), value


def _is_one_document(file: Path) -> bool:
    """Whether the file is one JSON value (a list, or an object over many lines), not JSON lines."""
    for _, data in _lines(file):
        if data.startswith(b"["):
            return True
        if not data.startswith(b"{") or ".jsonl" in file.suffixes:
            return False
        try:
            json.loads(data)
        except RecursionError:
            return False
        except ValueError:
            return True
        return False
    return False


def _entries_of_lines(file: Path) -> Iterator[tuple[int, Any]]:
    for line, data in _lines(file):
        place = f"{file}:{line}"
        yield line, _parse(_decode_utf8(data, place=place), place=place)


def _entries_of_document(file: Path) -> Iterator[tuple[int, Any]]:
    text = "\n".join(
        _decode_utf8(data, place=f"{file}:{line}") for line, data in _lines(file, keep_blank=True)
    )
    start = len(text) - len(text.lstrip())
    if text[start] == "{":
        yield text.count("\n", 0, start) + 1, _parse(text, place=str(file))
        return
    for position, value in _list_entries(text, start + 1, file=file):
        yield text.count("\n", 0, position) + 1, value


def _list_entries(text: str, position: int, *, file: Path) -> Iterator[tuple[int, Any]]:
    """Yield (position, value) of a JSON list whose opening bracket is behind `position`."""

    def skip(position: int) -> int:
        while position < len(text) and text[position] in " \t\r\n":
            position += 1
        return position

    position = skip(position)
    while text[position : position + 1] != "]":
        value, end = _parse_prefix(text, position, file=file)
        yield position, value
        position = skip(end)
        if text[position : position + 1] == ",":
            position = skip(position + 1)
            if text[position : position + 1] == "]":
                line = text.count("\n", 0, position) + 1
                raise DataError(f"{file}:{line}: not JSON: a comma before the end of the list")
        elif text[position : position + 1] != "]":
            line = text.count("\n", 0, position) + 1
            raise DataError(f"{file}:{line}: not JSON: the list is cut off or lacks a comma")
    if skip(position + 1) != len(text):
        line = text.count("\n", 0, skip(position + 1)) + 1
        raise DataError(f"{file}:{line}: not JSON: text after the end of the list")


def _lines(file: Path, *, keep_blank: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, bytes) without byte order mark, line end and blank lines.

    Only LF and CRLF end a line: U+2028 inside a string does not.
    """
    try:
        with open(file, "rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: BinaryIO = gzip.GzipFile(fileobj=raw) if compressed else raw  # type: ignore
            for number, data in enumerate(stream, start=1):
                data = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
                data = data.strip(b" \t\r\n")
                if data or keep_blank:
                    yield number, data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def _decode_utf8(data: bytes, *, place: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{place}: not UTF-8 (byte 0x{data[error.start]:02x} at column {error.start + 1})"
        ) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _parse(text: str, *, place: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON: {error}") from error


def _parse_prefix(text: str, position: int, *, file: Path) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError) as error:
        line = text.count("\n", 0, getattr(error, "pos", position)) + 1
        raise DataError(f"{file}:{line}: not JSON: {error}") from error


def _natural_instructions(
    task: dict[str, Any], *, file: Path, line: int
) -> Iterator[tuple[str, Any]]:
    """Yield the instances of a Super-NaturalInstructions task as records of our format."""
    definition, instances = task["Definition"], task["Instances"]
    place = f"{file}:{line}"
    if isinstance(definition, list) and definition:
        definition = definition[0]
    if not isinstance(definition, str) or not isinstance(instances, list):
        raise DataError(f"{place}: `Definition` must be text and `Instances` a list")
    name = file.name.removesuffix(".gz").removesuffix(".json").removesuffix(".jsonl")
    for number, instance in enumerate(instances, start=1):
        entry = f"{line} (instance {number})"
        if not isinstance(instance, dict) or "output" not in instance:
            raise DataError(f"{file}:{entry}: expected an object with `input` and `output`")
        output = instance["output"]
        outputs = output if isinstance(output, list) else [output]
        record = {
            "task": name,
            "instruction": definition,
            "input": instance.get("input", ""),
            "target": outputs[0] if outputs else "",
            "references": outputs if len(outputs) > 1 else [],
        }
        if "id" in instance:
            record["id"] = instance["id"]
        yield entry, record


def _example(record: Any, *, place: str, default_id: str) -> InstructionExample:
    if not isinstance(record, dict):
        raise DataError(f"{place}: expected a JSON object, found {_type_name(record)}")
    fields = next(
        (f for f in _FORMATS if f.instruction in record and f.target in record),
        None,
    )
    if fields is None:
        raise DataError(
            f"{place}: no known fields: found {', '.join(map(repr, record)) or 'none'}; expected "
            + ", or ".join(f"`{f.instruction}` and `{f.target}`" for f in _FORMATS)
        )
    target = _text(record, fields.target, place=place)
    instruction = _text(record, fields.instruction, place=place)
    input_text = _text(record, fields.input, place=place, default="")
    if not target.strip():
        raise DataError(f"{place}: `{fields.target}` is empty")
    if not instruction.strip() and not input_text.strip():
        raise DataError(f"{place}: `{fields.instruction}` is empty and there is no input")
    split = _text(record, "split", place=place, default="")
    if split and split not in SPLITS:
        raise DataError(f"{place}: `split` is {split!r}; expected one of {', '.join(SPLITS)}")
    return InstructionExample(
        id=_text(record, "id", place=place, default=default_id) or default_id,
        task=_text(record, "task", place=place, default="default") or "default",
        instruction=instruction,
        input=input_text,
        target=target,
        references=_texts(record, "references", place=place),
        options=_texts(record, "options", place=place),
        template=_text(record, "template", place=place, default=""),
        split=split,
        holdout=_text(record, "holdout", place=place, default=""),
        target_source=_text(record, "target_source", place=place, default=""),
        provenance=_provenance(record.get("provenance"), place=place),
        material=_text(record, "material", place=place, default=""),
        demonstrations=_demonstrations(record, place=place),
    )


def _demonstrations(record: Mapping[str, Any], *, place: str) -> tuple[Demonstration, ...]:
    try:
        return read_demonstrations(record.get("demonstrations"))
    except ValueError as error:
        raise DataError(f"{place}: {error}") from error


def _text(record: Mapping[str, Any], key: str, *, place: str, default: str | None = None) -> str:
    if key not in record and default is not None:
        return default
    return _checked_text(record[key], name=key, place=place)


def _texts(record: Mapping[str, Any], key: str, *, place: str) -> tuple[str, ...]:
    values = record.get(key, [])
    if not isinstance(values, list):
        raise DataError(f"{place}: `{key}` must be a list of texts, not {_type_name(values)}")
    return tuple(_checked_text(value, name=key, place=place) for value in values)


def _checked_text(value: Any, *, name: str, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place}: `{name}` must be text, not {_type_name(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: `{name}` holds a lone surrogate (half of a character) at character "
            f"{error.start + 1}"
        ) from error
    return value


def _provenance(value: Any, *, place: str) -> Provenance | None:
    if value is None:
        return None
    try:
        span = value["span"]
        return Provenance(**{**value, "span": tuple(span) if span is not None else None})
    except (TypeError, KeyError) as error:
        raise DataError(f"{place}: `provenance` is not as the format says: {error}") from error


def _type_name(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "an object",
        type(None): "null",
    }
    return names[type(value)]
