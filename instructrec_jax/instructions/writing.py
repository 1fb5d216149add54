"""Writing a dataset folder: shards that zcat shows, the same bytes for the same examples."""

import gzip
import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Iterator
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any

from instructrec_jax.instructions.example import SPLITS, InstructionExample
from instructrec_jax.instructions.reading import read_examples

_LINES_AT_ONCE = 256
_ENCODER = json.JSONEncoder(ensure_ascii=False)


def shard_name(split: str, number: int, count: int) -> str:
    """The file of a split's shard."""
    return f"{split}-{number:05d}-of-{count:05d}.jsonl.gz"


def collect_shards(source: Path, folder: Path, entries: dict[Any, Any]) -> dict[str, Any]:
    """Move the shards to the dataset's folder; {file: {"examples": n, "sha256": hash}}, in order.

    A shard that no example fell into is written empty; a split without examples gets no file.
    """
    found = {name: entry for (name,), entry in entries.items()}
    for split in SPLITS:
        names = [name for name in found if name.startswith(f"{split}-")]
        count = int(names[0].rpartition("-")[2].partition(".")[0]) if names else 0
        for number in range(count):
            name = shard_name(split, number, count)
            if name not in found:
                digest = write_gzipped(source / name, ())
                found[name] = {"examples": 0, "sha256": digest}
    for name in found:
        shutil.copyfile(source / name, folder / name)
    return dict(sorted(found.items(), key=lambda item: (SPLITS.index(item[0].split("-")[0]), item)))


def read_split(folder: Path, split: str) -> Iterator[InstructionExample]:
    """The examples of a split's shards, in order; none where the split has no file."""
    if any(folder.glob(f"{split}-*.jsonl.gz")):
        yield from read_examples(f"{escape(str(folder))}/{split}-*.jsonl.gz", split=split)


def gzipped(lines: Iterable[bytes]) -> bytes:
    """The lines as a gzip file without time or name inside."""
    contents = io.BytesIO()
    with gzip.GzipFile("", "wb", 6, contents, mtime=0) as file:
        rest = iter(lines)
        while batch := b"".join(islice(rest, _LINES_AT_ONCE)):
            file.write(batch)
    return contents.getvalue()


def write_gzipped(path: Path, lines: Iterable[bytes]) -> str:
    """Write `gzipped(lines)` to a file; the file's SHA-256."""
    contents = gzipped(lines)
    path.write_bytes(contents)
    return hashlib.sha256(contents).hexdigest()


def json_line(record: dict[str, Any]) -> str:
    """The record on one line, in characters that a person can read."""
    text = _ENCODER.encode(record)
    if text.isascii():
        return text + "\n"
    # A reader that cuts at them would cut inside a string.
    for character in "\u2028\u2029\x85":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text + "\n"


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write one JSON object over many lines."""
    path.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
