"""Files of published benchmarks to instruction examples.

A reader takes a path and gives `BenchmarkData`; whatever is wrong with a file ends in one DataError
that names the file and the line. Nothing is downloaded: docs/evaluation.md says where each is.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instructrec_jax.errors import DataError
from instructrec_jax.evaluation.code_checks import Check, functions_of
from instructrec_jax.evaluation.guarded_code import code_of, holding_for, parsed
from instructrec_jax.evaluation.protocol import cluster_of
from instructrec_jax.instructions.example import Demonstration, InstructionExample
from instructrec_jax.instructions.reading import read_examples

LETTERS = ("A", "B", "C", "D")
_HEADING = ["question", "a", "b", "c", "d", "answer"]
# Where a completion of HumanEval ends (Chen et al. 2021).
_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


@dataclass(frozen=True)
class BenchmarkData:
    """What is asked, what may be shown first, and by id how code is judged."""

    examples: list[InstructionExample]
    shown: list[InstructionExample] = field(default_factory=list)
    checks: Mapping[str, Check] = field(default_factory=dict)


def super_natural_instructions(path: Path) -> BenchmarkData:
    """A task file, a folder of them, or the repository with `tasks/` and its list of test tasks."""
    listed = path / "splits" / "default" / "test_tasks.txt"
    if path.is_dir() and listed.is_file():
        names = listed.read_text(encoding="utf-8").split()
        files = [path / "tasks" / f"{name}.json" for name in names]
    else:
        files = _files(path, "*.json")
    examples: list[InstructionExample] = []
    for file in files:
        document = _Document(file)
        definition = document.value.get("Definition")
        if isinstance(definition, list) and definition:
            definition = definition[0]
        if not isinstance(definition, str) or not definition.strip():
            raise DataError(f"{file}:{document.line('Definition')}: `Definition` is no text")
        shown = tuple(
            Demonstration("", _text(each, "input", place), _text(each, "output", place))
            for place, each in document.entries("Positive Examples", required=False)
        )
        for number, (place, each) in enumerate(document.entries("Instances")):
            outputs = each.get("output")
            outputs = [outputs] if isinstance(outputs, str) else outputs
            if not isinstance(outputs, list) or not outputs:
                raise DataError(f"{place}: `output` is neither text nor a list of texts")
            texts = [_checked(output, "output", place) for output in outputs]
            examples.append(
                InstructionExample(
                    id=str(each.get("id", f"{file.stem}-{number}")),
                    task=file.stem,
                    instruction=definition.strip(),
                    input=_text(each, "input", place),
                    target=texts[0],
                    references=tuple(texts),
                    demonstrations=shown,
                )
            )
    return BenchmarkData(examples)


def prompted_choices(path: Path) -> BenchmarkData:
    """JSON lines of questions with closed choices, each asked by several prompts.

    `id`, `task`, `options`, `target` (one of the options), and `prompts`: {name: text}, or a list
    of {"template", "prompt"} of which each may have `options` and a `target` of its own.
    """
    examples = []
    for place, record in _json_lines(path):
        prompts = record.get("prompts")
        if isinstance(prompts, dict):
            prompts = [{"template": name, "prompt": text} for name, text in prompts.items()]
        if not isinstance(prompts, list) or not prompts:
            raise DataError(f"{place}: `prompts` is neither an object nor a list with entries")
        name = _text(record, "id", place)
        for prompt in prompts:
            if not isinstance(prompt, dict):
                raise DataError(f"{place}: a prompt is an object with `template` and `prompt`")
            merged = {**record, **prompt}
            options = merged.get("options")
            if not isinstance(options, list) or len(options) < 2:
                raise DataError(f"{place}: `options` is no list of at least two texts")
            choices = tuple(_checked(option, "options", place) for option in options)
            target = _text(merged, "target", place)
            if target not in choices:
                raise DataError(f"{place}: the target {target!r} is none of the options")
            template = _text(merged, "template", place)
            examples.append(
                InstructionExample(
                    id=f"{name}/{template}",
                    task=str(record.get("task", path.name.partition(".")[0])),
                    instruction=_text(merged, "prompt", place),
                    input="",
                    target=target,
                    options=choices,
                    template=template,
                )
            )
    return BenchmarkData(examples)


def mmlu(path: Path) -> BenchmarkData:
    """A CSV file, or a folder with `test/` and `dev/`: question, choices A to D, right letter."""
    if path.is_dir():
        folder = path / "test" if (path / "test").is_dir() else path
        files = _files(folder, "*.csv")
    else:
        files = [path]
    shown_files = [
        file.parent.parent / "dev" / file.name.replace("_test", "_dev") for file in files
    ]
    return BenchmarkData(
        examples=[example for file in files for example in _mmlu_rows(file, "_test")],
        shown=[
            example
            for file in shown_files
            if file.is_file() and file not in files
            for example in _mmlu_rows(file, "_dev")
        ],
    )


def _mmlu_rows(file: Path, ending: str) -> Iterator[InstructionExample]:
    subject = file.stem.removesuffix(ending)
    rows = csv.reader(io.StringIO(_decoded(file), newline=""), strict=True)
    found = False
    try:
        for row in rows:
            place = f"{file}:{rows.line_num}"
            # A blank line, or a heading.
            if [cell.strip().lower() for cell in row] in ([], _HEADING):
                continue
            if len(row) != 6:
                raise DataError(
                    f"{place}: {len(row)} columns; expected 6: question, four choices, letter"
                )
            found = True
            question, *choices, letter = row
            if letter.strip() not in LETTERS:
                raise DataError(f"{place}: the answer is {letter!r}, not one of A, B, C, D")
            listed = "\n".join(
                f"{mark}. {text}" for mark, text in zip(LETTERS, choices, strict=True)
            )
            yield InstructionExample(
                id=f"{file.stem}-{rows.line_num}",
                task=subject,
                instruction=subject.replace("_", " "),
                input=f"{question}\n{listed}",
                target=letter.strip(),
                options=LETTERS,
            )
    except csv.Error as error:
        raise DataError(f"{file}:{rows.line_num}: not CSV: {error}") from error
    if not found:
        raise DataError(f"{file}: no questions")


def big_bench_hard(path: Path) -> BenchmarkData:
    """A task's JSON file with `examples` of `input` and `target`, its JSON lines, or a folder."""
    examples = []
    for file in _files(path, "*.json", "*.jsonl"):
        entries = (
            _json_lines(file) if file.suffix == ".jsonl" else _Document(file).entries("examples")
        )
        for number, (place, each) in enumerate(entries):
            examples.append(
                InstructionExample(
                    id=f"{file.stem}-{number}",
                    task=file.stem,
                    instruction="",
                    input=_text(each, "input", place),
                    target=_text(each, "target", place),
                )
            )
    return BenchmarkData(examples)


def instruction_induction(path: Path) -> BenchmarkData:
    """A task's JSON file, a folder of them, or a folder with `induce/` and `execute/`.

    Each holds `examples`: {number: {"input", "output"}}, or what `_input_and_answers` reads
    besides. The first ones of `induce/` (or of the file itself, which then does not ask them) are
    what an instruction is to be induced from.
    """
    folder = path / "execute" if (path / "execute").is_dir() else path
    examples, shown = [], []
    for file in _files(folder, "*.json"):
        asked = _induction_examples(file)
        beside = file.parent.parent / "induce" / file.name
        if folder != path and beside.is_file():
            shown += _induction_examples(beside)[:INDUCED_FROM]
        else:
            first = asked[:INDUCED_FROM]
            # The other order of a shown pair would hold its answer.
            seen = {cluster_of(each) for each in first}
            left = [each for each in asked if cluster_of(each) not in seen]
            if not left:
                raise DataError(
                    f"{file}: {len(asked)} examples; {INDUCED_FROM} are shown, none is left to ask"
                )
            shown, asked = [*shown, *first], left
        examples += asked
    return BenchmarkData(examples, shown)


INDUCED_FROM = 5


def _induction_examples(file: Path) -> list[InstructionExample]:
    document = _Document(file)
    held = document.value.get("examples")
    if not isinstance(held, dict) or not held:
        raise DataError(f"{file}:{document.line('examples')}: `examples` is no object with entries")
    examples = []
    for number, each in held.items():
        place = f"{file}:{document.line(number, after='examples')}"
        if not isinstance(each, dict):
            raise DataError(f"{place}: example {number} is no object with `input` and `output`")
        asked = _input_and_answers(each, place)
        # The orders of one pair are right and wrong together: see `protocol.cluster_of`.
        orders = [f"order-{way}" for way in range(1, len(asked) + 1)] if len(asked) > 1 else [""]
        examples += [
            InstructionExample(
                id="/".join(filter(None, (f"{file.stem}-{number}", order))),
                template=order,
                task=file.stem,
                instruction="",
                input=text,
                target=answers[0],
                references=answers if len(answers) > 1 else (),
            )
            for order, (text, answers) in zip(orders, asked, strict=True)
        ]
    return examples


# Where an example of instruction induction holds several acceptable outputs.
_ALTERNATIVES = (
    "all_common_concepts", "other_rhymes", "possible_translations", "possible_outputs",
)  # fmt: skip


def _input_and_answers(record: Mapping[str, Any], place: str) -> list[tuple[str, tuple[str, ...]]]:
    """Each text that an example asks with, and its acceptable answers, as published.

    Cause and effect stand in both orders; `items` are set apart by commas.
    """
    if "cause" in record:
        cause, effect = (_text(record, key, place) for key in ("cause", "effect"))
        orders = ((cause, effect), (effect, cause))
        return [(f"Sentence 1: {one} Sentence 2: {two}", (cause,)) for one, two in orders]
    if "items" in record:
        text = ", ".join(_texts(record, "items", place))
    else:
        text = _text(record, "input", place)
    answers = [
        answer for key in _ALTERNATIVES if key in record for answer in _texts(record, key, place)
    ]
    if not answers or isinstance(record.get("output"), str):
        answers = [_text(record, "output", place), *answers]
    return [(text, tuple(dict.fromkeys(answers)))]


def _texts(record: Mapping[str, Any], key: str, place: str) -> list[str]:
    if not isinstance(record[key], list) or not record[key]:
        raise DataError(f"{place}: `{key}` is no list with entries")
    return [_checked(each, key, place) for each in record[key]]


def human_eval(path: Path) -> BenchmarkData:
    """JSON lines of `task_id`, `prompt`, `test`, `entry_point`; the tests are run under guard."""
    examples: list[InstructionExample] = []
    checks: dict[str, Check] = {}
    for place, record in _json_lines(path):
        name = _text(record, "task_id", place)
        prompt, test, entry_point = (
            _text(record, key, place) for key in ("prompt", "test", "entry_point")
        )
        if parsed(f"{prompt}\n    pass") is None:
            raise DataError(f"{place}: `prompt` is not the beginning of a Python function")
        if entry_point not in functions_of(f"{prompt}\n    pass"):
            raise DataError(f"{place}: `prompt` begins no function named {entry_point!r}")
        if parsed(test) is None:
            raise DataError(f"{place}: `test` is not Python")
        if name in checks:
            raise DataError(f"{place}: `task_id` {name!r} stands in the file twice")
        solution = record.get("canonical_solution")
        examples.append(
            InstructionExample(
                id=name,
                task=path.name.partition(".")[0],
                instruction="",
                input=prompt,
                target=_checked(solution, "canonical_solution", place) if solution else "",
            )
        )
        checks[name] = _completion_check(prompt, test, entry_point)
    return BenchmarkData(examples, checks=checks)


def _completion_check(prompt: str, test: str, entry_point: str) -> Check:
    def check(sandbox: Any, output: str) -> bool:
        code = code_of(output)
        whole = parsed(code) is not None and f"def {entry_point}(" in code
        if whole:
            # The prompt is a function of its own, of a docstring alone, and its imports stay.
            code = "\n    pass\n\n" + code
        else:
            code = code[
                : min((at for stop in _STOPS if (at := code.find(stop)) >= 0), default=None)
            ]
        return all(
            holding_for(
                sandbox,
                f"{prompt}{code}\n",
                [f"check({entry_point})"],
                names=[entry_point],
                tests=test,
                helpers=f"{prompt}\n    pass\n",
            )
        )

    return check


def json_lines(path: Path) -> BenchmarkData:
    """Any file or folder of instruction examples, in the formats that `read_examples` takes."""
    return BenchmarkData(list(read_examples(path)))


# --- files ----------------------------------------------------------------------------------------


class _Document:
    """A JSON object that is a whole file, and the lines of what it holds."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._text = _decoded(file)
        try:
            value = json.loads(self._text)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}:{error.lineno}: not JSON: {error.msg}") from error
        except RecursionError:
            raise DataError(f"{file}: not JSON: too deep") from None
        if not isinstance(value, dict):
            raise DataError(f"{file}:1: expected a JSON object")
        self.value: dict[str, Any] = value

    def line(self, key: str, *, after: str = "") -> int:
        """The line in which a key stands, the first after another key; 1 where it does not."""
        start = max(self._text.find(json.dumps(after)), 0) if after else 0
        return self._text.count("\n", 0, max(self._text.find(json.dumps(key), start), 0)) + 1

    def entries(self, key: str, *, required: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
        """(place, object) of a list of objects."""
        held = self.value.get(key, None if required else [])
        if not isinstance(held, list) or (required and not held):
            raise DataError(f"{self.file}:{self.line(key)}: `{key}` is no list with entries")
        lines = self._lines_of(key, len(held))
        for number, (line, each) in enumerate(zip(lines, held, strict=True)):
            place = f"{self.file}:{line}"
            if not isinstance(each, dict):
                raise DataError(f"{place}: {key}[{number}] is no object")
            yield f"{place} ({key}[{number}])", each

    def _lines_of(self, key: str, count: int) -> list[int]:
        """The line in which each entry of a list begins."""
        decoder = json.JSONDecoder()
        at = self._text.find("[", self._text.find(json.dumps(key))) + 1
        line = self._text.count("\n", 0, at) + 1
        lines = []
        for _ in range(count):
            start = at
            while self._text[at] in " \t\r\n,":
                at += 1
            line += self._text.count("\n", start, at)
            lines.append(line)
            _, end = decoder.raw_decode(self._text, at)
            line += self._text.count("\n", at, end)
            at = end
        return lines


def _files(path: Path, *patterns: str) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    files = sorted({file for pattern in patterns for file in path.glob(pattern)})
    if not files:
        raise DataError(f"{path}: no file named {' or '.join(patterns)} in this folder")
    return files


def _decoded(file: Path) -> str:
    try:
        data = file.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}:{line}: not UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{file}: cannot be read: {reason}") from error


def _json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    found = False
    for number, line in enumerate(_decoded(file).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{place}: expected a JSON object")
        found = True
        yield place, record
    if not found:
        raise DataError(f"{file}: no examples")


def _text(record: Mapping[str, Any], key: str, place: str) -> str:
    if key not in record:
        raise DataError(f"{place}: `{key}` is missing; found {', '.join(map(repr, record))}")
    return _checked(record[key], key, place)


def _checked(value: Any, key: str, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place}: `{key}` is no text but {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{place}: `{key}` holds half of a character (a lone surrogate)") from None
    return value
