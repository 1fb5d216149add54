"""Lines of decode input to prompts; a broken line becomes an error that says what is wrong."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from instructrec_jax.instructions.example import Demonstration
from instructrec_jax.instructions.few_shot import few_shot_text, read_demonstrations

# Which fields hold the instruction and its input: our format and Alpaca's, Dolly's, and
# prompt/completion. The first line whose instruction field is there counts.
_FIELDS = (("instruction", "input"), ("instruction", "context"), ("prompt", None))
# Which field holds the target, in the same formats. The first that is there counts.
_TARGET_FIELDS = ("target", "output", "response", "completion")

Tokens = tuple[int, ...]

# What stands in the place of what is asked about, where an option's own probability is wanted.
CONTENT_FREE = "N/A"


@dataclass(frozen=True)
class Prompt:
    """Something to answer, or whose target is to be scored."""

    id: str | int
    text: str | Tokens  # what the encoder reads: a text, or these token ids and no others
    target: str | Tokens = ""
    demonstrations_left_out: int = 0  # that do not fit
    prefix: str | None = None  # what the answer goes on from; None: the record says nothing of it
    options: tuple[str, ...] = ()
    content_free: str = CONTENT_FREE  # the same question with nothing to answer


@dataclass(frozen=True)
class BrokenLine:
    """A line that gives no prompt, and why."""

    id: str | int
    error: str


# Demonstrations, instruction and input to the encoder's text, and how many demonstrations it lacks.
Assemble = Callable[[Sequence[Demonstration], str, str], tuple[str, int]]


def _with_all(
    demonstrations: Sequence[Demonstration], instruction: str, input: str
) -> tuple[str, int]:
    return few_shot_text(demonstrations, instruction, input), 0


def read_prompts(
    lines: Iterable[bytes],
    *,
    vocabulary_size: int,
    with_targets: bool = False,
    with_options: bool = False,
    with_prefix: bool = True,
    assemble: Assemble = _with_all,
    is_own: Callable[[int], bool] = lambda number: True,
) -> Iterator[Prompt | BrokenLine]:
    """One record for each line whose number `is_own`, in order, at constant memory.

    A line that begins with "{" is a JSON object with `instruction`, optionally `input` and `id`;
    any other line is the instruction itself. `demonstrations`, a list of objects with
    `instruction`, `input` and `target`, are solved questions to be shown first; `assemble`, such
    as `few_shot.fitted_text`, says how many. `input_tokens`, a list of token ids below
    `vocabulary_size`, counts before the instruction: the encoder reads these ids and no others, so
    that they end with eos where the model expects one. `with_targets`, the object also holds
    `target_tokens` or else `target` (`output`, `response`, `completion`); the ids are the whole
    target, eos included where it belongs to it. `with_options`, the object also holds `options`, a
    list of different texts. `prefix` may say how the answer begins, `with_prefix`; without, it is
    an error. Other fields are left alone.
    Without an id the record gets the number of its line, from 1. UTF-8, with or without a byte
    order mark; lines end with \\n or \\r\\n.
    """
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not is_own(number):
            continue
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        yield _read_line(
            line, number, vocabulary_size, with_targets, with_options, with_prefix, assemble
        )


def _read_line(
    line: bytes,
    number: int,
    vocabulary_size: int,
    with_targets: bool,
    with_options: bool,
    with_prefix: bool,
    assemble: Assemble,
) -> Prompt | BrokenLine:
    record_id: str | int = str(number)
    try:
        text = line.decode("utf-8")
        if not text.lstrip().startswith("{"):
            _checked(text, "line")
            if with_targets:
                raise ValueError("plain text has no target; write a JSON object")
            if with_options:
                raise ValueError("plain text has no options; write a JSON object")
            return Prompt(record_id, text)
        record = json.loads(text)
        record_id = _id_of(record, number)
        target = _target_of(record, vocabulary_size) if with_targets else ""
        prefix = _prefix_of(record)
        if prefix and not with_prefix:
            raise ValueError("prefix has no meaning where nothing is generated; leave it out")
        options = _options_of(record) if with_options else ()
        if record.get("input_tokens") is not None:
            tokens = _token_ids(record["input_tokens"], "input_tokens", vocabulary_size)
            return Prompt(record_id, tokens, target, prefix=prefix, options=options)
        demonstrations = read_demonstrations(record.get("demonstrations"))
        instruction, given = _question_of(record)
        prompt, left_out = assemble(demonstrations, instruction, given)
        content_free = CONTENT_FREE
        if with_options:
            nothing = (instruction, CONTENT_FREE) if given else (CONTENT_FREE, "")
            content_free, _ = assemble(demonstrations, *nothing)
        return Prompt(record_id, prompt, target, left_out, prefix, options, content_free)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 at byte {error.start + 1}"
    except json.JSONDecodeError as error:
        reason = f"not JSON at column {error.colno}: {error.msg}"
    except RecursionError:
        reason = "JSON nested too deeply"
    except ValueError as error:
        reason = str(error)
    return BrokenLine(record_id, f"line {number}: {reason}")


def _id_of(record: dict[str, object], number: int) -> str | int:
    record_id = record.get("id")
    if record_id is None:
        return str(number)
    if isinstance(record_id, bool) or not isinstance(record_id, str | int):
        raise ValueError(f"id is {_kind(record_id)}, not a string or whole number")
    if isinstance(record_id, str):
        _encodable(record_id, "id")
    return record_id


def _target_of(record: dict[str, object], vocabulary_size: int) -> str | Tokens:
    if record.get("target_tokens") is not None:
        return _token_ids(record["target_tokens"], "target_tokens", vocabulary_size)
    for name in _TARGET_FIELDS:
        if name in record:
            target = record[name]
            if not isinstance(target, str):
                raise ValueError(f"{name} is {_kind(target)}, not a string")
            _encodable(target, name)
            return target
    raise ValueError(f"no field {_TARGET_FIELDS[0]!r}")


def _prefix_of(record: dict[str, object]) -> str | None:
    prefix = record.get("prefix")
    if prefix is None:
        return None
    if not isinstance(prefix, str):
        raise ValueError(f"prefix is {_kind(prefix)}, not a string")
    _encodable(prefix, "prefix")
    return prefix


def _options_of(record: dict[str, object]) -> tuple[str, ...]:
    options = record.get("options")
    if options is None:
        raise ValueError("no field 'options'")
    if not isinstance(options, list):
        raise ValueError(f"options is {_kind(options)}, not a list of strings")
    if not options:
        raise ValueError("options is empty")
    texts = tuple(_checked(option, f"options[{place}]") for place, option in enumerate(options))
    for place, text in enumerate(texts):
        if text in texts[:place]:
            raise ValueError(f"options[{place}] comes twice")
    return texts


def _token_ids(value: object, name: str, vocabulary_size: int) -> Tokens:
    if not isinstance(value, list):
        raise ValueError(f"{name} is {_kind(value)}, not a list of token ids")
    if not value:
        raise ValueError(f"{name} is empty")
    for token in value:
        if type(token) is not int:
            raise ValueError(f"{name} holds {_kind(token)}, not only whole numbers")
        if not 0 <= token < vocabulary_size:
            raise ValueError(
                f"{name} holds {token}, and the model's token ids are 0 to {vocabulary_size - 1}"
            )
    return tuple(value)


def _question_of(record: dict[str, object]) -> tuple[str, str]:
    """Instruction and input."""
    for instruction_field, input_field in _FIELDS:
        if instruction_field in record and (input_field is None or input_field in record):
            break
    else:
        instruction_field, input_field = _FIELDS[0]
        if instruction_field not in record:
            raise ValueError(f"no field {instruction_field!r}")
    instruction = _checked(record[instruction_field], instruction_field)
    given = record.get(input_field) if input_field else None
    if given is None:
        return instruction, ""
    if not isinstance(given, str):
        raise ValueError(f"{input_field} is {_kind(given)}, not a string")
    _encodable(given, str(input_field))
    return instruction, given


def _checked(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_kind(value)}, not a string")
    if not value.strip():
        raise ValueError(f"{name} is empty")
    _encodable(value, name)
    return value


def _encodable(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds half of a surrogate pair at character {error.start + 1}"
        ) from None


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", dict: "an object", list: "a list"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "a string")
