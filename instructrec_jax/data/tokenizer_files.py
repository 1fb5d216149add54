"""The files beside a tokenizer's model: our description, and those of a Hugging Face folder."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instructrec_jax.data.tokenizer_interface import Tokenizer, sentinel_number
from instructrec_jax.errors import ConfigError

INFO_FILE = "tokenizer_info.json"
CONFIG_FILE = "tokenizer_config.json"
MODEL_FILE = "spiece.model"
JSON_FILE = "tokenizer.json"
FORMAT_VERSION = 1
KINDS = ("sentencepiece", "bytes", "tokenizers")
# Where a Hugging Face folder may name sentinels; the names of the fields are those of several
# versions of transformers.
_SPECIAL_TOKENS_FILE = "special_tokens_map.json"
_SPECIAL_TOKENS_FIELDS = ("additional_special_tokens", "extra_special_tokens")
_MOST_SENTINELS = 1_000_000


@dataclass(frozen=True)
class TokenizerInfo:
    """What our description says; `kind` of descriptions that name none is sentencepiece."""

    kind: str
    sentinels: int
    sha256: str


def json_bytes(fields: Mapping[str, Any]) -> bytes:
    """A JSON file, for a person too."""
    return (json.dumps(fields, indent=2) + "\n").encode()


def write_info(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the description of a tokenizer into `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    info = {
        "format_version": FORMAT_VERSION,
        "kind": tokenizer.kind,
        "sha256": tokenizer.sha256,
        "vocabulary_size": tokenizer.vocabulary_size,
        "sentinels": len(tokenizer.sentinel_ids),
    }
    (folder / INFO_FILE).write_bytes(json_bytes(info))


def read_info(path: Path) -> TokenizerInfo | None:
    """The description in a file, None where there is none. Raises ConfigError."""
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        info = TokenizerInfo(
            kind=str(fields.get("kind", "sentencepiece")),
            sentinels=int(fields["sentinels"]),
            sha256=str(fields["sha256"]),
        )
        if info.kind not in KINDS:
            raise ValueError(f"kind {info.kind!r} is unknown")
        return info
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is not a tokenizer description ({error}): delete it or save again"
        ) from None


def hugging_face_class(folder: Path) -> str:
    """The tokenizer class that tokenizer_config.json names; "" where there is none."""
    found = _read_object(folder / CONFIG_FILE).get("tokenizer_class")
    return found if isinstance(found, str) else ""


def hugging_face_sentinels(folder: Path, *, default: int) -> int:
    """The number of sentinels of a Hugging Face folder.

    It is `extra_ids`; where that is 0 or missing, the number of different <extra_id_N> among the
    special tokens of any file, for transformers 5 writes 0 beside their list.

    Raises:
        ConfigError: a file is damaged, or says something of another type.
    """
    path = folder / CONFIG_FILE
    fields = _read_object(path)
    extra_ids = fields.get("extra_ids")
    if extra_ids is not None and (
        type(extra_ids) is not int or not 0 <= extra_ids <= _MOST_SENTINELS
    ):
        raise ConfigError(f"{path}: extra_ids is {extra_ids!r}, not a number of sentinels")
    if extra_ids:
        return extra_ids
    special_tokens = _read_object(folder / _SPECIAL_TOKENS_FILE)
    names = {
        *_names(path, fields, "added_tokens_decoder"),
        *(name for field in _SPECIAL_TOKENS_FIELDS for name in _names(path, fields, field)),
        *_names(folder / _SPECIAL_TOKENS_FILE, special_tokens, _SPECIAL_TOKENS_FIELDS[0]),
    }
    numbers = {sentinel_number(name) for name in names} - {None}
    if numbers or extra_ids == 0:
        return len(numbers)
    return default


def _names(path: Path, fields: Mapping[str, Any], field: str) -> Iterator[str]:
    """Names of tokens in a field: a list or object of strings, or of objects with `content`."""
    tokens = fields.get(field) or []
    if isinstance(tokens, dict):
        tokens = list(tokens.values())
    if not isinstance(tokens, list):
        raise ConfigError(f"{path}: {field} is {tokens!r:.60}, not a list of tokens")
    for token in tokens:
        name = token.get("content") if isinstance(token, dict) else token
        if not isinstance(name, str):
            raise ConfigError(f"{path}: {field} holds {token!r:.60}, which is no token")
        yield name


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where the file is missing. Raises ConfigError."""
    if not path.exists():
        return {}
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON ({error}): copy it again") from None
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} holds {fields!r:.60}, not a JSON object: copy it again")
    return fields
