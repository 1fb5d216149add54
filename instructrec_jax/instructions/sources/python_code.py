"""The standard library's own source code: one document a function, method or class."""

import ast
import inspect
import sysconfig
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

from instructrec_jax.errors import DataError
from instructrec_jax.instructions.document import Document

LICENCE = "PSF-2.0"
# Tests and demonstrations are about the library; the codecs in `encodings` are one file a hundred
# times; the other folders hold code that is not the library's.
_EXCLUDED = """
__pycache__ dist-packages encodings ensurepip idlelib lib-dynload pydoc_data site-packages test
tests turtledemo
"""
EXCLUDED_FOLDERS = frozenset(_EXCLUDED.split())
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def root_folder() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def units(languages: tuple[str, ...]) -> list[tuple[str, ...]]:
    """One unit a source file.

    Raises:
        DataError: this Python comes without the sources of its library.
    """
    root = root_folder()
    files = sorted(_python_files(root), key=lambda path: path.relative_to(root).as_posix())
    if not files:
        raise DataError(f"{root}: no .py files of the standard library; leave out python_code")
    return [(path.relative_to(root).as_posix(),) for path in files]


def _python_files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and path.name not in EXCLUDED_FOLDERS:
            yield from _python_files(path)
        elif path.suffix == ".py" and not path.name.startswith("_sysconfigdata"):
            yield path


def documents(unit: tuple[str, ...], languages: tuple[str, ...], seed: int) -> Iterator[Document]:
    """Yield the definitions of a file; a file's definitions all go to one split."""
    (name,) = unit
    with tokenize.open(root_folder() / name) as file:
        source = file.read()
    yield from definitions(source, uri=name, licence=LICENCE)


def parsed(source: str) -> ast.Module | None:
    """The syntax tree of Python source, None where it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def definitions(source: str, *, uri: str, licence: str) -> Iterator[Document]:
    """Yield the documents of a file of the standard library; none of one that does not parse."""
    tree = parsed(source)
    if tree is not None:
        yield from definitions_of(tree, source, corpus="python_code", uri=uri, licence=licence)


def definitions_of(
    tree: ast.Module, source: str, *, corpus: str, uri: str, licence: str, encoding: str = ""
) -> Iterator[Document]:
    """Yield the top-level functions and classes of Python source, and the classes' methods.

    `content`: `kind` ("function" or "class"), `name`, `signature` (source up to the colon),
    `docstring` (cleaned, may be ""), `body` (the statements after the docstring, indented),
    `code` (signature and body), `methods` (signatures of a class's methods), `modules` (names that
    the file binds by `import name`).
    """
    # Not splitlines(): a form feed ends no line for the parser.
    lines = source.split("\n")
    modules = tuple(
        alias.name
        for node in tree.body
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.asname is None and "." not in alias.name
    )
    for qualified_name, node in _walk(tree.body, prefix=""):
        content = _content(node, lines)
        if content is None:
            continue
        first, last = node.lineno, node.end_lineno or node.lineno
        yield Document(
            corpus=corpus,
            uri=f"{uri}#{qualified_name}",
            span=(first, last),
            text=_dedented(lines[first - 1 : last]),
            licence=licence,
            group=uri,
            kind="python_definition",
            content={**content, "modules": modules},
            hashed="\n".join(lines[first - 1 : last]),
            encoding=encoding,
        )


def _walk(body: list[ast.stmt], *, prefix: str) -> Iterator[tuple[str, _Definition]]:
    for node in body:
        if isinstance(node, _Definition):
            yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from _walk(node.body, prefix=f"{prefix}{node.name}.")


def _content(node: _Definition, lines: list[str]) -> dict[str, object] | None:
    """What the generators read; None for a definition on one line or that cannot be dedented."""
    first_statement = node.body[0]
    header_end = first_statement.lineno - 1
    if header_end < node.lineno:
        return None
    docstring = ast.get_docstring(node, clean=False) or ""
    statements = node.body[1:] if docstring else node.body
    # Comments between the header and the first statement go with the body.
    header_end = min(header_end, _header_end(node, lines))
    signature = lines[node.lineno - 1 : header_end]
    body_start = (first_statement.end_lineno or 0) if docstring else header_end
    body = lines[body_start : node.end_lineno] if statements else []
    while body and not body[0].strip():
        body = body[1:]
    methods = [
        _dedented(lines[method.lineno - 1 : _header_end(method, lines)]).strip()
        for method in node.body
        if isinstance(node, ast.ClassDef)
        and isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    code = _dedented([*signature, *body])
    if code[:1].isspace():
        return None
    return {
        "kind": "class" if isinstance(node, ast.ClassDef) else "function",
        "name": node.name,
        "signature": "\n".join(code.split("\n")[: len(signature)]),
        "docstring": inspect.cleandoc(docstring).strip(),
        "body": "\n".join(code.split("\n")[len(signature) :]).rstrip(),
        "code": code.rstrip(),
        "methods": methods,
    }


def _header_end(node: _Definition, lines: list[str]) -> int:
    """The number of the line whose colon ends the definition's header."""
    last = node.lineno
    if isinstance(node, ast.ClassDef):
        parts: list[ast.AST] = [*node.bases, *node.keywords]
    else:
        arguments = node.args
        parts = [*ast.walk(arguments)] + ([node.returns] if node.returns else [])
    last = max([last, *(getattr(part, "end_lineno", 0) or 0 for part in parts)])
    while last < node.body[0].lineno and not lines[last - 1].split("#")[0].rstrip().endswith(":"):
        last += 1
    return last


def _dedented(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(line.rstrip() for line in lines))
