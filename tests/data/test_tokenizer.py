import io
import json
import os
import tempfile
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from instructrec_jax.data.tokenizer import (
    Tokenizer,
    load_tokenizer,
    tokenizer_from_bytes,
)
from instructrec_jax.data.tokenizer_training import train_tokenizer
from instructrec_jax.errors import ConfigError, DataError

AWKWARD = [
    "",
    " ",
    "  two  spaces  ",
    "\n",
    "\tif x:\n\t\treturn {'a': [1]}\r\n",
    "\0",
    "a\0b",
    "你好，世界",
    "👩‍🔬🇨🇳",
    "\u2581",
    "a\u2581\u2581 b\n\u2581",
    "\u2028\x85\ufeff\u00a0\u3000",
    "e\u0301 \u00e9",
    "</s>",
    "<extra_id_0><pad><unk><s>",
    "<0x0A>",
    "\U0010ffff",
]


@pytest.fixture(scope="module")
def existing_model(corpus) -> bytes:
    """A model as published with T5: nmt_nfkc, no byte fallback, unk for what it does not know."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in corpus for line in text.splitlines()),
        model_writer=model,
        vocab_size=120,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None, max_examples=300)
def test_keeps_every_character(tokenizer: Tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(2 < token < tokenizer.pieces for token in ids)


@given(st.lists(st.sampled_from([*AWKWARD, "<extra_id_0>", "<extra_id_9>", "<extra_id_10>", " x"])))
@settings(deadline=None, max_examples=100)
def test_keeps_text_and_sentinels(tokenizer: Tokenizer, parts):
    text = "".join(parts)
    [ids] = tokenizer.encode_batch([text], parse_sentinels=True)
    assert tokenizer.decode(ids) == text
    sentinels = [part for part in parts if part in ("<extra_id_0>", "<extra_id_9>")]
    assert len([token for token in ids if token in tokenizer.sentinel_ids]) >= len(sentinels)


@pytest.mark.parametrize("text", AWKWARD)
def test_keeps_awkward_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_batch_equals_one_by_one(tokenizer):
    assert tokenizer.encode_batch(AWKWARD) == [tokenizer.encode(text) for text in AWKWARD]
    assert tokenizer.encode_batch([]) == []


def test_conventions_of_t5(tokenizer):
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)
    assert tokenizer.vocabulary_size == tokenizer.pieces + 10
    assert tokenizer.sentinel_ids[0] == tokenizer.vocabulary_size - 1
    assert tokenizer.sentinel_ids[-1] == tokenizer.pieces


def test_a_literal_sentinel_or_eos_in_text_is_text(tokenizer):
    ids = tokenizer.encode("<extra_id_0></s>")
    assert not {tokenizer.eos_id, *tokenizer.sentinel_ids} & set(ids)


def test_decode_skips_pad_and_eos_and_names_sentinels(tokenizer):
    first, second = tokenizer.sentinel_ids[:2]
    the, dog = tokenizer.encode("the"), tokenizer.encode(" dog")
    ids = [0, first, *the, second, *dog, 1, 0]
    text = "<extra_id_0>the<extra_id_1> dog"
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text], parse_sentinels=True) == [ids[1:-2]]
    assert tokenizer.decode([*the, 1, 0, 0]) == "the"


def test_decode_marks_ids_outside_the_vocabulary(tokenizer):
    unknown = tokenizer.decode([tokenizer.unk_id])
    assert unknown.strip()
    assert tokenizer.decode([tokenizer.vocabulary_size + 5]) == unknown
    assert tokenizer.decode([-1]) == unknown


def test_half_of_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(DataError, match="surrogate pair at character 3"):
        tokenizer.encode_batch(["fine", "bad\ud800"])


def test_training_depends_on_texts_sizes_and_seed_only(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    again = train_tokenizer(iter(corpus), vocabulary_size=500, sentinels=10, seed=0)
    assert again.sha256 == tokenizer.sha256
    assert os.listdir(tmp_path) == []
    one_core = {next(iter(os.sched_getaffinity(0)))}
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, one_core)
    try:
        alone = train_tokenizer(iter(corpus), vocabulary_size=500, sentinels=10, seed=0)
    finally:
        os.sched_setaffinity(0, cores)
    assert alone.model_bytes == tokenizer.model_bytes


def test_a_large_corpus_is_sampled_by_seed(monkeypatch):
    monkeypatch.setattr(
        "instructrec_jax.data.tokenizer_training._SAMPLE_CHARACTERS", (20_000, 20_000)
    )
    taken = []

    def texts():
        for number in range(20_000):
            taken.append(number)
            yield f"example {number % 997} of word{number % 53} " * 3

    trained = [
        train_tokenizer(texts(), vocabulary_size=400, sentinels=0, seed=s) for s in (0, 0, 1)
    ]
    assert len(taken) == 60_000
    assert trained[0].sha256 == trained[1].sha256 != trained[2].sha256


def test_training_is_quiet(corpus, capfd):
    train_tokenizer(corpus, vocabulary_size=400, sentinels=10, seed=0)
    assert capfd.readouterr() == ("", "")


def test_small_corpus_gives_the_largest_vocabulary_and_says_so():
    said = []
    tokenizer = train_tokenizer(
        ["ab cd"], vocabulary_size=8_000, sentinels=100, seed=0, progress=said.append
    )
    assert tokenizer.vocabulary_size < 500
    assert len(said) == 1 and f"{tokenizer.vocabulary_size:,}" in said[0]
    assert tokenizer.decode(tokenizer.encode("other text\n")) == "other text\n"


@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
@settings(deadline=None, max_examples=25)
@example(["\0"])
@example(["a"])
@example(["\u2581"])
@example(["\ud800 x"])
def test_training_on_any_text_works_or_says_why(texts):
    try:
        tokenizer = train_tokenizer(texts, vocabulary_size=400, sentinels=10, seed=0)
    except DataError as error:
        assert "no text" in str(error)
        assert not any(character.isalnum() for text in texts for character in text)
        return
    assert tokenizer.decode(tokenizer.encode("héllo")) == "héllo"


def test_too_small_a_vocabulary_is_refused(corpus):
    with pytest.raises(ConfigError, match="must be at least"):
        train_tokenizer(corpus, vocabulary_size=300, sentinels=100, seed=0)
    with pytest.raises(DataError, match="no text"):
        train_tokenizer([], vocabulary_size=500, sentinels=10, seed=0)


def test_saved_tokenizer_loads_from_folder_and_file(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    for path in (tmp_path / "tokenizer", tmp_path / "tokenizer" / "spiece.model"):
        loaded = load_tokenizer(path)
        assert loaded.sha256 == tokenizer.sha256
        assert loaded.sentinel_ids == tokenizer.sentinel_ids
    restored = tokenizer_from_bytes(tokenizer.model_bytes, 10)
    assert restored.sha256 == tokenizer.sha256


def test_existing_t5_model_loads(existing_model, tmp_path):
    (tmp_path / "spiece.model").write_bytes(existing_model)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocabulary_size == tokenizer.pieces + 100
    assert tokenizer.decode([*tokenizer.encode("the lazy dog."), 1]) == "the lazy dog."
    # What such a model does to code: the reason for training one's own.
    assert tokenizer.unk_id in tokenizer.encode("~^|")
    assert tokenizer.decode(tokenizer.encode("a\n\nb")) == "a b"


def test_missing_model_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.model"):
        with pytest.raises(ConfigError, match=str(path)):
            load_tokenizer(path)


@pytest.mark.parametrize("kept", [0, 1, 100, 2_000, -1])
def test_cut_model_is_named(tokenizer, tmp_path, kept):
    path = tmp_path / "cut.model"
    path.write_bytes(tokenizer.model_bytes[:kept])
    with pytest.raises(ConfigError, match=f"{path} is not a SentencePiece model"):
        load_tokenizer(path)


def test_model_cut_at_any_byte_is_refused(tokenizer):
    model = tokenizer.model_bytes
    for kept in range(0, len(model), 7):
        with pytest.raises(ConfigError):
            tokenizer_from_bytes(model[:kept], 10)


def test_piece_that_is_no_utf8_is_refused(tokenizer):
    damaged = tokenizer.model_bytes.replace("好".encode(), b"\xff\xff\xff")
    assert damaged != tokenizer.model_bytes
    with pytest.raises(ConfigError, match="not a SentencePiece model"):
        tokenizer_from_bytes(damaged, 10)


def test_model_of_other_conventions_is_refused(corpus, tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        vocab_size=100,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(ConfigError, match=r"\(0, 1, 2\)"):
        tokenizer_from_bytes(model.getvalue(), 100)


def test_model_and_description_must_belong_together(tokenizer, existing_model, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "spiece.model").write_bytes(existing_model)
    with pytest.raises(ConfigError, match="hashes differ"):
        load_tokenizer(tmp_path)
    info = Path(tmp_path / "tokenizer_info.json")
    info.write_text(json.dumps({"sentinels": 10}))
    with pytest.raises(ConfigError, match=r"tokenizer_info\.json"):
        load_tokenizer(tmp_path)
