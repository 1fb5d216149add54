"""Tasks about code and its documentation, from `python_definition` documents."""

import ast
import doctest
import re
from collections.abc import Iterator

from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.mutation import (
    MISTAKES,
    RARER_MISTAKES,
    Mutant,
    sample_mutants,
)
from instructrec_jax.instructions.tasks.runs import mutant_runs, real_bugs

_SUMMARY_CHARACTERS = (12, 120)
_SHORTEST_REST = 60
_LONGEST_DOCSTRING = 1_500
_LONGEST_DESCRIPTION = 400
_LONGEST_CODE = 1_500
_LONGEST_BODY = 600
_MUTATED_LINES = (3, 25)
_MUTANTS_PER_FUNCTION = 2


def _summary_and_rest(docstring: str) -> tuple[str, str]:
    """A docstring's summary line and the text below it; ("", "") where it has no such shape."""
    summary, separator, rest = docstring.partition("\n\n")
    shortest, longest = _SUMMARY_CHARACTERS
    if not separator or "\n" in summary or not shortest <= len(summary) <= longest:
        return "", ""
    if not summary[0].isalpha() or len(summary.split()) < 3 or "(" in summary.split()[0]:
        return "", ""
    return summary.strip(), rest.strip()


def _cut(text: str, length: int) -> str:
    """The text's first whole lines, `length` characters at most."""
    if len(text) <= length:
        return text
    return text[: length + 1].rpartition("\n")[0].rstrip()


def summarise_docstring(document: Document, context: Context) -> Iterator[Draft]:
    """The docstring without its summary line → the summary line."""
    summary, rest = _summary_and_rest(document.content["docstring"])
    rest = _cut(rest, _LONGEST_DOCSTRING)
    if summary and len(rest) >= _SHORTEST_REST:
        yield Draft({"input": rest, "kind": document.content["kind"]}, target=summary)


def extract_summary(document: Document, context: Context) -> Iterator[Draft]:
    """The whole docstring → its summary line."""
    docstring = _cut(document.content["docstring"], _LONGEST_DOCSTRING)
    summary, rest = _summary_and_rest(docstring)
    if summary and len(rest) >= _SHORTEST_REST:
        yield Draft({"input": docstring, "kind": document.content["kind"]}, target=summary)


def _description(docstring: str) -> str:
    """A docstring short enough to be written, else its first paragraph."""
    if len(docstring) <= _LONGEST_DESCRIPTION and ">>>" not in docstring:
        return docstring
    return docstring.partition("\n\n")[0]


def document_function(document: Document, context: Context) -> Iterator[Draft]:
    """A function without its docstring → the docstring."""
    content = document.content
    target = _description(content["docstring"])
    if content["kind"] != "function" or len(target.split()) < 3 or not content["body"]:
        return
    if content["code"].count("\n") >= 2 and len(content["code"]) <= _LONGEST_CODE:
        yield Draft({"input": content["code"], "name": content["name"]}, target=target)


def document_class(document: Document, context: Context) -> Iterator[Draft]:
    """A class's header and the signatures of its methods → the docstring."""
    content = document.content
    target = _description(content["docstring"])
    if content["kind"] != "class" or len(target.split()) < 3 or not content["methods"]:
        return
    outline = "\n".join([content["signature"], *(f"    {line}" for line in content["methods"])])
    yield Draft({"input": _cut(outline, _LONGEST_CODE), "name": content["name"]}, target=target)


def write_body(document: Document, context: Context) -> Iterator[Draft]:
    """A function's signature and docstring → its body."""
    content = document.content
    if content["kind"] != "function" or not content["docstring"] or not content["body"]:
        return
    if len(content["body"]) > _LONGEST_BODY:
        return
    indent = re.match(r"\s*", content["body"])
    lines = f'"""{content["docstring"]}"""'.split("\n")
    docstring = "\n".join((indent[0] if indent else "") + line if line else "" for line in lines)
    source = f"{content['signature']}\n{docstring}"
    yield Draft({"input": source, "name": content["name"]}, target=content["body"])


def name_function(document: Document, context: Context) -> Iterator[Draft]:
    """A function whose name is blanked out → the name."""
    content = document.content
    name: str = content["name"]
    if content["kind"] != "function" or name.startswith("__") or len(name.strip("_")) < 4:
        return
    if content["body"].count("\n") < 2 or len(content["code"]) > _LONGEST_CODE:
        return
    code = re.sub(rf"\b{re.escape(name)}\b", "____", content["code"])
    yield Draft({"input": code}, target=name)


def list_parameters(document: Document, context: Context) -> Iterator[Draft]:
    """A function's signature → the names of its parameters."""
    content = document.content
    if content["kind"] != "function":
        return
    try:
        (function,) = ast.parse(content["signature"] + " pass").body
    except SyntaxError:
        return
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    arguments = function.args
    starred = [arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    every = [*arguments.posonlyargs, *arguments.args, *(a for a in starred if a is not None)]
    names = [argument.arg for argument in every if argument.arg not in ("self", "cls")]
    if len(names) >= 2:
        fields = {"input": content["signature"], "name": content["name"], "count": len(names)}
        yield Draft(fields, target=", ".join(names))


def _mistakes(document: Document, context: Context) -> list[Mutant]:
    """The function's sampled mutants, the same ones for every task."""
    content = document.content
    shortest, longest = _MUTATED_LINES
    if content["kind"] != "function" or not content["body"]:
        return []
    if not shortest <= content["code"].count("\n") + 1 <= longest:
        return []
    return context.remember(
        document,
        "mistakes",
        lambda: sample_mutants(
            content["code"],
            count=_MUTANTS_PER_FUNCTION,
            choose=context.random(document, "mistakes"),
        ),
    )


def _rarer_mistakes(document: Document, context: Context) -> list[Mutant]:
    """A mutant of a kind that too few functions have for the tasks that classify."""
    choose = context.random(document, "rarer_mistakes")
    return sample_mutants(document.content["code"], count=1, choose=choose, kinds=RARER_MISTAKES)


def find_bug(document: Document, context: Context) -> Iterator[Draft]:
    """A function with one mistake → the line and how it should read.

    Where the function can be run, only mistakes that a run shows are taken.
    """
    if mutant_runs(document, context):
        runs = [run for run, _ in real_bugs(document, context)]
        mutants = [run.mutant for run in runs if run.mutant is not None]
    else:
        mutants = _mistakes(document, context)
        mutants = [*mutants, *_rarer_mistakes(document, context)] if mutants else []
    for mutant in mutants:
        target = f"Line {mutant.line}: `{mutant.after}` should be `{mutant.before}`."
        yield Draft({"input": mutant.code, "name": document.content["name"]}, target=target)


def classify_bug(document: Document, context: Context) -> Iterator[Draft]:
    """A function with one mistake → the kind of mistake."""
    for mutant in _mistakes(document, context)[:1]:
        options = _shuffled_kinds(document, context)
        fields = {"input": mutant.code, "options": options}
        yield Draft(fields, target=mutant.kind, options=options)


def classify_change(document: Document, context: Context) -> Iterator[Draft]:
    """A line before and after a mistake was put in → the kind of mistake."""
    for mutant in _mistakes(document, context):
        options = _shuffled_kinds(document, context)
        fields = {"input": f"- {mutant.before}\n+ {mutant.after}", "options": options}
        yield Draft(fields, target=mutant.kind, options=options)


def _shuffled_kinds(document: Document, context: Context) -> tuple[str, ...]:
    return tuple(context.random(document, "options").sample(list(MISTAKES), len(MISTAKES)))


def doctest_output(document: Document, context: Context) -> Iterator[Draft]:
    """A docstring's interactive session up to a prompt → what Python prints next."""
    docstring = document.content["docstring"]
    if ">>>" not in docstring:
        return
    try:
        session = doctest.DocTestParser().get_examples(docstring)
    except ValueError:
        return
    lines: list[str] = []
    for example in session:
        source = example.source.rstrip("\n").split("\n")
        lines += [f">>> {source[0]}", *(f"... {line}" for line in source[1:])]
        printed = example.want.rstrip("\n")
        if printed and "..." not in printed and not example.exc_msg:
            yield Draft({"input": "\n".join(lines)}, target=printed)
        lines += printed.split("\n") if printed else []
