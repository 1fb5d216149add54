"""A SentencePiece tokenizer as the files of a Hugging Face folder.

T5Tokenizer of transformers reads spiece.model and assumes the conventions of T5's own: unigram,
spaces collapsed, unk for what no piece covers. A model of other conventions, such as those that are
trained here or mT5's with its byte pieces, gets a tokenizer.json beside it, which says how it is.
"""

import base64
import json
from typing import Any

import sentencepiece

from instructrec_jax.data.sentencepiece_model import Conventions, conventions
from instructrec_jax.data.tokenizer_files import CONFIG_FILE, JSON_FILE, MODEL_FILE, json_bytes
from instructrec_jax.data.tokenizer_interface import EOS_ID, PAD_ID, UNK_ID

_SPACE_SYMBOL = "\u2581"
# A byte piece stands for a byte that nothing else covers, whatever its score; in a text its name is
# spelt by other pieces, which always score better than this.
_NEVER = -1000.0
_WORDS = {
    "type": "Metaspace",
    "replacement": _SPACE_SYMBOL,
    "prepend_scheme": "never",
    "split": True,
}


def hugging_face_files(
    processor: sentencepiece.SentencePieceProcessor,
    model_bytes: bytes,
    *,
    sentinel_ids: tuple[int, ...],
) -> dict[str, bytes]:
    """Names and contents of the files that make transformers give the same ids.

    Args:
        processor, model_bytes: the model.
        sentinel_ids: ids of <extra_id_0>, ...; those of the model's own pieces, or after them.
    """
    found = conventions(model_bytes)
    pieces = processor.piece_size()
    added = sum(token >= pieces for token in sentinel_ids)
    fields: dict[str, Any] = {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": added,
        "pad_token": processor.id_to_piece(PAD_ID),
        "eos_token": processor.id_to_piece(EOS_ID),
        "unk_token": processor.id_to_piece(UNK_ID),
    }
    files = {MODEL_FILE: model_bytes}
    is_like_t5 = found.collapses_spaces and found.adds_space and not found.byte_fallback
    if found.is_unigram and not is_like_t5:
        fields["tokenizer_class"] = "PreTrainedTokenizerFast"
        files[JSON_FILE] = json.dumps(
            _tokenizer_json(processor, found, added=added), ensure_ascii=False
        ).encode()
    return {**files, CONFIG_FILE: json_bytes(fields)}


def _tokenizer_json(
    processor: sentencepiece.SentencePieceProcessor, found: Conventions, *, added: int
) -> dict[str, Any]:
    """The model in the format of the `tokenizers` package."""
    pieces = processor.piece_size()
    vocabulary: list[tuple[str, float]] = [
        (
            processor.id_to_piece(token),
            _NEVER if processor.is_byte(token) else processor.get_score(token),
        )
        for token in range(pieces)
    ]
    vocabulary += [(f"<extra_id_{number}>", 0.0) for number in range(added - 1, -1, -1)]
    special = [PAD_ID, EOS_ID, UNK_ID, *range(pieces, len(vocabulary))]
    eos = vocabulary[EOS_ID][0]
    with_eos = [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": eos, "type_id": 0}},
    ]
    second = [
        {"Sequence": {"id": "B", "type_id": 0}},
        {"SpecialToken": {"id": eos, "type_id": 0}},
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(token, vocabulary[token][0]) for token in special],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(found)},
        # Pieces of words end where words do; others may hold spaces.
        "pre_tokenizer": _WORDS if found.collapses_spaces else None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": with_eos,
            "pair": [*with_eos, *second],
            "special_tokens": {eos: {"id": eos, "ids": [EOS_ID], "tokens": [eos]}},
        },
        "decoder": {"type": "Sequence", "decoders": _decoders(found)},
        "model": {
            "type": "Unigram",
            "unk_id": UNK_ID,
            "vocab": vocabulary,
            "byte_fallback": found.byte_fallback,
        },
    }


def _added_token(token: int, name: str) -> dict[str, Any]:
    return {
        "id": token,
        "content": name,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _normalizers(found: Conventions) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if found.character_map:
        encoded = base64.b64encode(found.character_map).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": encoded})
    if found.collapses_spaces:
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
    if found.adds_space:
        steps.append({"type": "Prepend", "prepend": _SPACE_SYMBOL})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE_SYMBOL})
    return steps


def _decoders(found: Conventions) -> list[dict[str, Any]]:
    # Bytes come after spaces, for they may spell the space symbol.
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE_SYMBOL}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if found.adds_space:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return steps
