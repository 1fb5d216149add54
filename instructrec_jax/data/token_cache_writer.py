"""Writing a token cache: examples to token files, in one pass and bounded memory."""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np

from instructrec_jax.data.tokenizer import Tokenizer
from instructrec_jax.errors import DataError
from instructrec_jax.instructions.example import InstructionExample, encoder_text
from instructrec_jax.instructions.few_shot import few_shot_text, fitted_texts, token_length

POLICIES = ("drop", "truncate_input", "error")
INFO_FILE = "cache.json"
# Name of each array file; `TokenCache` has a field of each name.
ARRAYS = (
    "encoder_tokens",
    "encoder_offsets",
    "decoder_tokens",
    "decoder_offsets",
    "task_ids",
    "id_bytes",
    "id_offsets",
)
_BATCH = 4_096
_PROGRESS_EVERY = 100_000


def write_token_cache(
    examples: Iterable[InstructionExample],
    *,
    tokenizer: Tokenizer,
    encoder_length: int,
    decoder_length: int,
    over_length: str,
    parse_sentinels: bool,
    name: str,
    folder: Path,
    progress: Callable[[str], None],
) -> None:
    """Write the files of a token cache into `folder`; `name` says what the examples are.

    Raises:
        DataError: no example is left, or one is over the limits under the policy "error".
    """
    encode = _Encoder(
        tokenizer, encoder_length, decoder_length, over_length, parse_sentinels=parse_sentinels
    )
    token_dtype = np.uint16 if tokenizer.vocabulary_size <= 2**16 else np.int32
    dtypes = [token_dtype, np.int64, token_dtype, np.int64, np.int32, np.uint8, np.int64]
    tasks: dict[str, int] = {}
    seen = 0
    with contextlib.ExitStack() as stack:
        files = {
            array: stack.enter_context(contextlib.closing(_ArrayFile(folder, array, dtype)))
            for array, dtype in zip(ARRAYS, dtypes, strict=True)
        }
        for side in ("encoder", "decoder", "id"):
            files[f"{side}_offsets"].append([0])
        for batch in _batches(examples, _BATCH):
            rows = encode(batch)
            files["task_ids"].append([tasks.setdefault(task, len(tasks)) for task, *_ in rows])
            _append(files, "encoder_tokens", "encoder_offsets", [row[1] for row in rows])
            _append(files, "decoder_tokens", "decoder_offsets", [row[2] for row in rows])
            _append(files, "id_bytes", "id_offsets", [row[3] for row in rows])
            if (seen + len(batch)) // _PROGRESS_EVERY > seen // _PROGRESS_EVERY:
                progress(f"tokenized {seen + len(batch):,} examples")
            seen += len(batch)
    if not tasks:
        raise DataError(_nothing_left(name, seen, encode.dropped, encoder_length, decoder_length))
    tokens = files["encoder_tokens"].count + files["decoder_tokens"].count
    if encode.unknown_tokens > 0.001 * tokens:
        progress(
            f"{encode.unknown_tokens / tokens:.1%} of the tokens of {name} are unknown to the "
            'tokenizer and lost: train one on these data (tokenizer.path = "")'
        )
    info = {
        "sha256": cache_digest(list(tasks), [file.digest for file in files.values()]),
        "tasks": list(tasks),
        "dropped": dict(encode.dropped),
        "truncated": encode.truncated,
        "unknown_tokens": encode.unknown_tokens,
        "demonstrations_left_out": encode.demonstrations_left_out,
        "files": {path.name: path.stat().st_size for path in sorted(folder.glob("*.npy"))},
    }
    (folder / INFO_FILE).write_text(json.dumps(info, indent=2) + "\n")


def cache_digest(tasks: list[str], arrays: list[bytes]) -> str:
    """Hash of the names of the tasks and of the SHA-256 digests of the values of `ARRAYS`."""
    return hashlib.sha256(json.dumps(tasks).encode() + b"".join(arrays)).hexdigest()


def _nothing_left(
    name: str, seen: int, dropped: Counter[str], encoder_length: int, decoder_length: int
) -> str:
    if not seen:
        return f"{name} holds no examples"
    reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
    return (
        f"{name}: each of the {seen} examples is longer than a row of {encoder_length} encoder "
        f"and {decoder_length} decoder tokens ({reasons}): raise data.encoder_length and "
        "data.decoder_length"
    )


class _Encoder:
    """Examples to token ids under a policy for those that are too long; counts what it did."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        encoder_length: int,
        decoder_length: int,
        over_length: str,
        *,
        parse_sentinels: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._encode = partial(tokenizer.encode_batch, parse_sentinels=parse_sentinels)
        self._encoder_length = encoder_length
        self._decoder_length = decoder_length
        self._over_length = over_length
        self.dropped: Counter[str] = Counter()
        self.truncated = 0
        self.unknown_tokens = 0
        self.demonstrations_left_out = 0

    def __call__(
        self, examples: list[InstructionExample]
    ) -> list[tuple[str, list[int], list[int], bytes]]:
        """Task, encoder ids, decoder ids and id of each example that stays."""
        encoder = self._encode(
            [few_shot_text(each.demonstrations, each.instruction, each.input) for each in examples]
        )
        decoder = self._encode([example.target for example in examples])
        rows = []
        for example, encoder_ids, decoder_ids in zip(examples, encoder, decoder, strict=True):
            left_out = 0
            if example.demonstrations and len(encoder_ids) + 1 > self._encoder_length:
                encoder_ids, left_out = self._with_fewer(example)
            encoder_ids.append(self._tokenizer.eos_id)
            decoder_ids.append(self._tokenizer.eos_id)
            fitted = self._fit(example, encoder_ids, len(decoder_ids))
            if fitted is not None:
                self.demonstrations_left_out += left_out
                self.unknown_tokens += fitted.count(self._tokenizer.unk_id)
                self.unknown_tokens += decoder_ids.count(self._tokenizer.unk_id)
                rows.append((example.task, fitted, decoder_ids, example.id.encode()))
        return rows

    def _with_fewer(self, example: InstructionExample) -> tuple[list[int], int]:
        """The encoder ids with the demonstrations that fit, and how many do not."""
        [(text, left_out)] = fitted_texts(
            [example], length=token_length(self._encode), limit=self._encoder_length
        )
        return self._encode([text])[0], left_out

    def _fit(
        self, example: InstructionExample, encoder_ids: list[int], decoder_tokens: int
    ) -> list[int] | None:
        """The encoder ids, cut if the policy says so; None if the example is left out."""
        encoder_fits = len(encoder_ids) <= self._encoder_length
        decoder_fits = decoder_tokens <= self._decoder_length
        if encoder_fits and decoder_fits:
            return encoder_ids
        if self._over_length == "error":
            raise DataError(
                f"example {example.id} has {len(encoder_ids)} encoder and {decoder_tokens} decoder "
                f"tokens, the limits are {self._encoder_length} and {self._decoder_length}: "
                "shorten it, raise data.encoder_length or data.decoder_length, or set "
                'data.over_length to "drop"'
            )
        if not decoder_fits:
            self.dropped["decoder_over_length"] += 1
            return None
        if self._over_length == "drop":
            self.dropped["encoder_over_length"] += 1
            return None
        # Of an input that is cut something must stay: here its place is taken by a newline.
        [prefix] = self._encode([encoder_text(example.instruction, "\n")])
        if not example.input or len(prefix) + 1 > self._encoder_length:
            self.dropped["instruction_over_length"] += 1
            return None
        self.truncated += 1
        return [*encoder_ids[: self._encoder_length - 1], self._tokenizer.eos_id]


class _ArrayFile:
    """A one-dimensional .npy file that grows."""

    def __init__(self, folder: Path, name: str, dtype: type) -> None:
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._stream = open(folder / f"{name}.npy", "wb+")  # noqa: SIM115
        self._digest = hashlib.sha256()
        self.count = 0
        self._write_header()

    def _write_header(self) -> None:
        """NumPy pads the header so that it has the same size for every length of the array."""
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.count,)}
        self._stream.seek(0)
        np.lib.format.write_array_header_1_0(self._stream, header)

    def append(self, values: np.ndarray | list[int]) -> None:
        data = np.asarray(values, self._dtype).tobytes()
        self._digest.update(data)
        self._stream.write(data)
        self.count += len(data) // self._dtype.itemsize

    @property
    def digest(self) -> bytes:
        """Hash of the values."""
        return self._digest.digest()

    def close(self) -> None:
        """Finish the file."""
        self._write_header()
        self._stream.close()


def _append(
    files: dict[str, _ArrayFile], values: str, offsets: str, rows: list[list[int]] | list[bytes]
) -> None:
    """Add rows of values and where each ends."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    files[offsets].append(files[values].count + np.cumsum(lengths))
    flat = chain.from_iterable(rows)
    files[values].append(np.fromiter(flat, np.int64, int(lengths.sum())))


def _batches(
    examples: Iterable[InstructionExample], size: int
) -> Iterator[list[InstructionExample]]:
    iterator = iter(examples)
    while batch := list(islice(iterator, size)):
        yield batch
