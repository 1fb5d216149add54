"""Writing result files whole or not at all."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from instructrec_jax.instructions.writing import json_line


def write_whole(path: Path, text: str) -> None:
    """Write `text` as UTF-8 in one move: a killed program leaves the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    os.replace(partial, path)


def json_text(value: Any) -> str:
    """Indented JSON; numbers that are not finite become null, since JSON has none."""
    return json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line; numbers that are not finite become null."""
    return "".join(json_line(finite(record)) for record in records)


def finite(value: Any) -> Any:
    """The same tree of dicts and lists with None for every float that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value
