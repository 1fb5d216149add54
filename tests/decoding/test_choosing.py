import numpy as np
import pytest
from character_model import CONFIG, CharacterTokenizer

from instructrec_jax.decoding import choosing
from instructrec_jax.decoding.choosing import choose
from instructrec_jax.decoding.scoring import score

TOKENIZER = CharacterTokenizer()
TEXTS = ["Which one?", "And now?", "Which one?"]
FREE = ["N/A", "None.", "N/A"]
# Any number, of any length, one among two questions.
OPTIONS = [["yes", "no"], [f"option {n}" for n in range(11)], ["a much longer option than that"]]


def logprobs(params, texts, targets):
    scores = score(params, CONFIG, TOKENIZER, texts, targets, batch_size=4, encoder_length=16)
    return [each.logprob for each in scores]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_numbers_equal_scores_one_by_one(params, batch_size):
    found = choose(
        params,
        CONFIG,
        TOKENIZER,
        TEXTS,
        OPTIONS,
        content_free=FREE,
        batch_size=batch_size,
        encoder_length=16,
    )
    for text, free, options, choice in zip(TEXTS, FREE, OPTIONS, found, strict=True):
        of_text = logprobs(params, [text] * len(options), options)
        of_nothing = logprobs(params, [free] * len(options), options)
        lengths = np.array([len(option) + 1 for option in options])
        np.testing.assert_allclose(choice.sum, of_text, atol=1e-4)
        np.testing.assert_allclose(choice.mean, of_text / lengths, atol=1e-4)
        np.testing.assert_allclose(choice.calibrated, np.subtract(of_text, of_nothing), atol=2e-4)
        assert choice.tokens == lengths.sum()
        for by in choosing.CHOOSE_BY:
            assert choice.best(by) == int(np.argmax(getattr(choice, by)))


def test_the_encoder_runs_once_for_each_question(params, monkeypatch):
    rows = []
    encoded = choosing._encoded

    def counted(params, tokens, segment_ids, *, config):
        rows.append(int((segment_ids.max(axis=1) > 0).sum()))
        return encoded(params, tokens, segment_ids, config=config)

    monkeypatch.setattr(choosing, "_encoded", counted)
    choose(params, CONFIG, TOKENIZER, TEXTS, OPTIONS, batch_size=4, encoder_length=16)
    # Two questions that differ, and "N/A".
    assert sum(rows) == 3
