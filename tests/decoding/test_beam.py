import dataclasses
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from character_model import CONFIG, CharacterTokenizer, random_texts
from jax.sharding import AxisType
from reference import (
    CONFIGS,
    MAX_NEW_TOKENS,
    fixed_parameters,
    padded_batch,
    transformers_model,
)

from instructrec_jax.decoding import beam
from instructrec_jax.decoding.beam import BeamSettings, beam_search
from instructrec_jax.decoding.generate import generate, generate_several
from instructrec_jax.decoding.logit_rules import LogitRules
from instructrec_jax.errors import ConfigError
from instructrec_jax.model.lora import LoraConfig, merge_adapters
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training.sharding import named, parameter_specs

GOLDENS = Path(__file__).parents[1] / "model" / "goldens"
EOS = 7
NEW_TOKENS = 10
# A prompt of one token, a full row, and a row of padding alone, whose answers do not count.
LENGTHS = (24, 17, 1, 9, 20, 0)
PROMPTS = len(LENGTHS) - 1
TOKENIZER = CharacterTokenizer(eos_id=EOS)


def with_frequent_eos(params):
    """`params` with a flatter distribution of tokens, in which eos is likelier than others."""
    kernel = params["lm_head"]["kernel"] * np.float32(0.3)
    kernel[:, EOS] *= np.float32(2.5)
    return {**params, "lm_head": {"kernel": kernel}}


def prompts():
    random = np.random.RandomState(3)
    tokens, segment_ids = np.zeros((2, len(LENGTHS), 24), np.int32)
    for row, length in enumerate(LENGTHS):
        tokens[row, :length] = random.randint(2, 128, length)
        segment_ids[row, :length] = 1
    return tokens, segment_ids


@cache
def models():
    pytest.importorskip("torch")
    params = with_frequent_eos(fixed_parameters(CONFIG))
    return params, transformers_model(CONFIG, params)


def expected_beams(model, settings, *, max_new_tokens, min_new_tokens):
    """Tokens and sequence scores of transformers' beam search, the best first."""
    import torch

    tokens, segment_ids = (torch.from_numpy(a[:PROMPTS].astype(np.int64)) for a in prompts())
    with torch.no_grad():
        found = model.generate(
            input_ids=tokens,
            attention_mask=segment_ids,
            num_beams=settings.num_beams,
            num_return_sequences=settings.num_beams,
            length_penalty=settings.length_penalty,
            early_stopping=settings.early_stopping,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            eos_token_id=EOS,
            do_sample=False,
            use_cache=False,  # transformers' cannot be deeper than the encoder
            return_dict_in_generate=True,
            output_scores=True,
        )
    answers = []
    for row in found.sequences[:, 1:].tolist():
        answers.append(row[: row.index(EOS) + 1] if EOS in row else row)
    return answers, found.sequences_scores.numpy()


def assert_equal_to_transformers(settings, *, max_new_tokens=NEW_TOKENS, min_new_tokens=0):
    """Compares all beams, and returns transformers' answers."""
    params, model = models()
    limits = {"max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens}
    answers, beam_scores = expected_beams(model, settings, **limits)
    found = beam_search(
        params,
        *prompts(),
        config=CONFIG,
        settings=settings,
        eos_id=EOS,
        max_new_tokens=max_new_tokens,
        rules=LogitRules(min_new_tokens=min_new_tokens),
    )
    found = jax.tree.map(np.asarray, found)
    ours = [
        found.tokens[row, rank, : found.lengths[row, rank]].tolist()
        for row in range(PROMPTS)
        for rank in range(settings.num_beams)
    ]
    assert ours == answers
    np.testing.assert_allclose(found.beam_scores[:PROMPTS].ravel(), beam_scores, rtol=2e-5)
    lengths = found.lengths[:PROMPTS]
    np.testing.assert_allclose(
        found.scores[:PROMPTS],
        found.beam_scores[:PROMPTS] * lengths**settings.length_penalty,
        rtol=1e-5,
    )
    assert not found.lengths[PROMPTS].any()
    return answers


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize(("num_beams", "length_penalty"), [(2, 0.0), (4, 0.6), (2, 1.0), (4, 2.0)])
def test_beam_search_equals_transformers(num_beams, length_penalty, early_stopping):
    settings = BeamSettings(num_beams, length_penalty, early_stopping)
    answers = assert_equal_to_transformers(settings)
    assert 0 < sum(EOS in answer for answer in answers) < len(answers)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_beam_search_of_every_architecture_equals_transformers(name):
    config, golden = CONFIGS[name], np.load(GOLDENS / f"{name}.npz")
    batch = padded_batch(config)
    found = beam_search(
        fixed_parameters(config),
        batch["encoder_input_tokens"],
        batch["encoder_segment_ids"],
        config=config,
        settings=BeamSettings(4),
        max_new_tokens=MAX_NEW_TOKENS,
        eos_id=1,
    )
    answers = np.asarray(found.tokens)[:, :2, : golden["beam_tokens"].shape[-1]]
    # transformers fills up with eos.
    filled = np.where(np.cumsum(answers == 1, axis=-1) > 0, 1, answers)
    np.testing.assert_array_equal(filled, golden["beam_tokens"])
    np.testing.assert_allclose(found.beam_scores[:, :2], golden["beam_scores"], rtol=2e-5)


@pytest.mark.parametrize("min_new_tokens", [1, 4, NEW_TOKENS])
def test_a_least_number_of_tokens_equals_transformers(min_new_tokens):
    settings = BeamSettings(4, length_penalty=0.0)
    answers = assert_equal_to_transformers(settings, min_new_tokens=min_new_tokens)
    assert all(len(answer) > min_new_tokens for answer in answers if EOS in answer)


def test_nearly_as_many_beams_as_tokens_equals_transformers():
    # Fewer tokens than candidates: at first most beams have nothing to continue.
    assert_equal_to_transformers(BeamSettings(120), max_new_tokens=3)


def test_one_new_token_equals_transformers():
    assert_equal_to_transformers(BeamSettings(2, length_penalty=-1.0), max_new_tokens=1)


def test_settings_compile_nothing_but_a_number_of_beams():
    params = with_frequent_eos(fixed_parameters(CONFIG))

    def search(settings):
        options = {"config": CONFIG, "max_new_tokens": NEW_TOKENS, "eos_id": EOS}
        beam_search(params, *prompts(), settings=settings, **options)
        return beam._beam_search._cache_size()

    compiled = search(BeamSettings(2))
    assert search(BeamSettings(2, 0.5, "never", 2)) == search(BeamSettings(2, 0.0, True))
    assert search(BeamSettings(2)) == compiled


@pytest.fixture(scope="module")
def ending_params(params):
    return with_frequent_eos(params)


def several(params, texts, *, config=CONFIG, batch_size=4, **options):
    return generate_several(
        params,
        config,
        TOKENIZER,
        texts,
        max_new_tokens=NEW_TOKENS,
        batch_size=batch_size,
        encoder_length=32,
        **{"beams": BeamSettings(3, num_outputs=2), **options},
    )


def assert_same(ours, theirs):
    def facts(answers):
        return [[(g.output_tokens, g.stop_reason) for g in outputs] for outputs in answers]

    assert facts(ours) == facts(theirs)
    scores = [
        [[g.beam_score for g in outputs] for outputs in answers] for answers in (ours, theirs)
    ]
    np.testing.assert_allclose(*scores, rtol=1e-4)


def test_batch_size_and_order_change_nothing(ending_params):
    texts = random_texts(7, longest=15)
    expected = several(ending_params, texts)
    assert {g.stop_reason for outputs in expected for g in outputs} == {"eos", "length"}
    order = np.random.RandomState(1).permutation(len(texts))
    shuffled = several(ending_params, [texts[place] for place in order])
    assert_same([shuffled[place] for place in np.argsort(order)], expected)
    assert_same(several(ending_params, texts[:2], batch_size=1), expected[:2])


def test_sharded_parameters_give_the_same_answers(ending_params):
    texts = random_texts(5, longest=15)
    mesh = jax.make_mesh((1, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(ending_params, named(mesh, parameter_specs(ending_params)))
        assert_same(several(sharded, texts), several(ending_params, texts))


def test_one_beam_is_greedy_search_with_a_beam_score(ending_params):
    texts = random_texts(4, longest=15)
    greedy = several(ending_params, texts, beams=None)
    one = several(ending_params, texts, beams=BeamSettings(1, length_penalty=2.0))
    for (expected,), (found,) in zip(greedy, one, strict=True):
        assert expected.beam_score is None
        assert found.beam_score == pytest.approx(found.score / len(found.output_tokens) ** 2)
        assert dataclasses.replace(found, beam_score=None) == expected


def test_generate_gives_the_best(ending_params):
    texts = random_texts(4, longest=15)
    best = generate(
        ending_params,
        CONFIG,
        TOKENIZER,
        texts,
        max_new_tokens=NEW_TOKENS,
        batch_size=4,
        encoder_length=32,
        beams=BeamSettings(3),
    )
    assert best == [outputs[0] for outputs in several(ending_params, texts)]


def test_adapters_count_as_merged(ending_params):
    config = dataclasses.replace(CONFIG, lora=LoraConfig(rank=2, alpha=4.0, targets=r".*/value"))
    random = np.random.RandomState(0)
    adapted = jax.tree.map(
        lambda leaf: random.normal(0.0, 0.3, leaf.shape).astype(np.float32),
        jax.eval_shape(lambda: init_parameters(config, jax.random.key(0))),
    )
    adapted = {**adapted, "lm_head": ending_params["lm_head"]}
    texts = random_texts(4, longest=15)
    merged = merge_adapters(adapted, config.lora)
    assert_same(several(adapted, texts, config=config), several(merged, texts))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (BeamSettings(128), "num_beams must be less than the 128 tokens"),
        (BeamSettings(2, length_penalty=100.0), "length_penalty 100.0 is out of range"),
        (BeamSettings(2, length_penalty=-100.0), "length_penalty -100.0 is out of range"),
        (BeamSettings(2, length_penalty=float("nan")), "length_penalty nan is out of range"),
    ],
)
def test_searches_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        settings.check(max_new_tokens=NEW_TOKENS, vocabulary_size=128)


@pytest.mark.parametrize(("num_beams", "num_outputs"), [(0, 1), (2, 3), (2, 0)])
def test_outputs_beyond_the_beams(num_beams, num_outputs):
    message = rf"from 1 to num_beams \({num_beams}\), not {num_outputs}"
    with pytest.raises(ConfigError, match=message):
        BeamSettings(num_beams, num_outputs=num_outputs)
