import builtins
import json

import pytest

from instructrec_jax.data.tokenizer import load_tokenizer, tokenizer_from_bytes
from instructrec_jax.errors import ConfigError, DataError

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def json_bytes(tokenizer):
    """The export of a model that is trained here, with 10 sentinels."""
    return tokenizer.hugging_face_files()["tokenizer.json"]


@pytest.fixture(scope="module")
def from_json(json_bytes):
    return tokenizer_from_bytes(json_bytes, kind="tokenizers")


def changed(json_bytes, change):
    fields = json.loads(json_bytes)
    change(fields)
    return json.dumps(fields).encode()


def test_same_as_the_model_it_was_made_of(from_json, tokenizer, corpus):
    assert from_json.kind == "tokenizers"
    assert (from_json.pad_id, from_json.eos_id, from_json.unk_id) == (0, 1, 2)
    assert from_json.vocabulary_size == tokenizer.vocabulary_size
    assert from_json.sentinel_ids == tokenizer.sentinel_ids
    for texts in (corpus[:5], ["", "  \n\tx", "</s><extra_id_0><pad> <unk>", "<extra_id_77>"]):
        ids = from_json.encode_batch(texts)
        assert ids == tokenizer.encode_batch(texts)
        assert ids == [from_json.encode(text) for text in texts]
        assert [from_json.decode(each) for each in ids] == texts
    text = "a <extra_id_1> b</s><extra_id_0><extra_id_10>"
    [ids] = from_json.encode_batch([text], parse_sentinels=True)
    assert [ids] == tokenizer.encode_batch([text], parse_sentinels=True)
    assert {token for token in ids if token in from_json.sentinel_ids} == {
        *from_json.sentinel_ids[:2]
    }
    assert not {0, 1, 2} & set(ids)


def test_decode_skips_pad_and_eos(from_json):
    ids = [0, *from_json.encode("the"), 1, 0]
    assert from_json.decode(ids) == "the"
    assert from_json.decode([from_json.vocabulary_size]) == from_json.decode([2])


def test_special_tokens_outside_the_vocabulary_keep_their_ids(json_bytes):
    def move(fields):
        """The sentinels become added tokens alone, counted up, after one of another kind."""
        count = len(fields["model"]["vocab"]) - 10
        del fields["model"]["vocab"][count:]
        names = ["<other>", *(f"<extra_id_{n}>" for n in range(10))]
        token = fields["added_tokens"][-1]
        fields["added_tokens"][3:] = [
            {**token, "id": count + place, "content": name} for place, name in enumerate(names)
        ]

    moved = tokenizer_from_bytes(changed(json_bytes, move), kind="tokenizers")
    first = moved.vocabulary_size - 10
    assert moved.sentinel_ids == tuple(range(first, first + 10))
    text = "<other><extra_id_0>"
    [ids] = moved.encode_batch([text], parse_sentinels=True)
    assert ids[-1] == first and first - 1 not in ids
    assert not set(moved.encode(text)) & set(range(first - 1, first + 10))


def test_cutting_and_padding_of_the_file_are_ignored(json_bytes, from_json):
    def cut(fields):
        fields["truncation"] = {
            "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0,
        }  # fmt: skip
        fields["padding"] = {
            "strategy": {"Fixed": 5}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>",
        }  # fmt: skip

    tokenizer = tokenizer_from_bytes(changed(json_bytes, cut), kind="tokenizers")
    for text in ("", "a", "The quick brown fox"):
        assert tokenizer.encode(text) == from_json.encode(text)


def test_saved_and_loaded(from_json, tmp_path):
    from_json.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(path)
        assert (loaded.kind, loaded.sha256) == ("tokenizers", from_json.sha256)
    (tmp_path / "tokenizer.json").write_bytes(from_json.model_bytes + b" ")
    with pytest.raises(ConfigError, match="hashes differ"):
        load_tokenizer(tmp_path)


def test_half_of_a_surrogate_pair_is_refused(from_json):
    with pytest.raises(DataError, match="surrogate pair at character 3"):
        from_json.encode_batch(["fine", "bad\ud800"])


@pytest.mark.parametrize("kept", [0, 1, 1_000, -1])
def test_cut_file_is_named(json_bytes, tmp_path, kept):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(json_bytes[:kept])
    with pytest.raises(ConfigError, match=rf"{path} is not a tokenizer\.json") as raised:
        load_tokenizer(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b'"text"', b"null", b"\xff", b'{"model": 3}', b"[" * 100_000]
)
def test_other_json_is_refused(content):
    with pytest.raises(ConfigError, match=r"not a tokenizer\.json"):
        tokenizer_from_bytes(content, kind="tokenizers")


def test_other_conventions_are_refused(json_bytes):
    def swap(fields):
        vocabulary = fields["model"]["vocab"]
        vocabulary[0], vocabulary[1] = vocabulary[1], vocabulary[0]

    with pytest.raises(ConfigError, match=r"= \(1, 0, 2\), T5's conventions are \(0, 1, 2\)"):
        tokenizer_from_bytes(changed(json_bytes, swap), kind="tokenizers")


@pytest.mark.parametrize("encoded", [None, 3, "", "x", "AAAA", "/////w==", "BAAAAAAAAAD//w=="])
def test_damaged_character_map_is_refused(json_bytes, encoded, capfd):
    def damage(fields):
        fields["normalizer"]["normalizers"] = [
            {"type": "Precompiled", "precompiled_charsmap": encoded}
        ]

    with pytest.raises(ConfigError, match=r"not a tokenizer\.json"):
        tokenizer_from_bytes(changed(json_bytes, damage), kind="tokenizers")
    # The package would panic, which prints a page.
    assert capfd.readouterr() == ("", "")


def test_model_without_unk_is_refused(json_bytes):
    damaged = changed(json_bytes, lambda fields: fields["model"].update(unk_id=None))
    with pytest.raises(ConfigError, match=r"= \(0, 1, None\)"):
        tokenizer_from_bytes(damaged, kind="tokenizers")


def test_missing_package_is_named(json_bytes, tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").write_bytes(json_bytes)
    real_import = builtins.__import__

    def refuse(name, *arguments):
        if name == "tokenizers":
            raise ImportError(name)
        return real_import(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[tokenizers\]'"):
        load_tokenizer(tmp_path)
