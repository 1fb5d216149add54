"""Where the records of a build wait on disk: one file for each finished task, cut into slices.

A file holds compressed blocks, one for each stream and slice of its keys' hashes, then an index and
the task's tally. It takes its name when it is complete, so a file that is there is finished work.
"""

import os
import pickle
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrec_jax.instructions.flow import FILES, Emission, Group
from instructrec_jax.instructions.tally import Tally

_MAGIC = b"records\n"
_FAST, _LEAST_COMPRESSED = 1, 4_000
# Records of a stream and slice that are compressed together; they wait for that in memory.
_BLOCK_RECORDS = 4096
# All blocks are written where so many records have come since they last were.
_RECORDS_WAITING = 100_000


@dataclass(frozen=True)
class Finished:
    """What a task left behind: sizes of its streams in bytes on disk, and its tally."""

    path: Path
    sizes: dict[str, int]
    tally: Tally


@dataclass(frozen=True)
class _Footer:
    blocks: dict[tuple[str, int], list[tuple[int, int]]]
    tally: Tally


def write(
    path: Path, emissions: Iterable[Emission], *, slices: int, files: Path, tally: Tally
) -> Finished:
    """Write the records of a task; those of the stream FILES become files of the folder `files`.

    `tally` is read when all emissions are done.
    """
    blocks: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    waiting: dict[tuple[str, int], list[tuple[str, Any]]] = defaultdict(list)
    count = 0
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:

        def flush(block: tuple[str, int]) -> None:
            data = pickle.dumps(_packed(waiting.pop(block)), protocol=5)
            if _is_worth_compressing(data):
                data = zlib.compress(data, _FAST)
            blocks[block].append((file.tell(), len(data)))
            file.write(data)

        for stream, key, value in emissions:
            if stream == FILES:
                _write_file(files / key, value)
                continue
            block = stream, slice_of(key, slices)
            waiting[block].append((key, value))
            count += 1
            if len(waiting[block]) >= _BLOCK_RECORDS:
                flush(block)
            elif count >= _RECORDS_WAITING:
                count = 0
                for each in sorted(waiting):
                    flush(each)
        for block in sorted(waiting):
            flush(block)
        footer = pickle.dumps(_Footer(dict(blocks), tally), protocol=5)
        file.write(footer + struct.pack("<Q", len(footer)) + _MAGIC)
    os.replace(temporary, path)
    return Finished(path, _sizes(blocks), tally)


def finished(path: Path) -> Finished | None:
    """What is known of a task's file; None where it is not there or not whole."""
    try:
        with open(path, "rb") as file:
            footer = _footer(file)
    except FileNotFoundError:
        return None
    return Finished(path, _sizes(footer.blocks), footer.tally) if footer else None


def groups(
    paths: Iterable[Path], *, streams: tuple[str, ...], slices: range
) -> Iterator[tuple[str, Group]]:
    """All records of the streams whose keys fall in the slices, by key, in the keys' order."""
    found: dict[str, dict[str, list[Any]]] = {}
    for path in paths:
        with open(path, "rb") as file:
            footer = _footer(file)
            assert footer is not None, path
            for stream in streams:
                for number in slices:
                    for start, length in footer.blocks.get((stream, number), ()):
                        file.seek(start)
                        for key, value in _records(file.read(length)):
                            if key not in found:
                                found[key] = {name: [] for name in streams}
                            found[key][stream].append(value)
    for key in sorted(found):
        yield key, found.pop(key)


def _is_worth_compressing(data: bytes) -> bool:
    """Whether its beginning gets a third smaller: hashes do not."""
    sample = data[:_LEAST_COMPRESSED]
    return 3 * len(zlib.compress(sample, _FAST)) < 2 * len(sample) == 2 * _LEAST_COMPRESSED


def _packed(records: list[tuple[str, Any]]) -> tuple[Any, list[str], list[Any]]:
    """Named tuples of one kind as (kind, keys, plain tuples): those are fast to pickle."""
    keys, values = map(list, zip(*records, strict=True))
    kind = type(values[0])
    if hasattr(kind, "_make") and all(type(value) is kind for value in values):
        return kind, keys, list(map(tuple, values))
    return None, keys, values


def _records(data: bytes) -> Iterator[tuple[str, Any]]:
    # A pickle begins with 0x80, a zlib stream with 0x78.
    kind, keys, values = pickle.loads(data if data[0] == pickle.PROTO[0] else zlib.decompress(data))
    return zip(keys, values if kind is None else map(kind._make, values), strict=True)


def slice_of(key: str, slices: int) -> int:
    """The slice of a key, by a hash that is the same in every process."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % slices


def _write_file(path: Path, contents: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(contents)
    os.replace(temporary, path)


def _footer(file: Any) -> _Footer | None:
    file.seek(0, os.SEEK_END)
    size, ending = file.tell(), 8 + len(_MAGIC)
    if size < ending:
        return None
    file.seek(size - ending)
    length, magic = struct.unpack("<Q", file.read(8))[0], file.read()
    if magic != _MAGIC or length > size - ending:
        return None
    file.seek(size - ending - length)
    return pickle.loads(file.read(length))


def _sizes(blocks: dict[tuple[str, int], list[tuple[int, int]]]) -> dict[str, int]:
    sizes: dict[str, int] = defaultdict(int)
    for (stream, _), parts in blocks.items():
        sizes[stream] += sum(length for _, length in parts)
    return dict(sizes)
