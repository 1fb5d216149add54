"""Ids against the tokenizers of transformers, and every deviation of theirs from SentencePiece.

The published models were trained with SentencePiece, so that its ids are the right ones. Facts
about T5Tokenizer of transformers 5, each with an assertion here:

- It finds every special token in a text; SentencePiece finds none.
- It does not know byte pieces: what no other piece covers is unk. Their names in a text become
  them.
- It splits words at U+0085, which nmt_nfkc keeps as a character.
- It normalises a letter with its marks as one only up to five bytes, so that longer ones that come
  decomposed, half-width kana with a voicing mark among them, stay so.
"""

import json
import unicodedata

import pytest
import sentencepiece
from hard_texts import HARD_TEXTS, SENTINEL_TEXTS

from instructrec_jax.data.tokenizer import (
    byte_tokenizer,
    load_tokenizer,
    tokenizer_from_bytes,
)

transformers = pytest.importorskip("transformers")

# Names of HARD_TEXTS on which transformers deviates, and why.
NEXT_LINE = {"ends of lines"}
DECOMPOSED = {"composed and combining accents", "full width", "Japanese", "Korean"}
BYTE_NAMES = {"byte pieces by name"}
SPACE_SYMBOLS = {"space symbol", "space symbol first", "space symbol after a space"}


def load_theirs(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return transformers.AutoTokenizer.from_pretrained(folder)


def as_published(model, extra_ids):
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": extra_ids}
    return {"spiece.model": model, "tokenizer_config.json": json.dumps(config).encode()}


def their_ids(theirs, text):
    ids = theirs(text).input_ids
    assert ids[-1] == 1
    return ids[:-1]


def deviating(ours, theirs):
    """Names of the texts with other ids; `parse_sentinels` is no matter for them."""
    texts = list(HARD_TEXTS.values())
    ids = ours.encode_batch(texts)
    assert ours.encode_batch(texts, parse_sentinels=True) == ids
    return {
        name
        for name, found in zip(HARD_TEXTS, ids, strict=True)
        if found != their_ids(theirs, HARD_TEXTS[name])
    }


def assert_same_sentinels(ours, theirs):
    found = ours.encode_batch(SENTINEL_TEXTS, parse_sentinels=True)
    assert found == [their_ids(theirs, text) for text in SENTINEL_TEXTS]
    assert any(ours.sentinel_ids[0] in ids for ids in found)


def without_bytes(processor, ids):
    """The ids with unk for each run of byte pieces."""
    found = []
    for token in ids:
        is_byte = token < processor.piece_size() and processor.is_byte(token)
        if not (is_byte and found[-1:] == [2]):
            found.append(2 if is_byte else token)
    return found


@pytest.mark.parametrize("name", HARD_TEXTS)
def test_ids_are_those_of_sentencepiece(t5_model, umt5_model, name):
    for model in (t5_model, umt5_model):
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        ours = tokenizer_from_bytes(model, 100).encode(HARD_TEXTS[name])
        assert ours == processor.encode(HARD_TEXTS[name])


def test_t5(t5_model, tmp_path):
    ours = tokenizer_from_bytes(t5_model, 100)
    theirs = load_theirs(tmp_path, as_published(t5_model, 100))
    assert isinstance(theirs, transformers.T5Tokenizer)
    assert len(theirs) == ours.vocabulary_size
    names = [f"<extra_id_{number}>" for number in range(100)]
    assert theirs.convert_tokens_to_ids(names) == list(ours.sentinel_ids)
    assert any(ours.unk_id in ours.encode(text) for text in HARD_TEXTS.values())
    assert deviating(ours, theirs) == NEXT_LINE | DECOMPOSED
    assert_same_sentinels(ours, theirs)
    assert load_tokenizer(tmp_path).sha256 == ours.sha256


def test_t5_of_transformers_deviates_so(t5_model, tmp_path):
    ours = tokenizer_from_bytes(t5_model, 100)
    theirs = load_theirs(tmp_path, as_published(t5_model, 100))
    assert their_ids(theirs, "f\x85g") == ours.encode("f g") != ours.encode("f\x85g")
    for name in DECOMPOSED:
        text = HARD_TEXTS[name]
        composed = unicodedata.normalize("NFKC", text)
        if name != "composed and combining accents":  # SentencePiece does not reorder marks.
            assert ours.encode(text) == ours.encode(composed)
        assert their_ids(theirs, text) != their_ids(theirs, composed)
    for text in ("x</s>y", "<pad>", "a<unk>"):
        assert {0, 1, 2} & set(their_ids(theirs, text))
        for parse_sentinels in (False, True):
            [ids] = ours.encode_batch([text], parse_sentinels=parse_sentinels)
            assert not {0, 1, 2} & set(ids)
            assert ours.decode(ids) == text


@pytest.mark.parametrize(("model", "sentinels"), [("umt5_model", 300), ("mt5_model", 0)])
def test_models_with_byte_pieces(model, sentinels, tmp_path, request):
    model = request.getfixturevalue(model)
    ours = tokenizer_from_bytes(model, sentinels)
    theirs = load_theirs(tmp_path / "theirs", as_published(model, sentinels))
    assert len(theirs) == ours.vocabulary_size
    assert load_tokenizer(tmp_path / "theirs").sha256 == ours.sha256
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for name, text in HARD_TEXTS.items():
        if name not in DECOMPOSED | NEXT_LINE | BYTE_NAMES:
            assert their_ids(theirs, text) == without_bytes(processor, ours.encode(text)), name
    for text in SENTINEL_TEXTS:
        [ids] = ours.encode_batch([text], parse_sentinels=True)
        assert their_ids(theirs, text) == without_bytes(processor, ids)
    byte = processor.piece_to_id("<0x0A>")
    assert byte in their_ids(theirs, "<0x0A>") and byte not in ours.encode("<0x0A>")
    # Our export says how the model is.
    exported = load_theirs(tmp_path / "exported", ours.hugging_face_files())
    assert deviating(ours, exported) <= DECOMPOSED | BYTE_NAMES
    assert_same_sentinels(ours, exported)
    assert load_tokenizer(tmp_path / "exported").sha256 == ours.sha256


def test_sentinels_inside_the_model(mt5_model):
    for sentinels in (0, 100, 7):
        ours = tokenizer_from_bytes(mt5_model, sentinels)
        assert ours.vocabulary_size == ours.pieces
        assert ours.sentinel_ids == tuple(range(ours.pieces - 1, ours.pieces - 101, -1))
    text = "a <extra_id_0> b"
    assert not set(ours.sentinel_ids) & set(ours.encode(text))
    assert ours.decode(ours.encode(text)) == text
    [ids] = ours.encode_batch([text], parse_sentinels=True)
    assert ours.sentinel_ids[0] in ids
    assert ours.decode(ids) == text
    assert ours.decode(ids[1:]) == "<extra_id_0> b"


@pytest.mark.parametrize("file", ["spiece.model", "tokenizer.json"])
def test_export_of_t5(t5_model, file, tmp_path):
    published = load_theirs(tmp_path / "published", as_published(t5_model, 100))
    published.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "spiece.model").exists()
    ours = load_tokenizer(tmp_path / {"spiece.model": "published"}.get(file, "saved"))
    files = ours.hugging_face_files()
    assert files.keys() == {file, "tokenizer_config.json"}
    theirs = load_theirs(tmp_path / "exported", files)
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2)
    assert theirs.convert_tokens_to_ids("<extra_id_0>") == ours.sentinel_ids[0]
    assert_same_sentinels(ours, theirs)
    assert deviating(ours, theirs) == (NEXT_LINE | DECOMPOSED if file == "spiece.model" else set())
    assert load_tokenizer(tmp_path / "exported").sha256 == ours.sha256


@pytest.mark.parametrize(("model", "sentinels"), [("t5_model", 100), ("mt5_model", 0)])
def test_tokenizer_json_of_transformers(model, sentinels, tmp_path, request):
    model = request.getfixturevalue(model)
    theirs = load_theirs(tmp_path / "published", as_published(model, sentinels))
    theirs.save_pretrained(tmp_path / "saved")
    ours = load_tokenizer(tmp_path / "saved")
    sentencepiece_kind = load_tokenizer(tmp_path / "published")
    assert (ours.kind, sentencepiece_kind.kind) == ("tokenizers", "sentencepiece")
    assert ours.sentinel_ids == sentencepiece_kind.sentinel_ids
    assert ours.vocabulary_size == sentencepiece_kind.vocabulary_size
    assert deviating(ours, theirs) <= BYTE_NAMES
    assert_same_sentinels(ours, theirs)
    for text in [*SENTINEL_TEXTS, "x</s>y", "<pad><unk>", "<extra_id_0></s>"]:
        assert not {0, 1, *ours.sentinel_ids} & set(ours.encode(text))
        if sentinels:  # The other model has byte pieces, which that file does not know.
            assert ours.encode(text) == sentencepiece_kind.encode(text)


def test_own_model_keeps_its_ids_in_an_export(tokenizer, tmp_path):
    theirs = load_theirs(tmp_path, tokenizer.hugging_face_files())
    assert len(theirs) == tokenizer.vocabulary_size
    # A real U+2581 is a space there, as in every tokenizer.json of this format.
    assert deviating(tokenizer, theirs) <= SPACE_SYMBOLS | BYTE_NAMES
    assert_same_sentinels(tokenizer, theirs)
    assert load_tokenizer(tmp_path).sha256 == tokenizer.sha256
    for text in HARD_TEXTS.values():
        assert theirs.decode(tokenizer.encode(text)) == text


def test_byt5(tmp_path):
    for sentinels in (125, 10):
        ours = byte_tokenizer(sentinels)
        theirs = load_theirs(tmp_path, ours.hugging_face_files())
        assert isinstance(theirs, transformers.ByT5Tokenizer)
        assert len(theirs) == ours.vocabulary_size
        names = [f"<extra_id_{number}>" for number in range(sentinels)]
        assert theirs.convert_tokens_to_ids(names) == list(ours.sentinel_ids)
        assert deviating(ours, theirs) == set()
        assert_same_sentinels(ours, theirs)
        assert load_tokenizer(tmp_path).sha256 == ours.sha256
        theirs.save_pretrained(tmp_path / "saved")
        assert load_tokenizer(tmp_path / "saved").sha256 == ours.sha256


def test_byt5_decodes_any_bytes_alike():
    ours, theirs = byte_tokenizer(), transformers.ByT5Tokenizer()
    for ids in ([231, 192, 163, 258, 1, 0, 100], [231, 0, 192, 163], [259, 231, 260], [131, 100]):
        expected = theirs.decode([token for token in ids if token > 2])
        assert ours.decode(ids) == expected
