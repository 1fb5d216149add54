"""Tasks that take something out of code and ask for it back; nothing is run."""

import ast
import re
import warnings
from collections.abc import Iterator

from instructrec_jax.instructions.document import Context, Document, Draft

_LONGEST_CODE = 1_500
_LONGEST_DOCSTRING = 1_500
_SHORTEST_NAME = 3
_LEAST_USES = 3
_NEXT_LINES = 4
_SHORTEST_STATEMENT = 10
_COMMENT_WORDS = 4
# What a comment that says what to do next begins with.
_VERBS = """
add adjust allocate append apply assign build calculate call change check choose clean clear
close collect combine compare compute convert copy count create cut decode define delete
determine discard divide double drop encode ensure escape evaluate execute expand extract fetch
fill filter find finish fix flush format generate get give group handle ignore increment
initialise initialize insert invoke join keep limit load log look loop make mark match merge
move multiply normalise normalize notify open parse pass pick pop prepare print process pull
push put raise read recalculate record register reject release remember remove rename replace
report reset resolve restore return reverse round run save scan schedule search select send
set shift skip sort split start stop store strip subtract sum swap take test transform
trim truncate try turn unpack update use validate verify wait wrap write yield
"""
_NOT_ABOUT_CODE = re.compile(r"TODO|XXX|FIXME|noqa|type:|pragma|pylint|fmt:|!|>>>|---|===")

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _function(document: Document, context: Context) -> _Function | None:
    """The syntax tree of a function's code, None for what is none or too long."""
    content = document.content
    if content["kind"] != "function" or not content["body"] or len(content["code"]) > _LONGEST_CODE:
        return None

    def parse() -> _Function | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                (function,) = ast.parse(content["code"]).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        return function if isinstance(function, _Function) else None

    return context.remember(document, "tree", parse)


def _parameters(function: _Function) -> list[ast.arg]:
    arguments = function.args
    starred = [arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    every = [*arguments.posonlyargs, *arguments.args, *(a for a in starred if a is not None)]
    return [argument for argument in every if argument.arg not in ("self", "cls")]


def _header(function: _Function, signature: str) -> str:
    """The header as it was written, "" where it holds more or less than that."""
    try:
        (parsed,) = ast.parse(f"{signature} pass").body
    except SyntaxError:
        return ""
    assert isinstance(parsed, _Function)
    whole = ast.unparse(parsed.args) == ast.unparse(function.args)
    return signature if whole and "#" not in signature else ""


def recover_types(document: Document, context: Context) -> Iterator[Draft]:
    """A function without its annotations → its header with them."""
    function = _function(document, context)
    if function is None or not any(a.annotation for a in _parameters(function)):
        return
    target = _header(function, document.content["signature"])
    bare = ast.parse(ast.unparse(function)).body[0]
    assert isinstance(bare, _Function)
    for argument in ast.walk(bare.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    bare.returns, bare.decorator_list = None, []
    bare.body = [ast.Pass()]
    header = ast.unparse(bare).removesuffix("\n    pass")
    content = document.content
    if target:
        fields = {"input": f"{header}\n{content['body']}", "name": content["name"]}
        yield Draft(fields, target=target)


def name_variable(document: Document, context: Context) -> Iterator[Draft]:
    """A function in which one variable or parameter is blanked out everywhere → its name."""
    function = _function(document, context)
    if function is None or document.content["body"].count("\n") < 2:
        return
    nodes = list(ast.walk(function))
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names = stored | {argument.arg for argument in _parameters(function)}
    code: str = document.content["code"]
    # Keywords of calls and attributes are names of something else.
    foreign = {n.arg for n in nodes if isinstance(n, ast.keyword)}
    foreign |= {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    candidates = [
        name
        for name in sorted(names - foreign)
        if len(name.strip("_")) >= _SHORTEST_NAME
        and len(re.findall(rf"\b{re.escape(name)}\b", code)) >= _LEAST_USES
        and name not in re.sub(rf"\b{re.escape(name)}\b", "", code)
    ]
    if candidates:
        name = context.random(document, "variable").choice(candidates)
        yield Draft({"input": re.sub(rf"\b{re.escape(name)}\b", "____", code)}, target=name)


def write_signature(document: Document, context: Context) -> Iterator[Draft]:
    """A docstring that speaks of every parameter → the function's header."""
    content = document.content
    docstring: str = content["docstring"]
    function = _function(document, context)
    if function is None or not docstring or len(docstring) > _LONGEST_DOCSTRING:
        return
    names = [argument.arg for argument in _parameters(function)]
    header = _header(function, content["signature"])
    told = all(re.search(rf"\b{re.escape(name)}\b", docstring) for name in names)
    if names and told and header:
        yield Draft({"input": docstring, "name": content["name"]}, target=header)


def complete_code(document: Document, context: Context) -> Iterator[Draft]:
    """The beginning of a function → its next statement."""
    function = _function(document, context)
    if function is None:
        return
    lines: list[str] = document.content["code"].split("\n")
    first = function.body[0].lineno + 1
    places = [
        (node.lineno, node.end_lineno)
        for node in ast.walk(function)
        if isinstance(node, ast.stmt)
        and node.lineno > first
        and (node.end_lineno or 0) - node.lineno < _NEXT_LINES
    ]
    chosen = [
        (start, end)
        for start, end in sorted(set(places))
        if end and len("".join(lines[start - 1 : end]).strip()) >= _SHORTEST_STATEMENT
    ]
    if chosen:
        start, end = context.random(document, "completion").choice(chosen)
        source = "\n".join(lines[: start - 1]).rstrip()
        target = "\n".join(lines[start - 1 : end])
        yield Draft({"input": source, "name": document.content["name"]}, target=target)


def code_from_comment(document: Document, context: Context) -> Iterator[Draft]:
    """The beginning of a function up to a comment → the statement that the comment is about."""
    if "#" not in document.content["code"]:
        return
    function = _function(document, context)
    if function is None:
        return
    lines: list[str] = document.content["code"].split("\n")
    simple = {
        node.lineno: node
        for node in ast.walk(function)
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Return | ast.Expr)
        and node.lineno == node.end_lineno
    }
    for number in sorted(simple):
        if number < 3:
            continue
        comment, before = lines[number - 2].strip(), lines[number - 3].strip()
        statement = ast.unparse(simple[number])
        if not comment.startswith("#") or before.startswith("#"):
            continue
        # A comment above several statements is about all of them.
        below = lines[number] if number < len(lines) else ""
        if _indentation(below) == _indentation(lines[number - 1]) and below.strip()[:1] != "#":
            continue
        if _is_about(comment, statement):
            source = "\n".join(lines[: number - 1])
            fields = {"input": source, "comment": comment.lstrip("# ")}
            yield Draft(fields, target=lines[number - 1].strip())
            return


def _indentation(line: str) -> int:
    """Of a line that is not blank, else -1."""
    return len(line) - len(line.lstrip()) if line.strip() else -1


def _is_about(comment: str, statement: str) -> bool:
    """Whether a comment says what to do and shares a word with the statement."""
    words = re.findall(r"[a-z]{4,}", comment.lower())
    if comment.lstrip("# ").split(" ")[0].lower() not in _VERBS.split():
        return False
    if len(comment.split()) <= _COMMENT_WORDS or _NOT_ABOUT_CODE.search(comment):
        return False
    code = " ".join(re.findall(r"[a-z]{3,}", statement.lower().removeprefix("return ")))
    return any(word[:5] in code for word in words)
