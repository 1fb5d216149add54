import json

import pytest
from hard_texts import HARD_TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st

from instructrec_jax.data.tokenizer import (
    byte_tokenizer,
    load_tokenizer,
    tokenizer_from_bytes,
)
from instructrec_jax.errors import ConfigError, DataError


def test_conventions_of_byt5():
    tokenizer = byte_tokenizer()
    assert (tokenizer.kind, tokenizer.model_bytes) == ("bytes", b"")
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)
    assert tokenizer.vocabulary_size == 384
    assert tokenizer.sentinel_ids == tuple(range(259, 384))
    assert tokenizer.encode("aé") == [100, 0xC3 + 3, 0xA9 + 3]


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None, max_examples=100)
def test_keeps_every_text(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(3 <= token < 259 for token in ids)


def test_batch_equals_one_by_one():
    tokenizer = byte_tokenizer()
    texts = [*HARD_TEXTS.values(), "<extra_id_0></s>"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []


def test_sentinels_when_asked_for():
    tokenizer = byte_tokenizer(10)
    text = "a<extra_id_0> <extra_id_9>b<extra_id_10><extra_id_01></s>"
    [ids] = tokenizer.encode_batch([text], parse_sentinels=True)
    assert ids[:4] == [100, 259, 35, 268]
    assert [token for token in ids if token >= 259 or token < 3] == [259, 268]
    assert tokenizer.decode(ids) == tokenizer.decode(tokenizer.encode(text)) == text


def test_bytes_that_are_no_text_are_left_out():
    tokenizer = byte_tokenizer(10)
    assert tokenizer.decode([100, 0xFF + 3, 0xE4 + 3, 101, 1, 0]) == "ab"
    # Unk and ids of an embedding's padding.
    assert tokenizer.decode([100, 2, 269, -1]) == "a" + "\ufffd" * 3


def test_half_of_a_surrogate_pair_is_refused():
    with pytest.raises(DataError, match="surrogate pair at character 3"):
        byte_tokenizer().encode_batch(["fine", "bad\ud800"], parse_sentinels=True)


def test_saved_and_rebuilt(tmp_path):
    tokenizer = byte_tokenizer(10)
    tokenizer.save(tmp_path)
    rebuilt = tokenizer_from_bytes(tokenizer.model_bytes, 10, kind=tokenizer.kind)
    for other in (load_tokenizer(tmp_path), rebuilt):
        assert (other.kind, other.sha256) == ("bytes", tokenizer.sha256)
        assert other.sentinel_ids == tokenizer.sentinel_ids
    assert load_tokenizer(tmp_path, sentinels=5).vocabulary_size == 264
    assert byte_tokenizer(11).sha256 != tokenizer.sha256
    with pytest.raises(ConfigError, match="0 or more"):
        tokenizer_from_bytes(b"", -1, kind="bytes")


def test_folder_of_byt5_names_its_class(tmp_path):
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    assert load_tokenizer(tmp_path).vocabulary_size == 384
    config.write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer", "extra_ids": 7}))
    assert load_tokenizer(tmp_path).vocabulary_size == 266
    config.write_text("{")
    with pytest.raises(ConfigError, match=f"{config} is not JSON"):
        load_tokenizer(tmp_path)
