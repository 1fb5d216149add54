import json
import re

import jsonschema
import numpy as np
import pytest
from character_model import CONFIG, CharacterTokenizer, random_texts

from instructrec_jax.data.byte_tokenizer import byte_tokenizer
from instructrec_jax.data.tokenizer_training import train_tokenizer
from instructrec_jax.decoding.beam import BeamSettings
from instructrec_jax.decoding.generate import generate_several
from instructrec_jax.decoding.grammar import json_guide, regex_guide, token_bytes
from instructrec_jax.decoding.guides import Trie
from instructrec_jax.decoding.sampling import SamplingSettings
from instructrec_jax.decoding.scoring import score
from instructrec_jax.errors import ConfigError

TOKENIZER = CharacterTokenizer()
TEXTS = random_texts(4, longest=15)
OPTIONS = ["red", "redder", "blue", "a"]
SEARCHES = {
    "greedy": {},
    "sample": {"sampling": SamplingSettings(2.0, num_outputs=2)},
    "beam": {"beams": BeamSettings(3, num_outputs=2)},
}


def answers(params, guide, *, new_tokens=12, **options):
    return generate_several(
        params,
        CONFIG,
        TOKENIZER,
        TEXTS,
        max_new_tokens=new_tokens,
        batch_size=3,
        encoder_length=16,
        guides=[guide] * len(TEXTS),
        **options,
    )


@pytest.mark.parametrize("search", sorted(SEARCHES))
def test_answers_are_among_the_options(params, search):
    trie = Trie([[*map(ord, option), 1] for option in OPTIONS], vocabulary_size=128)
    for outputs in answers(params, trie, **SEARCHES[search]):
        for generation in outputs:
            assert generation.output in OPTIONS
            assert generation.stop_reason == "eos"


def test_enough_beams_find_the_most_probable_option(params):
    trie = Trie([[*map(ord, option), 1] for option in OPTIONS], vocabulary_size=128)
    beams = BeamSettings(6, length_penalty=0.0, num_outputs=6)
    for text, outputs in zip(TEXTS, answers(params, trie, beams=beams), strict=True):
        scores = score(
            params, CONFIG, TOKENIZER, [text] * 4, OPTIONS, batch_size=4, encoder_length=16
        )
        logprobs = {option: each.logprob for option, each in zip(OPTIONS, scores, strict=True)}
        # All four, and no others, the best first.
        assert [g.output for g in outputs] == sorted(OPTIONS, key=logprobs.__getitem__)[::-1]
        np.testing.assert_allclose(
            [g.score for g in outputs], sorted(logprobs.values())[::-1], atol=1e-4
        )


@pytest.mark.parametrize("search", sorted(SEARCHES))
@pytest.mark.parametrize(
    "regex",
    [
        r"[a-f]{2,4}/\d+(x|yz)?",
        r"( ?[A-Z]+)*",
        r"[&&a[~~][]x]{2}[^]!-[^-~ ]",
        r"[\d]{2}[^\d][a\d]",
    ],
)
def test_answers_match_the_regular_expression(params, search, regex):
    guide = regex_guide(regex, TOKENIZER, vocabulary_size=128)
    found = answers(params, guide, **SEARCHES[search])
    assert any(g.stop_reason == "eos" for outputs in found for g in outputs)
    for outputs in found:
        for generation in outputs:
            assert generation.stop_reason in ("eos", "length")
            if generation.stop_reason == "eos":
                assert re.fullmatch(regex, generation.output), generation


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 3},
        "kind": {"enum": ["a", "b"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
}


def test_answers_follow_the_json_schema(params, tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    guide = json_guide(str(tmp_path / "schema.json"), TOKENIZER, vocabulary_size=128)
    found = answers(params, guide, new_tokens=60, **SEARCHES["sample"])
    complete = [g.output for outputs in found for g in outputs if g.stop_reason == "eos"]
    assert len(complete) > 4
    for output in complete:
        jsonschema.validate(json.loads(output), SCHEMA)


def test_what_no_token_can_write_is_told(params, tmp_path):
    (found, *_) = answers(params, regex_guide("ab\u4e2dc", TOKENIZER, vocabulary_size=128))
    assert (found[0].output, found[0].stop_reason) == ("ab", "constraint")
    (found, *_) = answers(
        params, regex_guide("\u4e2d", TOKENIZER, vocabulary_size=128), beams=BeamSettings(2)
    )
    assert [(g.output, g.stop_reason) for g in found] == [("", "constraint")]
    (tmp_path / "schema.json").write_text("{}")

    class WithoutBraces(CharacterTokenizer):
        def decode(self, ids):
            return super().decode(ids).replace("{", "").replace("}", "")

    with pytest.raises(ConfigError, match="no token for { }"):
        json_guide(str(tmp_path / "schema.json"), WithoutBraces(), vocabulary_size=128)


def random_walk(guide, seed):
    """Tokens that the guide allows, until one of them is eos."""
    random, state, tokens = np.random.RandomState(seed), guide.start(), []
    while tokens[-1:] != [1]:
        tokens.append(int(random.choice(np.flatnonzero(guide.allowed(state)))))
        if tokens[-1] != 1:
            state = guide.next(state, tokens[-1])
    return tokens


@pytest.mark.parametrize("kind", ["sentencepiece", "bytes"])
def test_bytes_of_tokens_are_what_they_decode_to(kind):
    texts = [f"line {n}: count {n * n} words {{}} \u6700\u540e\n" for n in range(300)]
    tokenizer = (
        byte_tokenizer(3)
        if kind == "bytes"
        else train_tokenizer(texts, vocabulary_size=400, sentinels=4, seed=0)
    )
    written = token_bytes(tokenizer, tokenizer.vocabulary_size + 5)
    assert len(written) == tokenizer.vocabulary_size + 5
    for token in (*range(3), *tokenizer.sentinel_ids, tokenizer.vocabulary_size):
        assert written[token] is None
    for text in (*texts[:3], "word  two \t \U0001f600 {}"):
        tokens = tokenizer.encode(text)
        joined = b"".join(written[token] or b"" for token in tokens).decode()
        assert joined.removeprefix(" ") == tokenizer.decode(tokens) == text
    for regex in (r"[0-9]a[0-9]{9}", r"(count|line) \d+\n?", r"yes|no"):
        guide = regex_guide(regex, tokenizer, vocabulary_size=len(written))
        for seed in range(3):
            assert re.fullmatch(regex, tokenizer.decode(random_walk(guide, seed)))
    # The space before the first word is free, and nothing else begins with one.
    guide = regex_guide(r"\s*word", tokenizer, vocabulary_size=len(written))
    first = guide.allowed(guide.start())
    starts = {written[token][:1] for token in np.flatnonzero(first)}
    assert b"w" in starts and b" " in starts
