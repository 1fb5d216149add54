"""Where the records of a build wait on disk: one file for each finished task, cut into slices.

A slice is a range of the hashes of keys. A file holds compressed blocks of one stream and slice
each, tables of them by slice, then the task's tally and a header. The number of slices is a power
of two, so that those of all files nest: what falls into a part of the hashes is found in few blocks
of each file. A file takes its name when it is complete, so one that is there is finished work.
"""

import mmap
import os
import pickle
import struct
import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from instructrec_jax.instructions.flow import FILES, Emission, Group
from instructrec_jax.instructions.tally import Tally

_MAGIC = b"records\n"
_FAST, _LEAST_COMPRESSED = 1, 4_000
# Bytes of records that wait in memory until they are written; that are held when they are read;
# and that a slice should have. All sizes here are of records in memory: pickled, before
# compression, and for each so much more as its objects take.
_BYTES_WAITING = _BYTES_AT_ONCE = _BYTES_OF_SLICE = 16 << 20
_BYTES_OF_OBJECTS = 400
_FEWEST_SLICES = 64
# What a record is taken for until some of its stream have been written.
_BYTES_OF_RECORD = 4_096
# Where one key has very many records, more passes make none of them smaller.
_MOST_PASSES = 16
# Parts are not halved further: keys whose hashes are as near as this are held together.
_MOST_PARTS = 1 << 24
# A block's slice, place, length, and size of its records.
_ROW = struct.Struct("<4Q")


@dataclass(frozen=True)
class Part:
    """A range of the hashes of keys: the one of this number out of `count`, a power of two."""

    number: int
    count: int

    def meets(self, other: "Part") -> bool:
        """Whether one of the two lies in the other."""
        count = min(self.count, other.count)
        return self.number * count // self.count == other.number * count // other.count

    def split(self, count: int) -> "list[Part]":
        """So many parts of it, a power of two."""
        return [Part(self.number * count + i, self.count * count) for i in range(count)]


@dataclass(frozen=True)
class Finished:
    """What a task left behind: sizes of its streams in memory, in bytes, and its tally."""

    path: Path
    sizes: dict[str, int]
    tally: Tally


@dataclass(frozen=True)
class _Header:
    """`tables`: place and length of the rows of a stream's blocks, by slice; `tally`: as well."""

    slices: int
    sizes: dict[str, int]
    tables: dict[str, tuple[int, int]]
    tally: tuple[int, int]


class _Block(NamedTuple):
    path: Path
    stream: str
    part: Part
    start: int
    length: int
    size: int


def parts_for(size: int, most: int, *, fewest: int = 1) -> int:
    """The least power of two, but `fewest`, of parts of so many bytes that have `most` each."""
    return max(fewest, 1 << max(0, -(-size // most) - 1).bit_length())


def slices_for(size: int) -> int:
    """How many slices to cut a stream of so many bytes into."""
    return parts_for(size, _BYTES_OF_SLICE, fewest=_FEWEST_SLICES)


def slice_of(key: str, slices: int) -> int:
    """The slice of a key, by a hash that is the same in every process."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) * slices >> 32


def write(
    path: Path, emissions: Iterable[Emission], *, slices: int, files: Path, tally: Tally
) -> Finished:
    """Write the records of a task; those of the stream FILES become files of the folder `files`.

    `tally` is read when all emissions are done.
    """
    rows: dict[str, list[tuple[int, int, int, int]]] = defaultdict(list)
    weights: dict[str, int] = defaultdict(lambda: _BYTES_OF_RECORD)
    compressed: dict[str, bool] = {}
    waiting: dict[tuple[str, int], list[tuple[str, Any]]] = defaultdict(list)
    held = 0
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        for stream, key, value in emissions:
            if stream == FILES:
                _write_file(files / key, value)
                continue
            waiting[stream, slice_of(key, slices)].append((key, value))
            held += weights[stream]
            if held >= _BYTES_WAITING:
                _flush(file, waiting, rows, weights, compressed)
                held = 0
        _flush(file, waiting, rows, weights, compressed)
        sizes = {stream: sum(row[3] for row in found) for stream, found in rows.items()}
        tables = {}
        for stream, found in rows.items():
            tables[stream] = _append(file, b"".join(_ROW.pack(*row) for row in sorted(found)))
        header = _Header(slices, sizes, tables, _append(file, pickle.dumps(tally, protocol=5)))
        _, length = _append(file, pickle.dumps(header, protocol=5))
        file.write(struct.pack("<Q", length) + _MAGIC)
    os.replace(temporary, path)
    return Finished(path, sizes, tally)


def finished(path: Path) -> Finished | None:
    """What is known of a task's file; None where it is not there or not whole."""
    try:
        with open(path, "rb") as file:
            header = _header(file)
            if header is None:
                return None
            start, length = header.tally
            file.seek(start)
            return Finished(path, header.sizes, pickle.loads(file.read(length)))
    except FileNotFoundError:
        return None


def groups(
    paths: Iterable[Path], *, streams: tuple[str, ...], part: Part, most: int = _BYTES_AT_ONCE
) -> Iterator[tuple[str, Group]]:
    """All records of the streams whose keys' hashes fall in the part, by key.

    About `most` bytes of them are held at a time, or all of one key: more are read in passes, and
    a pass that turns out to hold more, since few keys have many records each, in halves.
    """
    blocks = [block for path in paths for block in _blocks(path, streams, part)]
    size = sum(block.size * min(block.part.count, part.count) // part.count for block in blocks)
    passes = part.split(min(_MOST_PASSES, parts_for(size, most)))[::-1]
    while passes:
        each = passes.pop()
        # Small parts are never just as large as was reckoned.
        bound = 2 * most if each.count < _MOST_PARTS else None
        found = _held([b for b in blocks if each.meets(b.part)], streams, each, bound)
        if found is None:
            passes += each.split(2)[::-1]
            continue
        for key in sorted(found):
            yield key, dict(zip(streams, found.pop(key), strict=True))


def _held(
    blocks: list[_Block], streams: tuple[str, ...], part: Part, most: int | None
) -> dict[str, tuple[list[Any], ...]] | None:
    """By key the records of each stream; None where those of several keys are over `most` bytes."""
    found: dict[str, tuple[list[Any], ...]] = {}
    held = 0
    for path, of_file in groupby(blocks, key=attrgetter("path")):
        with open(path, "rb") as file:
            for block in of_file:
                file.seek(block.start)
                keys, values = _records(file.read(block.length))
                place, is_finer = streams.index(block.stream), block.part.count < part.count
                taken = 0
                for key, value in zip(keys, values, strict=True):
                    group = found.get(key)
                    if group is None:
                        if is_finer and slice_of(key, part.count) != part.number:
                            continue
                        group = found[key] = tuple([] for _ in streams)
                    group[place].append(value)
                    taken += 1
                held += block.size * taken // len(keys)
                if most is not None and held > most and len(found) > 1:
                    return None
    return found


def _blocks(path: Path, streams: tuple[str, ...], part: Part) -> Iterator[_Block]:
    """The blocks of a file that meet the part; of its tables no more is read than must be."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header = _header(file)
        assert header is not None, path
        slices = header.slices
        first = part.number * slices // part.count
        last = max(first + 1, (part.number + 1) * slices // part.count)
        for stream in streams:
            start, length = header.tables.get(stream, (0, 0))
            count = length // _ROW.size

            def slice_at(row: int, start: int = start) -> int:
                return _ROW.unpack_from(data, start + row * _ROW.size)[0]

            rows = range(count)
            begin, end = (bisect_left(rows, number, key=slice_at) for number in (first, last))
            for row in range(begin, end):
                number, *rest = _ROW.unpack_from(data, start + row * _ROW.size)
                yield _Block(path, stream, Part(number, slices), *rest)


def _flush(
    file: Any,
    waiting: dict[tuple[str, int], list[tuple[str, Any]]],
    rows: dict[str, list[tuple[int, int, int, int]]],
    weights: dict[str, int],
    compressed: dict[str, bool],
) -> None:
    """Write all records that wait; `weights` become the mean sizes of each stream's.

    `compressed` is told by a stream's first block that is long enough.
    """
    totals: dict[str, tuple[int, int]] = {}
    for stream, number in sorted(waiting):
        records = waiting.pop((stream, number))
        packed = pickle.dumps(_packed(records), protocol=5)
        data = packed
        if len(packed) >= _LEAST_COMPRESSED:
            if stream not in compressed:
                compressed[stream] = _is_worth_compressing(packed)
            data = zlib.compress(packed, _FAST) if compressed[stream] else packed
        size = len(packed) + len(records) * _BYTES_OF_OBJECTS
        rows[stream].append((number, *_append(file, data), size))
        count, total = totals.get(stream, (0, 0))
        totals[stream] = count + len(records), total + size
    weights.update({stream: size // count for stream, (count, size) in totals.items()})


def _append(file: Any, data: bytes) -> tuple[int, int]:
    """Write the data; their place and length."""
    start = file.tell()
    return start, file.write(data)


def _is_worth_compressing(data: bytes) -> bool:
    """Whether its beginning gets a third smaller: hashes do not."""
    sample = data[:_LEAST_COMPRESSED]
    return 3 * len(zlib.compress(sample, _FAST)) < 2 * len(sample)


def _packed(records: list[tuple[str, Any]]) -> tuple[Any, list[str], list[Any]]:
    """Named tuples of one kind as (kind, keys, plain tuples): those are fast to pickle."""
    keys, values = map(list, zip(*records, strict=True))
    kind = type(values[0])
    if hasattr(kind, "_make") and all(type(value) is kind for value in values):
        return kind, keys, list(map(tuple, values))
    return None, keys, values


def _records(data: bytes) -> tuple[list[str], Iterable[Any]]:
    """Keys and values of a block."""
    # A pickle begins with 0x80, a zlib stream with 0x78.
    kind, keys, values = pickle.loads(data if data[0] == pickle.PROTO[0] else zlib.decompress(data))
    return keys, values if kind is None else map(kind._make, values)


def _write_file(path: Path, contents: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(contents)
    os.replace(temporary, path)


def _header(file: Any) -> _Header | None:
    """The header at the file's end; None where the file is not whole."""
    ending = 8 + len(_MAGIC)
    size = file.seek(0, os.SEEK_END)
    if size < ending:
        return None
    file.seek(size - ending)
    length, magic = struct.unpack("<Q", file.read(8))[0], file.read()
    if magic != _MAGIC or length > size - ending:
        return None
    file.seek(size - ending - length)
    found: _Header = pickle.loads(file.read(length))
    return found
