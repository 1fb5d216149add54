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

from instructrec_jax.decoding.generate import generate, greedy_search
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
    tokens, lengths, _ = greedy_search(
        fixed_parameters(config),
        batch["encoder_input_tokens"],
        batch["encoder_segment_ids"],
        config=config,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_id=1,
    )
    longest = golden["greedy"].shape[1]
    np.testing.assert_array_equal(tokens[:, :longest], golden["greedy"])
    ends = [[*row, *[1] * MAX_NEW_TOKENS].index(1) + 1 for row in golden["greedy"].tolist()]
    np.testing.assert_array_equal(lengths, np.minimum(ends, MAX_NEW_TOKENS))


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


def test_rows_end_with_eos_or_at_the_limit(params):
    prompts = np.random.RandomState(0).randint(33, 127, (4, 16)).astype(np.int32)

    def search(eos_id):
        options = {"max_new_tokens": NEW_TOKENS, "eos_id": eos_id}
        found = greedy_search(params, prompts, np.ones_like(prompts), config=CONFIG, **options)
        return [np.asarray(array) for array in found]

    endless, _, endless_scores = search(-1)
    eos_id = int(endless[0, 2])
    tokens, lengths, scores = search(eos_id)
    ends = [[*row, eos_id].index(eos_id) + 1 for row in endless.tolist()]
    assert lengths.tolist() == [min(end, NEW_TOKENS) for end in ends]
    assert min(ends) < NEW_TOKENS < max(ends)
    for row, length in enumerate(lengths):
        assert tokens[row].tolist() == [*endless[row, :length], *[0] * (NEW_TOKENS - length)]
        assert scores[row] >= endless_scores[row] - 1e-5


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
    held = answers(params, texts, tokenizer=tokenizer, min_new_tokens=3)
    assert min(len(g.output_tokens) for g in free) < 4 <= min(len(g.output_tokens) for g in held)
    # What is long enough by itself stays as it is.
    for before, after in zip(free, held, strict=True):
        assert len(before.output_tokens) < 4 or after == before


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


def test_nothing_to_answer_and_progress(params):
    assert answers(params, []) == []
    done = []
    answers(params, random_texts(9, longest=15), progress=done.append)
    assert done == [4, 8, 9]


def test_a_second_call_compiles_nothing(params):
    texts = random_texts(5, longest=15)
    answers(params, texts)
    compiled = greedy_search._cache_size()
    answers(params, list(reversed(texts)))
    assert greedy_search._cache_size() == compiled


def test_sharded_parameters_give_the_same_answers(params):
    texts = random_texts(5, longest=15)
    mesh = jax.make_mesh((1, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(params, named(mesh, parameter_specs(params)))
        assert_same(answers(sharded, texts), answers(params, texts))
