"""The token cache: a dataset's split as flat, memory-mapped token arrays, made at first use.

It is keyed by all that it depends on: the content of the source files, the tokenizer, the lengths,
the policy and the split. A changed source therefore has another key, and an old cache is never
taken for it. Prepared TFDS data behind a recipe count by the names, sizes and times of change of
their files. The files are written into a temporary folder that is renamed when it is complete; of
several processes one writes and the others wait.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import numpy as np

from instructrec_jax.data.token_cache_writer import (
    ARRAYS,
    INFO_FILE,
    POLICIES,
    cache_digest,
    write_token_cache,
)
from instructrec_jax.data.tokenizer import Tokenizer
from instructrec_jax.errors import ConfigError, DataError, nearest
from instructrec_jax.instructions.demonstrations import FewShot, Pools
from instructrec_jax.instructions.example import TRAIN, Demonstration, InstructionExample
from instructrec_jax.instructions.reading import (
    TFDS_RECIPE,
    has_splits,
    read_examples,
    split_of,
)

FORMAT_VERSION = 2
NO_DEMONSTRATIONS = FewShot()
# Where TensorFlow Datasets keeps prepared data unless told otherwise.
_TFDS_HOME = "~/tensorflow_datasets"


@dataclass(frozen=True)
class TokenCache:
    """Tokens of all examples of a split; example i is tokens[offsets[i]:offsets[i + 1]].

    Attributes:
        encoder_tokens: uint16 or int32 [encoder tokens], each example ends with eos.
        encoder_offsets: int64 [examples + 1].
        decoder_tokens: like encoder_tokens, the targets, each ends with eos.
        decoder_offsets: int64 [examples + 1].
        task_ids: int32 [examples], places in `tasks`.
        tasks: names, in the order of their first example.
        dropped: examples left out, by reason.
        truncated: examples whose input was cut.
        demonstrations_left_out: solved questions that did not fit in front of their example.
        unknown_tokens: tokens that are unk, on both sides; their characters are lost.
        sha256: hash of tokens, tasks and ids.
        id_bytes, id_offsets: the examples' ids in UTF-8, laid out like the tokens.
    """

    encoder_tokens: np.ndarray
    encoder_offsets: np.ndarray
    decoder_tokens: np.ndarray
    decoder_offsets: np.ndarray
    task_ids: np.ndarray
    tasks: tuple[str, ...]
    dropped: dict[str, int]
    truncated: int
    sha256: str
    unknown_tokens: int = 0
    demonstrations_left_out: int = 0
    id_bytes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    id_offsets: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.encoder_offsets) - 1

    def example_id(self, index: int) -> str:
        """The id of an example; its number where the cache has no ids."""
        if len(self.id_offsets) != len(self.encoder_offsets):
            return f"#{index}"
        start, end = self.id_offsets[index : index + 2]
        return bytes(self.id_bytes[start:end]).decode()


def open_token_cache(
    *,
    dataset: Path,
    split: str,
    tokenizer: Tokenizer,
    encoder_length: int,
    decoder_length: int,
    over_length: str,
    validation_fraction: float,
    seed: int,
    folder: Path,
    parse_sentinels: bool = False,
    few_shot: FewShot = NO_DEMONSTRATIONS,
    progress: Callable[[str], None] | None = None,
) -> TokenCache:
    """Open the token cache of a split, making it first if it is missing.

    Args:
        dataset: dataset folder, file or glob, as for `read_examples`.
        split: "train", "validation" or "test".
        encoder_length, decoder_length: most tokens of an example on each side, eos included.
        over_length: "drop" leaves longer examples out; "truncate_input" cuts the end of the input,
            never the instruction or the target, and leaves out what does not fit even so; "error"
            raises. What is left out or cut is counted.
        validation_fraction, seed: of the division where the data name no splits.
        parse_sentinels: whether "<extra_id_0>" in a text is the sentinel, not plain text.
        few_shot: which train examples are shown solved questions of their task, where they bring
            none of their own.
        folder: where caches are kept; `progress` takes lines of text for a person.

    Raises:
        ConfigError: unknown policy, or a folder that cannot be written.
        DataError: bad records, no examples, or an example over the limits under "error".
    """
    _check_policy(over_length)
    say = progress or (lambda line: None)
    splits_named = has_splits(dataset)
    files, prepared = _source_files(dataset, split)
    before = _signature(files + prepared)
    divided = split if splits_named else f"{split} by question {validation_fraction} {seed}"
    settings = (FORMAT_VERSION, encoder_length, decoder_length, over_length, divided)
    changes = " with sentinels" if parse_sentinels else ""
    if split != TRAIN:
        few_shot = NO_DEMONSTRATIONS
    if few_shot.share:
        changes += f" {few_shot}"
    path = folder / _key(files, prepared, f"{settings} {tokenizer.sha256}{changes}")
    if (cache := _load(path, say)) is not None:
        return cache
    name = f"the {split} split of {dataset}"
    with _sole_writer(path, say) as partial:
        # Another process may have been the writer meanwhile.
        if (cache := _load(path, say)) is not None:
            return cache
        say(f"tokenizing {name}")
        write_token_cache(
            _shown(
                lambda: _examples_of(dataset, split, splits_named, validation_fraction, seed),
                few_shot,
            ),
            tokenizer=tokenizer,
            encoder_length=encoder_length,
            decoder_length=decoder_length,
            over_length=over_length,
            parse_sentinels=parse_sentinels,
            name=name,
            folder=partial,
            progress=say,
        )
        if _signature(files + prepared) != before:
            raise DataError(f"{dataset} changed while it was read: start again once it rests")
        return _publish(partial, path)


def _check_policy(over_length: str) -> None:
    if over_length not in POLICIES:
        raise ConfigError(
            f"data.over_length={over_length}: not one of {', '.join(POLICIES)}"
            f"{nearest(over_length, POLICIES)}"
        )


def _publish(partial: Path, path: Path) -> TokenCache:
    """Give a complete cache its name, in place of a damaged one if there is one, and open it."""
    if path.exists():
        shutil.rmtree(path)
    partial.rename(path)
    cache = _load(path, None)
    if cache is None:
        raise ConfigError(f"the token cache {path} is damaged: delete it and start again")
    return cache


def _shown(
    read: Callable[[], Iterator[InstructionExample]], few_shot: FewShot
) -> Iterator[InstructionExample]:
    """The examples with their solved questions; those to choose from are read first."""
    if not few_shot.share:
        return read()
    pools = Pools(read(), few_shot)
    return map(pools.shown_to, read())


def _examples_of(
    dataset: Path, split: str, splits_named: bool, validation_fraction: float, seed: int
) -> Iterator[InstructionExample]:
    """The split's examples; or, where the data name none, those that their hash puts there."""
    if splits_named:
        yield from read_examples(dataset, split=split)
        return

    def part_of(question: InstructionExample | Demonstration) -> str:
        return split_of(question, validation_fraction=validation_fraction, seed=seed)

    for example in read_examples(dataset):
        if part_of(example) != split:
            continue
        if split == TRAIN:
            # A solved question may be one of those that validation asks.
            shown = tuple(each for each in example.demonstrations if part_of(each) == TRAIN)
            example = replace(example, demonstrations=shown)
        yield example


def _source_files(dataset: Path, split: str) -> tuple[list[Path], list[Path]]:
    """The files that `read_examples` reads, and the TFDS data behind recipes among them.

    It reports itself what is wrong with them.
    """
    if dataset.is_dir():
        return sorted(dataset.glob(f"{split}-*.jsonl.gz")), []
    names = [str(dataset)] if dataset.is_file() else glob.glob(str(dataset), recursive=True)
    files = [file for file in map(Path, sorted(names)) if file.is_file()]
    return files, _prepared_files(files)


def _prepared_files(files: list[Path]) -> list[Path]:
    """The prepared TFDS data that recipes among `files` read, where their folders can be found.

    What is wrong with a recipe is reported when it is read.
    """
    prepared: list[Path] = []
    for file in files:
        if not file.name.endswith(TFDS_RECIPE):
            continue
        try:
            recipe = json.loads(file.read_text(encoding="utf-8"))
            home = recipe.get("data_dir") or os.environ.get("TFDS_DATA_DIR", _TFDS_HOME)
            folder = Path(home).expanduser() / recipe["name"].replace(":", "/")
            prepared += sorted(path for path in folder.iterdir() if path.is_file())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return prepared


def _listing(files: list[Path]) -> str:
    """Path, size and time of change of files that are too large to be hashed at every start."""
    signed = zip(files, _signature(files), strict=True)
    return "".join(f"\n{file} {size} {changed}" for file, (size, changed) in signed)


def _key(files: list[Path], prepared: list[Path], settings: str) -> str:
    """Hash of settings, file names (ids are made of them) and contents, 32 hex digits."""
    digest = hashlib.sha256(f"{settings}{_listing(prepared)}".encode())
    names_unique = len({file.name for file in files}) == len(files)
    for file in files:
        with open(file, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        name = file.name if names_unique else file.as_posix()
        digest.update(f"\n{name} {content}".encode())
    return digest.hexdigest()[:32]


def _signature(files: list[Path]) -> list[tuple[int, int]]:
    """Size and time of change of each file, to notice one that changes while it is read."""
    stats = [file.stat() for file in files]
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def _load(path: Path, say: Callable[[str], None] | None) -> TokenCache | None:
    """Open a cache; None if there is none, or a file of it is missing, cut short or changed.

    The values are read whole for that, as the dataset's files are for the name; not without `say`.
    """
    try:
        info = json.loads((path / INFO_FILE).read_text())
        if any((path / name).stat().st_size != size for name, size in info["files"].items()):
            return None
        # Pages are copied on write, so that arrays count as writable (TensorFlow takes no other
        # kind without a copy) and the files stay as they are.
        arrays = {name: np.load(path / f"{name}.npy", mmap_mode="c") for name in ARRAYS}
        if say is not None and _digest(path, arrays, info["tasks"]) != info["sha256"]:
            say(f"WARNING: the token cache {path} is damaged and made anew")
            return None
        return TokenCache(
            **arrays,
            tasks=tuple(info["tasks"]),
            dropped=info["dropped"],
            truncated=info["truncated"],
            unknown_tokens=info["unknown_tokens"],
            demonstrations_left_out=info["demonstrations_left_out"],
            sha256=info["sha256"],
        )
    except (OSError, ValueError, KeyError):
        return None


def _digest(path: Path, arrays: Mapping[str, np.memmap], tasks: list[str]) -> str:
    """The hash that the writer notes, of what is there."""
    digests = []
    for name in ARRAYS:
        with open(path / f"{name}.npy", "rb") as file:
            file.seek(arrays[name].offset)
            digests.append(hashlib.file_digest(file, "sha256").digest())
    return cache_digest(tasks, digests)


@contextlib.contextmanager
def _sole_writer(path: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """A fresh folder beside `path` that this process alone writes; gone in the end.

    The lock belongs to the process and ends with it, however it ends.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(f"{path.name}.lock"), "w") as lock:
            if _acquire(lock, say):
                for stale in path.parent.glob(f"{path.name}.partial-*"):
                    shutil.rmtree(stale, ignore_errors=True)
            partial = path.with_name(f"{path.name}.partial-{uuid.uuid4().hex}")
            partial.mkdir()
            try:
                yield partial
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write the token cache {path} ({error.strerror or error}): "
            "make room or set data.cache to another folder"
        ) from error


def _acquire(lock: TextIO, say: Callable[[str], None]) -> bool:
    """Wait for the lock. False where the file system knows no locks: writers then do not meet,
    each has its own folder and the last rename wins."""
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process, which is writing the same token cache")
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        return False
    return True
