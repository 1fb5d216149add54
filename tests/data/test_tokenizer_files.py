import json

import pytest

from instructrec_jax.data.tokenizer import load_tokenizer, tokenizer_from_bytes
from instructrec_jax.errors import ConfigError

NAMES = [f"<extra_id_{number}>" for number in range(7)]


@pytest.fixture
def folder(t5_model, tmp_path):
    (tmp_path / "spiece.model").write_bytes(t5_model)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "fields", "sentinels"),
    [
        ("tokenizer_config.json", {}, 100),
        ("tokenizer_config.json", {"extra_ids": 7}, 7),
        ("tokenizer_config.json", {"extra_ids": 300, "additional_special_tokens": NAMES}, 300),
        ("tokenizer_config.json", {"extra_ids": 0, "additional_special_tokens": None}, 0),
        ("tokenizer_config.json", {"additional_special_tokens": NAMES}, 7),
        ("tokenizer_config.json", {"extra_ids": 0, "extra_special_tokens": [*NAMES, "x"]}, 7),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {str(n): {"content": each} for n, each in enumerate(NAMES)}},
            7,
        ),
        ("special_tokens_map.json", {"additional_special_tokens": NAMES}, 7),
        (
            "special_tokens_map.json",
            {"additional_special_tokens": [{"content": each} for each in NAMES]},
            7,
        ),
        ("special_tokens_map.json", {"eos_token": "</s>"}, 100),
    ],
)
def test_number_of_sentinels_of_a_hugging_face_folder(folder, file, fields, sentinels):
    (folder / file).write_text(json.dumps(fields))
    for path in (folder, folder / "spiece.model"):
        assert len(load_tokenizer(path).sentinel_ids) == sentinels
    assert len(load_tokenizer(folder, sentinels=3).sentinel_ids) == 3


@pytest.mark.parametrize(
    ("file", "fields", "said"),
    [
        ("tokenizer_config.json", {"extra_ids": "100"}, "extra_ids is '100'"),
        ("tokenizer_config.json", {"extra_ids": -1}, "extra_ids is -1"),
        ("tokenizer_config.json", {"extra_ids": True}, "extra_ids is True"),
        ("tokenizer_config.json", {"extra_ids": 10**12}, "extra_ids is 1000000000000"),
        ("tokenizer_config.json", {"additional_special_tokens": 3}, "special_tokens is 3"),
        ("tokenizer_config.json", {"additional_special_tokens": [3]}, "holds 3"),
        ("tokenizer_config.json", [], "not a JSON object"),
        ("special_tokens_map.json", {"additional_special_tokens": "x"}, "not a list of tokens"),
        ("special_tokens_map.json", 7, "not a JSON object"),
    ],
)
def test_wrong_types_are_named(folder, file, fields, said):
    (folder / file).write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match=said) as raised:
        load_tokenizer(folder)
    assert str(folder / file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_description_without_a_kind_is_of_sentencepiece(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    info = tmp_path / "tokenizer_info.json"
    fields = json.loads(info.read_text())
    del fields["kind"]
    info.write_text(json.dumps(fields))
    assert load_tokenizer(tmp_path).sha256 == tokenizer.sha256
    info.write_text(json.dumps({**fields, "kind": "words"}))
    with pytest.raises(ConfigError, match="kind 'words' is unknown"):
        load_tokenizer(tmp_path)


def test_unknown_kind_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="unknown kind 'words'"):
        tokenizer_from_bytes(tokenizer.model_bytes, 10, kind="words")
