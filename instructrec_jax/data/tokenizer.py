"""Tokenizers of all kinds: from a folder, a file, or what a checkpoint stores.

A kind is a class with the interface of `Tokenizer`: SentencePiece models, bytes, and tokenizer.json
through the optional `tokenizers` package.
"""

from pathlib import Path

from instructrec_jax.data.byte_tokenizer import BYT5_SENTINELS, byte_tokenizer
from instructrec_jax.data.json_tokenizer import json_tokenizer
from instructrec_jax.data.sentencepiece_tokenizer import sentencepiece_tokenizer
from instructrec_jax.data.tokenizer_files import (
    INFO_FILE,
    JSON_FILE,
    MODEL_FILE,
    hugging_face_class,
    hugging_face_sentinels,
    read_info,
)
from instructrec_jax.data.tokenizer_interface import (
    EOS_ID,
    PAD_ID,
    T5_SENTINELS,
    UNK_ID,
    Tokenizer,
)
from instructrec_jax.errors import ConfigError

__all__ = [
    "EOS_ID",
    "JSON_FILE",
    "MODEL_FILE",
    "PAD_ID",
    "T5_SENTINELS",
    "UNK_ID",
    "Tokenizer",
    "byte_tokenizer",
    "load_tokenizer",
    "tokenizer_from_bytes",
]

_FILES = {"sentencepiece": MODEL_FILE, "tokenizers": JSON_FILE}


def tokenizer_from_bytes(
    model_bytes: bytes,
    sentinels: int = T5_SENTINELS,
    *,
    kind: str = "sentencepiece",
    origin: str = "the model",
) -> Tokenizer:
    """A tokenizer from its kind, `model_bytes` and number of sentinels.

    A model that has sentinels of its own, as mT5's has, keeps these whatever `sentinels` says; so
    does a tokenizer.json.

    Raises:
        ConfigError: naming `origin`, if the model is empty, damaged or not in T5's conventions, or
            if the `tokenizers` package is needed and not installed.
    """
    if sentinels < 0:
        raise ConfigError(f"tokenizer.sentinels is {sentinels}: it must be 0 or more")
    match kind:
        case "sentencepiece":
            return sentencepiece_tokenizer(model_bytes, sentinels, origin=origin)
        case "bytes":
            return byte_tokenizer(sentinels)
        case "tokenizers":
            return json_tokenizer(model_bytes, origin=origin)
    raise ConfigError(f"{origin} is a tokenizer of the unknown kind {kind!r}")


def load_tokenizer(path: Path, *, sentinels: int | None = None) -> Tokenizer:
    """Load a tokenizer from a folder or from a model file.

    A folder is one that `save` wrote, or a Hugging Face folder: spiece.model is preferred, then
    comes ByT5 by the class that tokenizer_config.json names, then tokenizer.json. `sentinels` None
    means: what the files beside the model say, otherwise T5's 100, or ByT5's 125.

    Raises:
        ConfigError: naming the path, if it is missing, empty, damaged or of another kind.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    info_path = folder / INFO_FILE
    described = None
    if path.is_dir() or path.name in _FILES.values():
        described = read_info(info_path)
    if path.is_dir():
        kind = described.kind if described is not None else _kind_of_folder(path)
        model_path = folder / _FILES.get(kind, "")
    else:
        kind = "tokenizers" if path.suffix == ".json" else "sentencepiece"
        model_path = path
        if described is not None and described.kind != kind:
            described = None
    if described is not None:
        counted = described.sentinels
    else:
        counted = _count_sentinels(path, folder, kind)
    model_bytes = b"" if kind == "bytes" else _read(model_path)
    origin = str(model_path)
    tokenizer = tokenizer_from_bytes(model_bytes, counted, kind=kind, origin=origin)
    if described is not None and described.sha256 != tokenizer.sha256:
        raise ConfigError(
            f"{model_path} is not the model that {info_path} describes (their hashes differ): "
            "copy both again, or delete the description"
        )
    if sentinels not in (None, counted):
        tokenizer = tokenizer_from_bytes(model_bytes, sentinels, kind=kind, origin=origin)
    return tokenizer


def _kind_of_folder(path: Path) -> str:
    """The kind in a folder that has no description of ours."""
    if (path / MODEL_FILE).exists():
        return "sentencepiece"
    if hugging_face_class(path) == "ByT5Tokenizer":
        return "bytes"
    return "tokenizers" if (path / JSON_FILE).exists() else "sentencepiece"


def _count_sentinels(path: Path, folder: Path, kind: str) -> int:
    """The number of sentinels that files of a Hugging Face folder tell of."""
    default = BYT5_SENTINELS if kind == "bytes" else T5_SENTINELS
    if path.is_dir() or path.name in _FILES.values():
        return hugging_face_sentinels(folder, default=default)
    return default


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"no tokenizer at {path} ({error.strerror}): "
            f"give a SentencePiece model file, or a folder with {MODEL_FILE}"
        ) from None
