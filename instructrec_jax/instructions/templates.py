"""The template bank: how the same question is put in many words.

One file a task under `templates/`, one line a template: its id, its style and its text in Jinja's
language. Templates are data: they run in Jinja's sandbox and may use the draft's fields only.
`in_chinese` is the filter for the name of a language in a Chinese phrasing.
Closed choices are shown by one of the filters `inline`, `inline_chinese`, `listed` and `lettered`,
or not at all; which, the choice of the template decides.
"""

import re
import string
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import StrictUndefined, meta, nodes
from jinja2.sandbox import SandboxedEnvironment

from instructrec_jax.errors import DataError
from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Draft
from instructrec_jax.instructions.language_names import in_chinese

FOLDER = Path(__file__).with_name("templates")
# "chinese" are phrasings in Chinese of any of the other styles.
STYLES = ("imperative", "question", "terse", "polite", "search", "length", "format", "chinese")


def _shown(value: Any) -> Any:
    """What a template shows of a value: a method's address in memory would differ each time."""
    if callable(value) and not isinstance(value, jinja2.Undefined):
        raise jinja2.TemplateRuntimeError(f"a template cannot show a {type(value).__name__}")
    return value


_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, finalize=_shown)
# Shorter targets, such as the letter of a choice or a number, stand in any text by chance.
_SHORTEST_SECRET = 3
_HAN = re.compile(r"[\u4e00-\u9fff]")
_WIDE_MARKS = re.compile(r"[\u3000-\u303f\uff01-\uff0f\uff1a-\uff20“”]")
_HIDDEN = "\ufffc"
_LENGTH = "target_words"
# A text may have this many characters, and besides the fields so many times.
_LEAST_BOUND, _MOST_COPIES = 10_000, 8
# The filter that every loop's items go through; no name that a template can write. Its limit.
_LOOPED, _MOST_LOOPED = "items of a loop", 1_000


# What a template may be made of: nothing that calls, multiplies, loads or defines. Jinja's sandbox
# keeps a template from Python's insides, this from endless time and memory.
_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Filter),
    *(nodes.If, nodes.For, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.Test),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Add, nodes.Sub, nodes.Getattr, nodes.Getitem),
    *(nodes.Keyword,),
)
# Those that make a text longer: one on another's text would multiply it.
_GROWING = ("inline", "inline_chinese", "listed", "lettered", "join", "replace")
_FILTERS = (
    *_GROWING,
    *("length", "first", "last", "capitalize", "lower", "upper", "title", "trim", "in_chinese"),
)


def _forbidden(tree: nodes.Template) -> str:
    """What of a template is refused, "" where nothing is."""
    for node in tree.find_all(nodes.Node):
        if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
            return f"the filter {node.name!r}; there are {', '.join(_FILTERS)}"
        if not isinstance(node, _NODES):
            return f"what Jinja calls {type(node).__name__}"
        if isinstance(node, nodes.For) and next(node.find_all(nodes.For), None):
            return "a loop inside a loop"
        if isinstance(node, nodes.Filter) and node.name in _GROWING:
            given = [*node.args, *(keyword.value for keyword in node.kwargs)]
            if not all(isinstance(argument, nodes.Const) for argument in given):
                return f"the filter {node.name!r} with anything but a text in its brackets"
            if any(other.name in _GROWING for other in node.find_all(nodes.Filter)):
                return f"the filter {node.name!r} on what another filter made longer"
    return ""


def _inline(options: Sequence[str]) -> str:
    """ "a, b or c"."""
    return " or ".join(filter(None, (", ".join(options[:-1]), options[-1])))


def _inline_chinese(options: Sequence[str]) -> str:
    """ "a、b或c"."""
    return "或".join(filter(None, ("、".join(options[:-1]), options[-1])))


def _listed(options: Sequence[str]) -> str:
    """One a line, with dashes."""
    return "\n".join(f"- {option}" for option in options)


def _lettered(options: Sequence[str]) -> str:
    """One a line, with capital letters, then numbers."""
    marks = [*string.ascii_uppercase, *map(str, range(27, len(options) + 1))]
    return "\n".join(f"{mark}. {option}" for mark, option in zip(marks, options, strict=False))


def _in_chinese(name: Any) -> Any:
    return in_chinese(name) if isinstance(name, str) else name


def _looped(items: Any) -> Any:
    """What a loop may go through: a list of few things, not the characters of a text."""
    if isinstance(items, jinja2.Undefined):
        return items
    if not isinstance(items, Sequence | Mapping) or isinstance(items, str | bytes):
        raise jinja2.TemplateRuntimeError(f"a loop cannot go through a {type(items).__name__}")
    if len(items) > _MOST_LOOPED:
        raise jinja2.TemplateRuntimeError(f"a loop cannot go through {len(items):,} items")
    return items


_ENVIRONMENT.filters |= {
    _LOOPED: _looped,
    "inline": _inline,
    "inline_chinese": _inline_chinese,
    "listed": _listed,
    "lettered": _lettered,
    "in_chinese": _in_chinese,
}


@dataclass(frozen=True)
class Template:
    """A phrasing. `id` is "task.name"; `text` the Jinja source; `file` where it stands."""

    id: str
    style: str
    text: str
    file: str

    @cached_property
    def _parsed(self) -> tuple[frozenset[str], jinja2.Template]:
        """The fields that the template asks for, and its program."""
        try:
            return compiled(self.text)
        except jinja2.TemplateSyntaxError as error:
            raise DataError(f"{self.file}: template {self.id}: {error.message}") from error

    @property
    def fields(self) -> frozenset[str]:
        """The fields that the template asks for."""
        return self._parsed[0]

    @property
    def shows_options(self) -> bool:
        """Whether the phrasing shows the closed choices."""
        return "options" in self.fields

    def render(self, draft: Draft) -> tuple[str, str]:
        """The instruction, and the input ("" where the template carries it inside).

        Raises:
            DataError: the template asks for a field that this task has not, or for an attribute
                that the sandbox refuses, loops over a text, or gives a text out of all proportion.
        """
        asked, program = self._parsed
        fields = template_fields(draft, asked)
        try:
            instruction = rendered(program, fields).strip()
        except jinja2.TemplateError as error:
            known = ", ".join(sorted({*fields, _LENGTH}))
            raise DataError(f"{self.file}: template {self.id}: {error}; fields: {known}") from error
        return instruction, "" if "input" in asked else draft.input


@lru_cache(maxsize=4096)
def compiled(text: str) -> tuple[frozenset[str], jinja2.Template]:
    """The fields that a template asks for, and its program for `rendered`.

    Raises:
        jinja2.TemplateSyntaxError: it is no Jinja, or may take endless time or memory.
    """
    tree = _ENVIRONMENT.parse(text)
    # Compiling works constants out: what is refused must not come so far.
    if refused := _forbidden(tree):
        raise jinja2.TemplateSyntaxError(f"a template may not use {refused}", 1)
    for loop in tree.find_all(nodes.For):
        # What a loop goes through is known when it runs.
        loop.iter = nodes.Filter(loop.iter, _LOOPED, [], [], None, None)
    return frozenset(meta.find_undeclared_variables(tree)), _ENVIRONMENT.from_string(tree)


def rendered(program: jinja2.Template, fields: Mapping[str, Any]) -> str:
    """What a compiled template makes of the fields.

    Raises:
        jinja2.TemplateError: an unknown field, what the sandbox refuses, a sum or filter that does
            not fit its values, a loop over a text or too many items, or many times as much text as
            the fields hold.
    """
    parts, length = [], 0
    most = _LEAST_BOUND
    try:
        for part in program.generate(fields):
            parts.append(part)
            length += len(part)
            if length > most:
                held = sum(len(str(value)) for value in fields.values())
                most = _LEAST_BOUND + _MOST_COPIES * held
                if length > most:
                    raise jinja2.TemplateRuntimeError(f"its text has more than {most:,} characters")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise jinja2.TemplateRuntimeError(f"{type(error).__name__}: {error}") from error
    return "".join(parts)


def template_fields(draft: Draft, asked: Collection[str] = (_LENGTH,)) -> Mapping[str, Any]:
    """What a template may use: the draft's fields, its `options`, and `target_words`.

    The last is the target's length in words set apart by spaces, and in Chinese characters; it is
    there where it is among the `asked`.
    """
    fields = draft.fields
    if draft.options and "options" not in fields:
        fields = {**fields, "options": draft.options}
    if _LENGTH not in asked:
        return fields
    words = len(_HAN.sub(" _ ", _WIDE_MARKS.sub(" ", draft.target)).split())
    return {**fields, _LENGTH: words}


def tells_target(template: Template, draft: Draft) -> bool:
    """Whether the phrasing itself holds the target, beside the material and the shown options.

    So that no inverted or classifying phrasing leaks its label. A phrasing that names every option
    tells none. Targets of one or two characters are not looked for.
    """
    target = draft.target.strip().casefold()
    if len(target) < _SHORTEST_SECRET:
        return False
    fields = {**draft.fields, "input": _HIDDEN}
    if draft.options:
        fields["options"] = tuple(_HIDDEN for _ in draft.options)
    instruction, _ = template.render(replace(draft, fields=fields))
    told = instruction.casefold()
    others = [option.casefold() for option in draft.options if option != draft.target]
    if others and all(_holds(told, option) for option in others):
        return False
    return _holds(told, target)


def _holds(text: str, part: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None


def load_templates(
    task: str,
    *,
    styles: tuple[str, ...] = (),
    folder: Path = FOLDER,
    further: Sequence[Path] = (),
) -> tuple[Template, ...]:
    """The templates of a task, of the given styles (() = all), in the order of its files.

    They stand in the task's file of the folder, in `further` files, or in both.

    Raises:
        DataError: no such file, not TOML, an unknown style, an id that comes twice, or a template
            that is no Jinja.
    """
    templates: dict[str, Template] = {}
    own = folder / f"{task}.toml"
    for path in (*([own] if own.exists() or not further else []), *further):
        for template in _read(task, path):
            if template.id in templates:
                name = template.id.partition(".")[2]
                raise DataError(f"{path}: two templates are called {name!r}")
            templates[template.id] = template
    return tuple(t for t in templates.values() if not styles or t.style in styles)


def _read(task: str, path: Path) -> Iterator[Template]:
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["templates"]
    except FileNotFoundError as error:
        raise DataError(f"{path}: the task {task!r} has no file of templates") from error
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise DataError(f"{path}: not a list of templates: {error}") from error
    for entry in entries:
        if set(entry) != {"id", "style", "text"} or entry["style"] not in STYLES:
            raise DataError(
                f"{path}: a template has id, text and a style out of {', '.join(STYLES)}, "
                f"not {entry}"
            )
        template = Template(
            id=f"{task}.{entry['id']}", style=entry["style"], text=entry["text"], file=str(path)
        )
        assert template.fields is not None
        yield template


def held_out_templates(
    templates: tuple[Template, ...], *, count: int, seed: int
) -> tuple[Template, ...]:
    """The `count` templates of a task that only test examples use, by hash."""
    ranked = sorted(templates, key=lambda template: hashing.digest(seed, "phrasing", template.id))
    return tuple(ranked[:count])


def choose_template(
    templates: tuple[Template, ...], *, seed: int, example: str, phrasing: int = 0
) -> Template:
    """The template of an example: a pure function of the seed and the example's hash.

    `phrasing` numbers the phrasings of one example, which all differ (up to the bank's size).
    """
    first = int(hashing.fraction(seed, "template", example) * len(templates))
    return templates[(first + phrasing) % len(templates)]
