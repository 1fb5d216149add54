"""A file of questions answered by several processes: what each writes, and all of it joined."""

import itertools
import json

import pytest
from absl import flags
from absl.testing import flagsaver
from character_model import CONFIG

from instructrec_jax import decode
from instructrec_jax.data.byte_tokenizer import byte_tokenizer
from instructrec_jax.decoding import answering
from instructrec_jax.decoding.generate import Generation
from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.training.checkpoint import save_model

LINES = 150  # more than a window's 32


@pytest.fixture(scope="module")
def checkpoint(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    save_model(
        folder,
        params=params,
        config=CONFIG,
        tokenizer=byte_tokenizer(sentinels=0),
        encoder_length=32,
        decoder_length=8,
    )
    return folder


def echo(params, config, tokenizer, texts, **options):
    """In place of `generate_several`, where the model does not matter."""
    options["progress"](len(texts))
    return [[Generation(text, [len(text)], -1.0, "eos")] for text in texts]


@pytest.fixture
def answer(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "generate_several", echo)
    lines = [json.dumps({"instruction": f"Question {n}"}) for n in range(LINES)]
    lines[5] = "{broken"
    source = tmp_path / "lines.jsonl"
    source.write_text("\ufeff" + "\n".join(lines) + "\n")
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

    def run(index=None, count=None, name="answers.jsonl", **values):
        values = {"checkpoint": str(checkpoint), "input": str(source), "batch_size": 1, **values}
        output = tmp_path / "out" / name
        with flagsaver.flagsaver(
            output=str(output), shard_index=index, shard_count=count, **values
        ):
            decode.main()
        return output

    return run


def test_shards_joined_are_the_answers_of_one_process(answer, capfd):
    whole = answer(name="whole.jsonl").read_bytes()
    assert whole.count(b"\n") == LINES and b'"id": "6", "error": "line 6: ' in whole
    for index in (2, 0, 1):
        output = answer(index, 3)
        assert output.exists() == (index == 1)
    assert output.read_bytes() == whole
    words = capfd.readouterr().err
    assert "is written when these shards are done too: 0, 1" in words
    assert "has the answers of all 3 shards" in words
    # Again, as a scheduler may: nothing is left to do, by shards or as one.
    output.unlink()
    assert answer(0, 3).read_bytes() == whole
    assert answer().read_bytes() == whole
    assert "going on after 150 lines" in capfd.readouterr().err


def test_a_killed_shard_goes_on(answer, monkeypatch):
    whole = answer(name="whole.jsonl").read_bytes()
    answer(0, 2)
    windows = itertools.count()

    def killed(*arguments, **options):
        if next(windows):
            raise KeyboardInterrupt
        return echo(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(answering, "generate_several", killed)
        with pytest.raises(KeyboardInterrupt):
            answer(1, 2)
    output = answer(1, 2)
    assert output.read_bytes() == whole


def test_a_window_that_was_not_whole_is_answered_again_with_its_neighbours(answer, monkeypatch):
    output = answer()
    whole = output.read_bytes()
    lines = whole.splitlines(keepends=True)
    asked = []

    def counted(params, config, tokenizer, texts, **options):
        asked.append(len(texts))
        return echo(params, config, tokenizer, texts, **options)

    monkeypatch.setattr(answering, "generate_several", counted)
    # Windows of 32 lines; in other windows than before, whatever is there stays.
    for written, batch_size, sizes in ((40, 1, [32, 32, 32, 22]), (64, 1, [32] * 2 + [22]),
                                       (40, 2, [64, 46]), (LINES, 1, [])):  # fmt: skip
        asked.clear()
        output.write_bytes(b"".join(lines[:written]))
        assert answer(batch_size=batch_size).read_bytes() == whole
        assert asked == sizes


def test_what_does_not_belong_together_is_refused(answer, tmp_path):
    output = answer(0, 3)
    for index, count in ((0, 2), (None, None)):
        with pytest.raises(ConfigError, match="has answers of --shard_count=3 beside it"):
            answer(index, count)
    with pytest.raises(ConfigError, match="made with max_new_tokens=None, not 3"):
        answer(0, 3, max_new_tokens=3)
    answer(1, 3)
    source = tmp_path / "lines.jsonl"
    source.write_text(source.read_text() + '{"instruction": "One more"}\n')
    with pytest.raises(DataError, match="an input of 150 lines, .* of one of 151"):
        answer(2, 3)
    assert not output.exists()
    for index, count in ((3, 3), (-1, 2), (0, 0)):
        with pytest.raises(ConfigError, match="is none of --shard_count"):
            answer(index, count)
    with pytest.raises(ConfigError, match="go together"):
        answer(0, None)
    with pytest.raises(ConfigError, match="that are files"):
        answer(0, 2, input="-")
