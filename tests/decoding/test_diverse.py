import jax
import jax.numpy as jnp
import numpy as np
import pytest
from character_model import CONFIG

from instructrec_jax.decoding.beam import beam_search
from instructrec_jax.decoding.beam_settings import BeamSettings
from instructrec_jax.decoding.logit_rules import LogitRules
from instructrec_jax.errors import ConfigError
from instructrec_jax.model.t5 import T5, init_parameters

EOS, NEW_TOKENS, PENALTY = 7, 4, 0.7
GROUPS, OF_GROUP = 3, 2
PROMPTS = np.random.RandomState(5).randint(10, 120, (2, 9)).astype(np.int32)


@jax.jit
def logits_of(params, prompts, answers):
    """float32 [N, T, V]."""
    batch = {
        "encoder_input_tokens": prompts,
        "encoder_segment_ids": jnp.ones_like(prompts),
        "decoder_input_tokens": answers,
        "decoder_segment_ids": jnp.ones_like(answers),
    }
    hidden = T5(CONFIG).apply({"params": params}, batch, method="hidden")
    return T5(CONFIG).apply({"params": params}, hidden, method="logits")


def next_log_probabilities(params, prompt, answers):
    """float64 [N, V] after each of `answers`, computed from the first token on."""
    written = len(answers[0])
    inputs = np.zeros((OF_GROUP, NEW_TOKENS), np.int32)  # from T5's start token on
    for row, answer in zip(inputs, answers, strict=False):
        row[1 : written + 1] = answer
    logits = logits_of(params, np.tile(prompt, (OF_GROUP, 1)), inputs)
    logits = np.asarray(logits, np.float64)[: len(answers), written]
    values = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    values[:, EOS] = -np.inf
    return values


def expected(params, prompt):
    """{answer: score} of Vijayakumar et al. 2016, algorithm 1, by lists; no answer ends early."""
    groups = [[((), 0.0)] for _ in range(GROUPS)]
    for _ in range(NEW_TOKENS):
        taken = np.zeros(CONFIG.vocabulary_size)
        for number, beams in enumerate(groups):
            values = next_log_probabilities(params, prompt, [answer for answer, _ in beams])
            candidates = [
                ((*answer, token), score + row[token] - PENALTY * taken[token])
                for (answer, score), row in zip(beams, values, strict=True)
                for token in range(len(row))
            ]
            groups[number] = sorted(candidates, key=lambda each: -each[1])[:OF_GROUP]
            for answer, _ in groups[number]:
                taken[answer[-1]] += 1
    return sorted((score / NEW_TOKENS, answer) for beams in groups for answer, score in beams)


def test_groups_shun_the_tokens_of_those_before_them():
    params = init_parameters(CONFIG, jax.random.key(1))
    found = beam_search(
        params,
        PROMPTS,
        np.ones_like(PROMPTS),
        config=CONFIG,
        settings=BeamSettings(GROUPS * OF_GROUP, num_beam_groups=GROUPS, diversity_penalty=PENALTY),
        eos_id=EOS,
        max_new_tokens=NEW_TOKENS,
        rules=LogitRules(min_new_tokens=NEW_TOKENS),
    )
    tokens, scores = np.asarray(found.tokens), np.asarray(found.beam_scores)
    assert (np.diff(scores) <= 0).all()
    for row, prompt in enumerate(PROMPTS):
        answers = expected(params, prompt)[::-1]
        np.testing.assert_allclose(scores[row], [score for score, _ in answers], rtol=1e-4)
        ours = {tuple(answer) for answer in tokens[row].tolist()}
        assert ours == {answer for _, answer in answers}


def test_groups_must_divide_the_beams():
    with pytest.raises(ConfigError, match=r"num_beam_groups \(3\) must divide num_beams \(4\)"):
        BeamSettings(4, num_beam_groups=3)
