"""Answers that match a regular expression or a JSON schema, by the library llguidance.

The library needs the bytes that each token writes. What SentencePiece loses is left out: a token
that stands for no text of its own (unk, sentinels, control pieces, rows that pad the embedding) is
never allowed, and the space before the first word, which is no part of the text, is free to come
and otherwise no answer begins with a space.
"""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from instructrec_jax.data.tokenizer_interface import Tokenizer
from instructrec_jax.decoding.batching import TextTokenizer
from instructrec_jax.errors import ConfigError

_INSTALL = "needs the library llguidance: pip install 'instructrec_jax[constraints]'"
# Anything that does not begin with a space.
_NO_SPACE_FIRST = r"/([^ ](.|\n)*)?/"


class Grammar:
    """A guide (see `guides.Guide`) to the texts of one grammar; its states are matchers."""

    def __init__(self, tokenizer: Any, grammar: str, *, eos_id: int, name: str) -> None:
        """`grammar` is Lark's; ConfigError with `name`: the library does not take it."""
        import llguidance

        problem = llguidance.LLMatcher.validate_grammar(grammar, tokenizer)
        if problem and not problem.startswith("WARNING"):
            raise ConfigError(f"{name} cannot be followed: {' '.join(problem.split())[:300]}")
        self._size = tokenizer.vocab_size
        self._eos_id = eos_id
        self._start = llguidance.LLMatcher(tokenizer, grammar, log_level=0)

    def start(self) -> Any:
        """A matcher that has seen nothing."""
        return self._start

    def allowed(self, state: Any) -> np.ndarray:
        """bool [V]: what may follow; eos where the whole is a match."""
        if state.is_error() or state.is_stopped():
            tokens = np.zeros(self._size, bool)
        else:
            bits = np.frombuffer(state.compute_bitmask(), np.uint8)
            tokens = np.unpackbits(bits, bitorder="little")[: self._size].astype(bool)
        tokens[self._eos_id] = not state.is_error() and state.is_accepting()
        return tokens

    def next(self, state: Any, token: int) -> Any:
        """A matcher that has seen one token more."""
        state = state.deep_copy()
        state.consume_token(token)
        return state


def regex_guide(
    regex: str, tokenizer: TextTokenizer, *, vocabulary_size: int, after_prefix: bool = False
) -> Grammar:
    """The texts that a regular expression of Python matches from end to end.

    `after_prefix`: they go on from another text, after which a space is a space.

    ConfigError: not a regular expression, or one with what finite automata lack (look-around,
    references to groups).
    """
    name = f"--regex={regex!r}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of classes in classes, one day
            matches_nothing = re.compile(regex).fullmatch("") is not None
    except re.error as error:
        raise ConfigError(f"{name} is no regular expression: {error}") from None
    escaped = _of_library(regex)
    body = "BODY?" if matches_nothing else "BODY"
    terminal = f"/{escaped}/"
    if not after_prefix and _drops_first_space(tokenizer, token_bytes(tokenizer, vocabulary_size)):
        start, terminal = f'start: " "? {body}', f"{terminal} & {_NO_SPACE_FIRST}"
    else:
        start = f"start: {body}"
    grammar = f"{start}\nBODY: {terminal}"
    return _grammar(grammar, tokenizer, vocabulary_size=vocabulary_size, name=name)


def _of_library(regex: str) -> str:
    """The expression as the library's grammar has it, between slashes.

    Digits are those from 0 to 9: which others there are depends on the version of Unicode.
    """
    parts: list[str] = []
    # Parts of the class of characters that is open; a "]" that begins one is a character.
    inside: list[str] | None = None
    for part in re.findall(r"\\.|.", regex, re.DOTALL):
        if part == r"\d" and inside is not None:
            inside.append(part)
            part = "0-9"
        elif part == r"\d":
            part = "[0-9]"
        elif inside is None:
            inside = [] if part == "[" else None
        elif part == "]" and inside not in ([], ["^"]):
            inside = None
        else:
            inside.append(part)
            # There "[", "&&", "--" and "~~" would be classes in classes and what is done to them.
            part = {mark: f"\\{mark}" for mark in "[]&~"}.get(part, part)
        parts.append({"/": r"\/", "\n": r"\n"}.get(part, part))
    return "".join(parts)


def json_guide(
    path: str, tokenizer: TextTokenizer, *, vocabulary_size: int, after_prefix: bool = False
) -> Grammar:
    """The JSON texts of a schema in a file; `after_prefix` as of `regex_guide`.

    ConfigError: no such file, no JSON schema, or one with what the library does not know; a
    tokenizer that cannot write JSON.
    """
    name = f"--json_schema={path}"
    try:
        schema = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}: not JSON at line {error.lineno}: {error.msg}") from None
    if not isinstance(schema, Mapping):
        raise ConfigError(f"{name}: a schema is a JSON object")
    written = set(b"".join(text or b"" for text in token_bytes(tokenizer, vocabulary_size)))
    if lacking := [mark for mark in '{}"' if ord(mark) not in written]:
        raise ConfigError(
            f"{name}: the model's tokenizer has no token for {' '.join(lacking)}, so that it "
            "cannot write JSON; train with a tokenizer of `train`, or use --regex"
        )
    schema = {"x-guidance": {"whitespace_flexible": False}, **schema}
    drops = _drops_first_space(tokenizer, token_bytes(tokenizer, vocabulary_size))
    start = 'start: " "? body' if drops and not after_prefix else "start: body"
    grammar = f"{start}\nbody: %json {json.dumps(schema)}"
    return _grammar(grammar, tokenizer, vocabulary_size=vocabulary_size, name=name)


def _grammar(grammar: str, tokenizer: TextTokenizer, *, vocabulary_size: int, name: str) -> Grammar:
    try:
        import llguidance
    except ImportError:
        raise ConfigError(f"{name} {_INSTALL}") from None
    texts = token_bytes(tokenizer, vocabulary_size)
    described = llguidance.TokenizerWrapper(_Described(tokenizer, texts))
    known = llguidance.LLTokenizer(described, n_vocab=vocabulary_size, slices=[])
    return Grammar(known, grammar, eos_id=tokenizer.eos_id, name=name)


class _Described:
    """A tokenizer as the library wants it: with the names that it gives these things."""

    bos_token_id = None

    def __init__(self, tokenizer: TextTokenizer, texts: Sequence[bytes | None]) -> None:
        self.eos_token_id = tokenizer.eos_id
        self.tokens = [
            b"<without text %d>" % token if text is None else text
            for token, text in enumerate(texts)
        ]
        self.special_token_ids = [token for token, text in enumerate(texts) if text is None]
        self._longest = max(map(len, self.tokens))
        self._ids = {text: token for token, text in enumerate(texts) if text is not None}

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens that write a text and nothing else, the longest first; as far as there are any.

        The tokenizer's own ids would not do: they begin with the space that decoding drops.
        """
        rest = text.encode() if isinstance(text, str) else text
        tokens: list[int] = []
        while rest:
            lengths = range(min(len(rest), self._longest), 0, -1)
            length = next((n for n in lengths if rest[:n] in self._ids), None)
            if length is None:
                break
            tokens.append(self._ids[rest[:length]])
            rest = rest[length:]
        return tokens


def token_bytes(tokenizer: TextTokenizer | Tokenizer, size: int) -> list[bytes | None]:
    """What each of `size` tokens adds in the middle of a text; None: nothing, or not always so."""
    kind = getattr(tokenizer, "kind", "")
    if kind == "bytes":
        texts = [None, None, None, *(bytes([byte]) for byte in range(256))]
    elif kind == "sentencepiece":
        texts = _of_pieces(tokenizer)
    else:
        texts = _of_decoding(tokenizer)
    texts = [None if token == tokenizer.eos_id else text for token, text in enumerate(texts)]
    return [*texts[:size], *[None] * (size - len(texts))]


def _of_pieces(tokenizer: Any) -> list[bytes | None]:
    model = sentencepiece.SentencePieceProcessor()
    model.LoadFromSerializedProto(tokenizer.model_bytes)
    sentinels = set(tokenizer.sentinel_ids)
    texts: list[bytes | None] = []
    for token in range(model.piece_size()):
        piece = model.id_to_piece(token)
        if model.is_byte(token):
            # At the beginning of a text a space as a byte stays, where one as a piece goes.
            byte = bytes([int(piece[3:5], 16)])
            texts.append(None if byte == b" " else byte)
        elif (
            token in sentinels
            or model.is_control(token)
            or model.is_unknown(token)
            or model.is_unused(token)
        ):
            texts.append(None)
        else:
            texts.append(piece.replace("\u2581", " ").encode())
    return texts


def _of_decoding(tokenizer: TextTokenizer) -> list[bytes | None]:
    """By what a token adds to the text of another one."""
    anchor = tokenizer.encode_batch(["a"])[0]
    before = tokenizer.decode(anchor)
    texts: list[bytes | None] = []
    for token in range(tokenizer.vocabulary_size):
        text = tokenizer.decode([*anchor, token])
        added = text[len(before) :] if text.startswith(before) else ""
        texts.append(added.encode() if added and "\ufffd" not in added else None)
    return texts


def _drops_first_space(tokenizer: TextTokenizer, texts: Sequence[bytes | None]) -> bool:
    """Whether a token with a space in front has none at the beginning of a text."""
    for token, text in enumerate(texts):
        if text is not None and re.fullmatch(rb" [a-zA-Z]+", text):
            return not tokenizer.decode([token]).startswith(" ")
    return any(text == b" " and tokenizer.decode([token]) == "" for token, text in enumerate(texts))
