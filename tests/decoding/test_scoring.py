import jax
import numpy as np
from character_model import CONFIG, CharacterTokenizer, random_texts
from reference import rows_of

from instructrec_jax.decoding.generate import generate
from instructrec_jax.decoding.scoring import score
from instructrec_jax.model.t5 import T5

TOKENIZER = CharacterTokenizer()


def scores(params, texts, targets, *, batch_size=4):
    return score(
        params, CONFIG, TOKENIZER, texts, targets, batch_size=batch_size, encoder_length=32
    )


def test_score_equals_the_log_softmax_by_hand(params):
    texts = ["What?", "", "Where is it, then?"[:15], "x"]
    targets = ["That one.", "x", "", "There."]
    results = scores(params, texts, targets)
    batch = rows_of(
        [
            [(np.array([*map(ord, text), 1]), np.array([*map(ord, target), 1]))]
            for text, target in zip(texts, targets, strict=True)
        ]
    )
    logits = jax.jit(T5(CONFIG).apply)({"params": params}, batch)
    log_probabilities = np.asarray(jax.nn.log_softmax(logits))
    for row, result in enumerate(results):
        answer = [*map(ord, targets[row]), 1]
        expected = log_probabilities[row, range(len(answer)), answer]
        check(result, expected)


def check(result, expected):
    np.testing.assert_allclose(result.token_logprobs, expected, atol=1e-5)
    np.testing.assert_allclose(result.logprob, expected.sum(), atol=1e-4)
    assert not result.truncated


def test_generated_answers_have_the_score_that_generation_gave(params):
    texts = random_texts(4, longest=15)
    generations = generate(
        params, CONFIG, TOKENIZER, texts, max_new_tokens=8, batch_size=4, encoder_length=32
    )
    targets = ["".join(map(chr, g.output_tokens)) for g in generations]
    for generation, result in zip(generations, scores(params, texts, targets), strict=True):
        without_eos = sum(result.token_logprobs[:-1])
        np.testing.assert_allclose(without_eos, generation.score, atol=1e-4)


def test_batch_size_order_and_length_change_nothing(params):
    texts = random_texts(5, longest=15)
    # The empty target, and one of more than one chunk of logits.
    targets = ["", *random_texts(3, longest=15, seed=5), "A longer one than others."]
    expected = scores(params, texts, targets)
    assert [len(result.token_logprobs) for result in expected] == [len(t) + 1 for t in targets]
    backwards = scores(params, texts[::-1], targets[::-1])[::-1]
    alone = scores(params, texts[1:2], targets[1:2])
    for ours, theirs in zip([*backwards, *alone], [*expected, expected[1]], strict=True):
        np.testing.assert_allclose(ours.token_logprobs, theirs.token_logprobs, atol=1e-4)
        np.testing.assert_allclose(ours.logprob, sum(ours.token_logprobs), atol=1e-4)


def test_an_over_long_text_is_cut_and_marked(params):
    text = "x" * 40
    cut, whole, *_ = scores(params, [text, text[:31], "", ""], ["yes"] * 4)
    assert cut.truncated and not whole.truncated
    assert cut.token_logprobs == whole.token_logprobs
