from functools import cache

import jax
import numpy as np
import pytest
from character_model import CONFIG, CharacterTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import fixed_parameters, transformers_model

from instructrec_jax.decoding.beam import BeamSettings
from instructrec_jax.decoding.generate import generate_several
from instructrec_jax.decoding.logit_rules import LogitRules, bad_word_table, ruled
from instructrec_jax.decoding.prepared import prepared_model

EOS = 7
NEW_TOKENS = 10
ROOM = 9
V = 12
WORDS = [[3], [4, 5], [6, 6, 2], [EOS]]


@settings(max_examples=20, deadline=None)
@given(
    tokens=st.lists(st.integers(2, 6), min_size=0, max_size=ROOM - 1),
    n=st.integers(1, 4),
    penalty=st.floats(0.5, 3.0),
)
def test_rules_equal_transformers_processors(tokens, n, penalty):
    torch = pytest.importorskip("torch")
    from transformers.generation import logits_process as processors

    logits = np.random.RandomState(len(tokens)).normal(0, 2, (1, V)).astype(np.float32)
    history = [0, *tokens]
    scores, ids = torch.from_numpy(logits.copy()), torch.tensor([history])
    for processor in (
        processors.RepetitionPenaltyLogitsProcessor(penalty),
        processors.NoRepeatNGramLogitsProcessor(n),
        processors.NoBadWordsLogitsProcessor(WORDS, eos_token_id=EOS),
        processors.MinNewTokensLengthLogitsProcessor(1, 3, torch.tensor([EOS])),
    ):
        scores = processor(ids, scores)
    found = jax.jit(ruled)(
        LogitRules(3, penalty, bad_word_table(WORDS, eos_id=EOS), n),
        logits,
        history=np.array([history + [9] * (ROOM - len(history))], np.int32),
        lengths=np.array([len(history)], np.int32),
        new_tokens=np.array([len(tokens)], np.int32),
        eos_id=EOS,
    )
    np.testing.assert_allclose(found, scores.numpy(), rtol=1e-6)


def prompts():
    random = np.random.RandomState(3)
    return [random.randint(2, 128, length).tolist() for length in (24, 17, 20)]


@cache
def models():
    pytest.importorskip("torch")
    params = fixed_parameters(CONFIG)
    kernel = params["lm_head"]["kernel"] * np.float32(0.3)
    kernel[:, EOS] *= np.float32(2.5)
    params = {**params, "lm_head": {"kernel": kernel}}
    return prepared_model(params, CONFIG)[0], transformers_model(CONFIG, params)


def ours(texts=None, **options):
    return generate_several(
        models()[0],
        CONFIG,
        CharacterTokenizer(eos_id=EOS),
        prompts() if texts is None else texts,
        max_new_tokens=NEW_TOKENS,
        batch_size=8,
        encoder_length=24,
        **options,
    )


def theirs(tokens, prefix=(), *, num_beams=1, **options):
    """Tokens of transformers' answers to one prompt, and the beams' scores."""
    import torch

    with torch.no_grad():
        found = models()[1].generate(
            input_ids=torch.tensor([tokens]),
            decoder_input_ids=torch.tensor([[0, *prefix]]),
            num_beams=num_beams,
            num_return_sequences=num_beams,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=EOS,
            do_sample=False,
            use_cache=False,  # transformers' cannot be deeper than the encoder
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    answers = [row[1 + len(prefix) :] for row in found.sequences.tolist()]
    answers = [row[: row.index(EOS) + 1] if EOS in row else row for row in answers]
    return answers, None if num_beams == 1 else found.sequences_scores.numpy()


RULES = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4}
PREFIXES = [[], [5], [40, 41, 42, 40, 41]]


@pytest.mark.parametrize("num_beams", [1, 4])
def test_searches_with_rules_and_prefixes_equal_transformers(num_beams):
    plain = ours(beams=BeamSettings(4, num_outputs=4) if num_beams > 1 else None)
    # Words that the model would have written.
    words = [generations[0].output_tokens[1:3] for generations in plain if generations]
    words = [word for word in words if EOS not in word and word]
    found = ours(
        rules=LogitRules(bad_words=bad_word_table(words, eos_id=EOS), **RULES),
        prefixes=PREFIXES,
        beams=BeamSettings(4, num_outputs=4) if num_beams > 1 else None,
    )
    for tokens, prefix, outputs in zip(prompts(), PREFIXES, found, strict=True):
        expected, scores = theirs(tokens, prefix, num_beams=num_beams, bad_words_ids=words, **RULES)
        assert [generation.output_tokens for generation in outputs] == expected
        if scores is not None:
            mine = [generation.beam_score for generation in outputs]
            np.testing.assert_allclose(mine, scores, rtol=2e-5)
    assert [g[0].output_tokens for g in found] != [g[0].output_tokens for g in plain]


def test_prefixes_do_not_depend_on_those_beside_them():
    together = ours(prefixes=PREFIXES)
    for place, prefix in enumerate(PREFIXES):
        ((alone,),) = ours([prompts()[place]], prefixes=[prefix])
        assert alone.output_tokens == together[place][0].output_tokens
        assert alone.score == pytest.approx(together[place][0].score, abs=1e-4)


@pytest.mark.parametrize("beams", [None, BeamSettings(3)])
def test_stop_strings_end_an_answer_before_them(beams):
    plain = [outputs[0] for outputs in ours(beams=beams)]
    stop = next(g.output[1:3] for g in plain if len(g.output) > 4)
    found = [outputs[0] for outputs in ours(beams=beams, stop_strings=[stop, "never there"])]
    for generation in found:
        assert stop not in generation.output
        if generation.stop_reason == "stop":
            assert "".join(map(chr, generation.output_tokens)) == generation.output + stop
    if beams is None:
        assert "stop" in {generation.stop_reason for generation in found}
        for before, after in zip(plain, found, strict=True):
            assert after.output == before.output.split(stop)[0]
            assert (after.stop_reason == "stop") == (stop in before.output)


def test_stop_strings_with_beams_equal_transformers():
    plain = [outputs[0] for outputs in ours(beams=BeamSettings(3))]
    stop = next(g.output_tokens[1] for g in plain if len(g.output) > 4)
    found = ours(beams=BeamSettings(3, num_outputs=3), stop_strings=[chr(stop)])
    for tokens, outputs in zip(prompts(), found, strict=True):
        # An answer that ends with the token is as one that ends with eos.
        import torch

        with torch.no_grad():
            expected = models()[1].generate(
                input_ids=torch.tensor([tokens]),
                num_beams=3,
                num_return_sequences=3,
                max_new_tokens=NEW_TOKENS,
                eos_token_id=[EOS, stop],
                do_sample=False,
                use_cache=False,
                return_dict_in_generate=True,
                output_scores=True,
            )
        scores = [generation.beam_score for generation in outputs]
        np.testing.assert_allclose(scores, expected.sequences_scores.numpy(), rtol=2e-5)
