"""Datasets of TensorFlow Datasets and of Hugging Face: their records, in runs of 1000.

Both libraries are loaded only where a corpus is read by them. TFDS reads what is prepared;
Hugging Face's library fetches a dataset that it knows by name alone, unless HF_HUB_OFFLINE=1.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instructrec_jax.errors import DataError
from instructrec_jax.instructions.document import Document, Unreadable
from instructrec_jax.instructions.sources import rows
from instructrec_jax.instructions.sources.corpus import UNKNOWN_LICENCE, Corpus, Option

TFDS_OPTIONS = {
    **rows.OPTIONS,
    "split": Option("train", "of the dataset, such as train or validation"),
    "data_dir": Option("", "folder of the prepared datasets; empty = TFDS's own"),
}
HUGGING_FACE_OPTIONS = {
    **rows.OPTIONS,
    "split": Option("train", "of the dataset, where it has several"),
}
_ROWS_A_UNIT = 1_000


def tfds_units(corpus: Corpus) -> Iterator[tuple[str, ...]]:
    """Runs of records.

    Raises:
        DataError: the dataset or its split is not prepared, or lacks a column of the field map.
    """
    from instructrec_jax.instructions import tfds_source

    builder = _builder(corpus)
    split = corpus.options["split"]
    if split not in builder.info.splits:
        splits = ", ".join(builder.info.splits)
        raise DataError(f"{corpus.name}: {corpus.path} has no split {split!r}; it has {splits}")
    columns = tfds_source.columns_of(builder)
    _refuse(corpus, rows.missing_columns(corpus, columns, place=corpus.path))
    yield from _runs(builder.info.splits[split].num_examples)


def tfds_documents(corpus: Corpus, unit: tuple[str, ...]) -> Iterator[Document | Unreadable]:
    """The records of a run; `uri` is the dataset's full name and split, `span` the number twice."""
    from instructrec_jax.instructions import tfds_source

    _, start, end = unit
    builder = _builder(corpus)
    split = corpus.options["split"]
    licence = builder.info.redistribution_info.license or UNKNOWN_LICENCE
    records = tfds_source.readable_records(builder, f"{split}[{start}:{end}]")
    for number, row in enumerate(records, start=int(start) + 1):
        uri = f"tfds:{builder.info.full_name}/{split}"
        yield _document(corpus, row, uri=uri, number=number, licence=licence)


def _builder(corpus: Corpus) -> Any:
    from instructrec_jax.instructions import tfds_source

    data_dir = corpus.options["data_dir"]
    return tfds_source.prepared_builder(corpus.path, Path(data_dir) if data_dir else None)


def hugging_face_units(corpus: Corpus) -> Iterator[tuple[str, ...]]:
    """Runs of records.

    Raises:
        DataError: the dataset is not there, or lacks a column of the field map.
    """
    dataset = _dataset(corpus)
    _refuse(corpus, rows.missing_columns(corpus, dataset.column_names, place=corpus.path))
    yield from _runs(len(dataset))


def hugging_face_documents(
    corpus: Corpus, unit: tuple[str, ...]
) -> Iterator[Document | Unreadable]:
    """The records of a run; `uri` is the name as given and the split, `span` the number twice."""
    _, start, end = unit
    dataset = _dataset(corpus)
    licence = str(dataset.info.license or "") or UNKNOWN_LICENCE
    for number in range(int(start), int(end)):
        uri = f"huggingface:{Path(corpus.path).name}/{corpus.options['split']}"
        yield _document(corpus, dataset[number], uri=uri, number=number + 1, licence=licence)


def _dataset(corpus: Corpus) -> Any:
    """The dataset: a folder of save_to_disk, else a name that the library's cache holds."""
    import datasets

    datasets.disable_progress_bars()
    place = Path(corpus.path).expanduser()
    split = corpus.options["split"]
    try:
        if place.is_dir() and any(
            (place / name).exists() for name in ("state.json", "dataset_dict.json")
        ):
            found = datasets.load_from_disk(str(place))
        else:
            mode = datasets.DownloadMode.REUSE_DATASET_IF_EXISTS
            found = datasets.load_dataset(corpus.path, download_mode=mode)
    except Exception as error:  # the library raises many kinds
        detail = str(error).partition("\n")[0]
        raise DataError(f"{corpus.name}: {corpus.path} cannot be loaded: {detail}") from error
    if not isinstance(found, dict):
        return found
    if split not in found:
        splits = ", ".join(found)
        raise DataError(f"{corpus.name}: {corpus.path} has no split {split!r}; it has {splits}")
    return found[split]


def _runs(count: int) -> Iterator[tuple[str, ...]]:
    for start in range(0, count, _ROWS_A_UNIT):
        yield "rows", str(start), str(min(count, start + _ROWS_A_UNIT))


def _document(
    corpus: Corpus, row: dict[str, Any], *, uri: str, number: int, licence: str
) -> Document | Unreadable:
    if corpus.licence == UNKNOWN_LICENCE:
        corpus = Corpus(corpus.name, corpus.reader, corpus.path, licence, corpus.options)
    return rows.row_document(corpus, row, uri=uri, span=(number, number), raw=rows.canonical(row))


def _refuse(corpus: Corpus, found: list[str]) -> None:
    if found:
        raise DataError(f"{corpus.name}: {found[0]}")


def tfds_problems(corpus: Corpus) -> list[str]:
    """None that can be told without loading TensorFlow."""
    return []


def hugging_face_problems(corpus: Corpus) -> list[str]:
    """A line where the library is not installed."""
    if importlib.util.find_spec("datasets") is None:
        return ["reader: huggingface needs `pip install instructrec_jax[huggingface]`"]
    return []
