"""tokenizer.json of a Hugging Face folder, through the optional `tokenizers` package.

The package finds every special token inside a text. Here text is plain text: two variants of the
file are made in memory, in which all special tokens, or all but the sentinels, have names that no
text contains. Ids are those of the file in both.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instructrec_jax.data.tokenizer_files import CONFIG_FILE, JSON_FILE, json_bytes, write_info
from instructrec_jax.data.tokenizer_interface import (
    EOS_ID,
    PAD_ID,
    UNK_ID,
    sentinel_number,
    utf8,
)
from instructrec_jax.errors import ConfigError

# Pre-tokenizers take the space away, so that no piece of a text is equal to a name with this.
_HIDDEN = " \0"


class JsonTokenizer:
    """A tokenizer.json in T5's conventions; see `Tokenizer` for what it offers."""

    kind = "tokenizers"
    pad_id = PAD_ID
    eos_id = EOS_ID
    unk_id = UNK_ID

    def __init__(self, backend: Any, fields: Mapping[str, Any], model_bytes: bytes) -> None:
        """Use `tokenizer_from_bytes` or `load_tokenizer`, which check the file first."""
        self._backend = backend
        self.model_bytes = model_bytes
        self.sha256 = hashlib.sha256(b"tokenizers\n" + model_bytes).hexdigest()
        names: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        self.vocabulary_size = max(names.values()) + 1
        # Of both "<extra_id_0>" and this with a space symbol before it the first one counts.
        by_number = {
            number: name
            for name in sorted(names, reverse=True)
            if (number := sentinel_number(name)) is not None
        }
        count = next(n for n in range(len(by_number) + 1) if n not in by_number)
        sentinels = [by_number[number] for number in range(count)]
        self.sentinel_ids = tuple(names[name] for name in sentinels)
        special = {backend.id_to_token(token) for token in (PAD_ID, EOS_ID, UNK_ID)}
        special |= {
            token["content"] for token in fields.get("added_tokens") or [] if token["special"]
        }
        special -= set(sentinels)
        self._plain = _variant(backend, fields, hidden=special | set(filter(_is_sentinel, names)))
        self._with_sentinels = _variant(backend, fields, hidden=special)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without eos. Raises DataError for a lone surrogate."""
        return self.encode_batch([text])[0]

    def encode_batch(
        self, texts: Sequence[str], *, parse_sentinels: bool = False
    ) -> list[list[int]]:
        """Token ids of each text; with `parse_sentinels`, "<extra_id_N>" is a sentinel."""
        for text in texts:
            utf8(text)
        backend = self._with_sentinels if parse_sentinels else self._plain
        return [found.ids for found in backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; pad and eos have none, sentinels read <extra_id_N>.

        An id outside the vocabulary (a model's embedding is padded beyond it) reads like unk.
        """
        known = [
            token if 0 <= token < self.vocabulary_size else UNK_ID
            for token in map(int, ids)
            if token not in (PAD_ID, EOS_ID)
        ]
        return self._backend.decode(known, skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        """Write the file and a small description of it into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JSON_FILE).write_bytes(self.model_bytes)
        write_info(folder, self)

    def hugging_face_files(self) -> dict[str, bytes]:
        """Names and contents of the tokenizer's files in a folder that transformers loads."""
        fields = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "extra_ids": len(self.sentinel_ids),
            "pad_token": self._backend.id_to_token(PAD_ID),
            "eos_token": self._backend.id_to_token(EOS_ID),
            "unk_token": self._backend.id_to_token(UNK_ID),
        }
        return {JSON_FILE: self.model_bytes, CONFIG_FILE: json_bytes(fields)}


def json_tokenizer(model_bytes: bytes, *, origin: str) -> JsonTokenizer:
    """A tokenizer from the content of a tokenizer.json.

    Raises:
        ConfigError: naming `origin`, if the file is damaged or not in T5's conventions, or if the
            `tokenizers` package is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise ConfigError(
            f"{origin} is read by the tokenizers package, which is not installed: "
            "pip install -e '.[tokenizers]', or give a folder with spiece.model"
        ) from None
    try:
        fields = json.loads(model_bytes)
        _check_character_maps(fields.get("normalizer"))
        backend = tokenizers.Tokenizer.from_buffer(model_bytes)
        # Texts are cut and padded elsewhere.
        backend.no_truncation()
        backend.no_padding()
    # The package raises bare Exceptions for a file that it cannot read.
    except Exception as error:
        line = " ".join(str(error).split())
        raise ConfigError(
            f"{origin} is not a tokenizer.json ({len(model_bytes)} bytes; {line:.100}): "
            "copy it again"
        ) from None
    _check(backend, fields["model"], origin)
    return JsonTokenizer(backend, fields, model_bytes)


def _check(backend: Any, model: Mapping[str, Any], origin: str) -> None:
    """Raises ConfigError where pad, eos and unk are not 0, 1 and 2."""
    expected = (PAD_ID, EOS_ID, UNK_ID)
    found = tuple(map(backend.token_to_id, ("<pad>", "</s>", "<unk>")))
    if isinstance(model["vocab"], list):  # A unigram model, which says so by number.
        found = (*found[:2], model.get("unk_id"))
    if found != expected:
        raise ConfigError(
            f"{origin} has <pad>, </s>, <unk> = {found}, T5's conventions are (0, 1, 2): "
            "use a T5-family tokenizer or train one"
        )


def _is_sentinel(name: str) -> bool:
    return sentinel_number(name) is not None


def _check_character_maps(normalizer: Any) -> None:
    """Raises ValueError for a damaged map of characters, at which the package itself would panic.

    A map is in base64: the length of a trie in four bytes, the trie of 4-byte units, and text.
    """
    if isinstance(normalizer, dict) and normalizer.get("type") == "Precompiled":
        encoded = normalizer.get("precompiled_charsmap")
        if not isinstance(encoded, str):
            raise ValueError("precompiled_charsmap is no text")
        character_map = base64.b64decode(encoded, validate=True)
        length = int.from_bytes(character_map[:4], "little")
        if length % 4 or not 0 < length <= len(character_map) - 4:
            raise ValueError("precompiled_charsmap is damaged")
        character_map[4 + length :].decode()
    elif isinstance(normalizer, dict):
        for each in normalizer.get("normalizers") or []:
            _check_character_maps(each)


def _variant(backend: Any, fields: Mapping[str, Any], *, hidden: set[str]) -> Any:
    """The same tokenizer, for which the `hidden` tokens are unknown to every text."""
    renamed = {name: _HIDDEN + name for name in hidden}
    changed = dict(fields)
    changed["post_processor"] = changed["truncation"] = changed["padding"] = None
    changed["added_tokens"] = [
        # A special token is not looked for, because of `encode_special_tokens` below.
        {
            **token,
            "content": renamed.get(token["content"], token["content"]),
            "special": token["content"] in hidden,
        }
        for token in fields.get("added_tokens") or []
    ]
    model = dict(fields["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        model["vocab"] = [[renamed.get(name, name), score] for name, score in vocabulary]
    else:
        model["vocab"] = {renamed.get(name, name): token for name, token in vocabulary.items()}
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    changed["model"] = model
    variant = type(backend).from_str(json.dumps(changed))
    variant.encode_special_tokens = True
    return variant
