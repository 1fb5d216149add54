"""Writing a dataset folder: shards that zcat shows, the same bytes for the same examples."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from instructrec_jax.instructions.example import SPLITS, InstructionExample

_EXAMPLES_PER_SHARD = 20_000


def write_examples(folder: Path, examples: Sequence[InstructionExample]) -> dict[str, Any]:
    """Write every split's shards; {file: {"examples": n, "sha256": hash}}, in order.

    A split without examples gets no file.
    """
    files: dict[str, Any] = {}
    for split in SPLITS:
        rows = [example for example in examples if example.split == split]
        shards = -(-len(rows) // _EXAMPLES_PER_SHARD)
        for number in range(shards):
            name = f"{split}-{number:05d}-of-{shards:05d}.jsonl.gz"
            part = rows[number * _EXAMPLES_PER_SHARD : (number + 1) * _EXAMPLES_PER_SHARD]
            digest = write_json_lines(folder / name, (row.to_record() for row in part))
            files[name] = {"examples": len(part), "sha256": digest}
    return files


def write_json_lines(path: Path, records: Iterable[dict[str, Any]]) -> str:
    """Write records as gzip'd JSON lines without time or name inside; the file's SHA-256."""
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        for record in records:
            file.write(json_line(record).encode("utf-8", "surrogatepass"))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def json_line(record: dict[str, Any]) -> str:
    """The record on one line, in characters that a person can read."""
    text = json.dumps(record, ensure_ascii=False)
    # A reader that cuts at them would cut inside a string.
    for character in "\u2028\u2029\x85":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text + "\n"


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write one JSON object over many lines."""
    path.write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
