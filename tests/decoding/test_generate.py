import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from character_model import CONFIG, CharacterTokenizer, random_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from reference import CONFIGS, MAX_NEW_TOKENS, fixed_parameters, padded_batch

from instructrec_jax.decoding import continuous
from instructrec_jax.decoding.generate import generate
from instructrec_jax.decoding.logit_rules import LogitRules
from instructrec_jax.decoding.rows import advanced, encoded_rows
from instructrec_jax.model.t5 import T5
from instructrec_jax.training.sharding import named, parameter_specs

GOLDENS = Path(__file__).parents[1] / "model" / "goldens"
TOKENIZER = CharacterTokenizer()
NEW_TOKENS = 8


def answers(params, texts, *, tokenizer=TOKENIZER, batch_size=4, encoder_length=32, **options):
    return generate(
        params,
        CONFIG,
        tokenizer,
        texts,
        max_new_tokens=NEW_TOKENS,
        batch_size=batch_size,
        encoder_length=encoder_length,
        **options,
    )


def assert_same(ours, theirs):
    assert [g.output_tokens for g in ours] == [g.output_tokens for g in theirs]
    assert [(g.stop_reason, g.truncated) for g in ours] == [
        (g.stop_reason, g.truncated) for g in theirs
    ]
    np.testing.assert_allclose([g.score for g in ours], [g.score for g in theirs], atol=1e-4)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_greedy_search_equals_transformers(name):
    config, golden = CONFIGS[name], np.load(GOLDENS / f"{name}.npz")
    batch = padded_batch(config)
    found = generate(
        fixed_parameters(config),
        config,
        CharacterTokenizer(),
        [
            row[:length].tolist()
            for row, length in zip(
                batch["encoder_input_tokens"],
                (batch["encoder_segment_ids"] > 0).sum(axis=1),
                strict=True,
            )
        ],
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=2,
        encoder_length=512,
    )
    for generation, row in zip(found, golden["greedy"].tolist(), strict=True):
        end = [*row, 1].index(1) + 1
        assert generation.output_tokens == row[: min(end, MAX_NEW_TOKENS)]


@pytest.fixture(scope="module")
def whole_forward(params):
    """Log-probabilities [4, NEW_TOKENS, V] by the model's whole forward pass, without a cache."""

    @jax.jit
    def log_probabilities(tokens, segment_ids, answer):
        batch = {
            "encoder_input_tokens": tokens,
            "encoder_segment_ids": segment_ids,
            "decoder_input_tokens": answer,
            "decoder_segment_ids": answer * 0 + 1,
        }
        return jax.nn.log_softmax(T5(CONFIG).apply({"params": params}, batch))

    return log_probabilities


@settings(max_examples=10, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(max_codepoint=127), max_size=15), min_size=4, max_size=4)
)
def test_cached_decoding_equals_the_whole_forward_pass(params, whole_forward, texts):
    tokens, segment_ids = np.zeros((2, 4, 16), np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text) + 1] = [*map(ord, text), 1]
        segment_ids[row, : len(text) + 1] = 1
    generations = answers(params, texts)
    inputs = np.zeros((4, NEW_TOKENS), np.int32)
    for row, generation in enumerate(generations):
        given_before = generation.output_tokens[:-1]
        inputs[row, 1 : len(given_before) + 1] = given_before
    log_probabilities = np.asarray(whole_forward(tokens, segment_ids, inputs))
    for row, generation in enumerate(generations):
        chosen = generation.output_tokens
        mine = log_probabilities[row, range(len(chosen)), chosen]
        best = log_probabilities[row, : len(chosen)].max(axis=-1)
        np.testing.assert_allclose(mine, best, atol=1e-5)
        np.testing.assert_allclose(generation.score, mine.sum(), atol=1e-4)


def test_batch_size_and_order_change_nothing(params):
    # Two lengths of batches, of which the first is full more than once.
    texts = [*random_texts(6, longest=15), "x" * 20, *random_texts(2, longest=15, seed=2), "y" * 31]
    expected = answers(params, texts)
    assert len({tuple(g.output_tokens) for g in expected}) > 4
    order = np.random.RandomState(1).permutation(10)
    shuffled = answers(params, [texts[place] for place in order])
    assert_same([shuffled[place] for place in np.argsort(order)], expected)
    assert_same(answers(params, texts[:6], batch_size=8), expected[:6])


def test_stop_reasons(params):
    texts = random_texts(9, longest=15)
    frequent = [token for g in answers(params, texts) for token in g.output_tokens]
    eos_id = max(set(frequent), key=frequent.count)
    generations = answers(params, texts, tokenizer=CharacterTokenizer(eos_id=eos_id))
    assert {g.stop_reason for g in generations} == {"eos", "length"}
    for generation in generations:
        assert eos_id not in generation.output_tokens[:-1]
        assert (generation.stop_reason == "eos") == (generation.output_tokens[-1] == eos_id)
        assert chr(eos_id) not in generation.output


def test_eos_comes_after_the_least_number_of_tokens(params):
    texts = random_texts(9, longest=15)
    frequent = [token for g in answers(params, texts) for token in g.output_tokens]
    tokenizer = CharacterTokenizer(eos_id=max(set(frequent), key=frequent.count))
    free = answers(params, texts, tokenizer=tokenizer)
    held = answers(params, texts, tokenizer=tokenizer, rules=LogitRules(min_new_tokens=3))
    assert min(len(g.output_tokens) for g in free) < 4 <= min(len(g.output_tokens) for g in held)
    # What is long enough by itself stays as it is.
    for before, after in zip(free, held, strict=True):
        if len(before.output_tokens) >= 4:
            assert_same([after], [before])


def test_token_ids_are_read_as_they_are(params):
    texts = random_texts(3, longest=15)
    as_tokens = [[*map(ord, text), 1] for text in texts]
    assert_same(answers(params, as_tokens), answers(params, texts))
    (without_eos, with_eos, cut) = answers(params, [as_tokens[0][:-1], texts[0], [5] * 33])
    assert without_eos.score != with_eos.score
    assert cut.truncated
    assert_same([cut], [dataclasses.replace(answers(params, [[5] * 32])[0], truncated=True)])


def test_sentinels_in_texts(params):
    plain, parsed = (
        answers(params, ["a <extra_id_0> b"], parse_sentinels=parse)[0] for parse in (False, True)
    )
    assert plain.score != parsed.score
    assert_same([parsed], answers(params, ["a \x7f b"]))


def test_rows_beyond_the_tokenizer_are_tokens_as_in_transformers(params):
    texts = random_texts(9, longest=15)
    small = CharacterTokenizer(vocabulary_size=20)
    assert_same(answers(params, texts, tokenizer=small), answers(params, texts))


def test_an_over_long_prompt_is_cut_and_marked(params):
    long = random_texts(1, longest=40, seed=3)[0].ljust(40, "x")
    cut, whole, *_ = answers(params, [long, long[:31], "", ""])
    assert cut.truncated and not whole.truncated
    assert cut.output_tokens == whole.output_tokens


def test_places_of_ended_rows_are_filled_again(params, monkeypatch):
    texts = random_texts(40, longest=15)
    frequent = [token for g in answers(params, texts) for token in g.output_tokens]
    tokenizer = CharacterTokenizer(eos_id=max(set(frequent), key=frequent.count))
    positions = []

    def counted(model, rows, *arguments, **options):
        rows = advanced(model, rows, *arguments, **options)
        positions.append(int(rows.cache.position))
        return rows

    monkeypatch.setattr(continuous, "advanced", counted)
    found = answers(params, texts, tokenizer=tokenizer)
    lengths = [len(generation.output_tokens) for generation in found]
    batch_by_batch = sum(max(lengths[start : start + 4]) for start in range(0, 40, 4))
    # Far beyond the ring of keys and values, and in fewer steps than by whole batches.
    assert 2 * NEW_TOKENS < positions[-1] < batch_by_batch
    for text, generation in zip(texts[-3:], found[-3:], strict=True):
        assert_same([generation], answers(params, [text], tokenizer=tokenizer, batch_size=1))


def test_nothing_to_answer_and_progress(params):
    assert answers(params, []) == []
    done = []
    answers(params, random_texts(9, longest=15), progress=done.append)
    assert done == [*range(1, 10)]


def test_a_second_call_compiles_nothing(params):
    texts = random_texts(5, longest=15)
    answers(params, texts)
    compiled = [function._cache_size() for function in (advanced, encoded_rows)]
    answers(params, list(reversed(texts)))
    assert [function._cache_size() for function in (advanced, encoded_rows)] == compiled


def test_sharded_parameters_give_the_same_answers(params):
    texts = random_texts(5, longest=15)
    mesh = jax.make_mesh((1, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, named(mesh, parameter_specs(params)))
        assert_same(answers(sharded, texts), answers(params, texts))
