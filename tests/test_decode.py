import gzip
import io
import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from instructrec_jax import decode
from instructrec_jax.data.tokenizer_training import train_tokenizer
from instructrec_jax.decoding.generate import Generation
from instructrec_jax.decoding.prompts import read_prompts
from instructrec_jax.errors import CheckpointError, ConfigError, DataError
from instructrec_jax.model.config import T5Config, padded_vocabulary_size
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training.checkpoint import save_model

LINES = [
    b"What is the time?\n",
    b'{"id": "second", "instruction": "Count", "input": "a b c"}\n',
    b'{"id": "third", "instruction": \n',
    b'{"id": "fourth", "instruction": 7}\n',
    b"caf\xe9\n",
    b'{"id": 6, "instruction": "' + b"many words " * 40 + b'"}\n',
    "最后".encode(),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    texts = [f"line {n}: count {n * n} words\n" for n in range(300)]
    tokenizer = train_tokenizer(texts, vocabulary_size=400, sentinels=4, seed=0)
    config = T5Config(
        vocabulary_size=padded_vocabulary_size(tokenizer.vocabulary_size),
        d_model=16,
        head_size=4,
        num_heads=2,
        d_ff=16,
        num_encoder_layers=1,
        num_decoder_layers=1,
    )
    save_model(
        folder,
        params=init_parameters(config, jax.random.key(0)),
        config=config,
        tokenizer=tokenizer,
        encoder_length=32,
        decoder_length=6,
    )
    return folder


# Runs the binary as a program and then says which modules of the training side it has loaded.
PROGRAM = """
import runpy, sys
try:
    runpy.run_module("instructrec_jax.decode", run_name="__main__", alter_sys=True)
finally:
    loaded = [name for name in ("tensorflow", "optax", "grain", "clu") if name in sys.modules]
    print("loaded:", loaded, file=sys.stderr)
"""


def test_program_from_stdin_to_stdout(checkpoint):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"--checkpoint={checkpoint}", "--input=-"],
        input=b"".join(LINES),
        capture_output=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr.decode()
    records = [json.loads(line) for line in result.stdout.split(b"\n")[:-1]]
    assert [record["id"] for record in records] == ["1", "second", "3", "fourth", "5", 6, "7"]
    for place, record in enumerate(records):
        if place in (2, 3, 4):
            assert record.keys() == {"id", "error"}
            assert record["error"].startswith(f"line {place + 1}: ")
        else:
            keys = ["id", "output", "output_tokens", "score", "stop_reason"]
            assert list(record) == [*keys, "truncated"] if place == 5 else keys
            assert len(record["output_tokens"]) <= 6
            assert record["score"] < 0
    words = result.stderr.decode()
    assert "lines that could not be read (`error`): 3" in words
    assert "prompts cut to 32 tokens (`truncated`): 1" in words
    assert "loaded: []" in words


def run_main(checkpoint, **values):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(checkpoint=str(checkpoint), **values):
        decode.main()


def echo(params, config, tokenizer, texts, **options):
    """In place of `generate`, where the model does not matter."""
    options["progress"](len(texts))
    return [Generation(text, [len(text)], -1.0, "eos", len(text) > 99) for text in texts]


def test_file_to_file(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "generate", echo)
    source, target = tmp_path / "lines.gz", tmp_path / "new" / "answers.jsonl"
    source.write_bytes(gzip.compress(b"".join(LINES)))
    run_main(checkpoint, input=str(source), output=str(target))
    answers = [json.loads(line) for line in target.read_bytes().splitlines()]
    texts = [answer.get("output") for answer in answers]
    many_words = "many words " * 40
    assert texts == ["What is the time?", "Count\n\na b c", None, None, None, many_words, "最后"]
    assert "最后".encode() in target.read_bytes()


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_windows_keep_the_order_and_count_everything(monkeypatch, window):
    monkeypatch.setattr(decode, "generate", echo)
    monkeypatch.setattr(decode, "WINDOW_LINES", window)
    model = SimpleNamespace(params={}, config=None, tokenizer=None, encoder_length=1, folder="")
    output, told = io.BytesIO(), []
    monkeypatch.setattr(decode, "_SECONDS_BETWEEN_PROGRESS", 0.0)
    summary = decode.decode(
        read_prompts(LINES), model, output, max_new_tokens=6, batch_size=4, progress=told.append
    )
    answers = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [answer["id"] for answer in answers] == ["1", "second", "3", "fourth", "5", 6, "7"]
    assert summary == decode.Summary(answered=4, broken=3, truncated=1, new_tokens=4)
    assert len(told) == -(-len(LINES) // window)


def test_a_model_without_finite_probabilities_is_an_error(monkeypatch):
    monkeypatch.setattr(
        decode, "generate", lambda *_, **__: [Generation("", [0], float("nan"), "length")]
    )
    model = SimpleNamespace(params={}, config=None, tokenizer=None, encoder_length=1, folder="run")
    with pytest.raises(CheckpointError, match="not finite"):
        decode.decode(
            read_prompts(LINES[:1]),
            model,
            io.BytesIO(),
            max_new_tokens=6,
            batch_size=4,
            progress=lambda text: None,
        )


def test_prompt(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "generate", echo)
    target = tmp_path / "answer.jsonl"
    run_main(checkpoint, prompt="What is the time?", output=str(target))
    (answer,) = map(json.loads, target.read_bytes().splitlines())
    assert (answer["id"], answer["output"]) == ("prompt", "What is the time?")


def test_empty_input_gives_empty_output(checkpoint, tmp_path):
    (tmp_path / "in").write_bytes(b"")
    run_main(checkpoint, input=str(tmp_path / "in"), output=str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == b""


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"checkpoint": ""}, ConfigError, "give a trained model"),
        ({}, ConfigError, "either --input"),
        ({"prompt": "a", "input": "b"}, ConfigError, "either --input"),
        ({"prompt": " "}, ConfigError, "--prompt is empty"),
        ({"prompt": "a", "batch_size": 0}, ConfigError, "--batch_size must be at least 1, not 0"),
        ({"prompt": "a", "max_new_tokens": -1}, ConfigError, "--max_new_tokens must be"),
        ({"prompt": "a", "checkpoint": "missing"}, CheckpointError, "missing"),
        ({"input": "missing.jsonl"}, DataError, "input file missing.jsonl does not exist"),
        ({"input": "."}, DataError, "input . cannot be read"),
    ],
)
def test_user_errors(tmp_path, monkeypatch, values, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        run_main(**{"checkpoint": "unused", **values})


def test_output_that_would_overwrite_the_input(checkpoint, tmp_path):
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"Hello\n")
    with pytest.raises(ConfigError, match="would overwrite the input"):
        run_main(checkpoint, input=str(file), output=str(tmp_path / "." / "lines.jsonl"))
    assert file.read_bytes() == b"Hello\n"


def test_a_missing_checkpoint_keeps_earlier_answers(tmp_path):
    (tmp_path / "in").write_bytes(b"Hello\n")
    (tmp_path / "out").write_bytes(b"earlier\n")
    with pytest.raises(CheckpointError):
        run_main(tmp_path / "none", input=str(tmp_path / "in"), output=str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == b"earlier\n"


def test_damaged_gzip_input(checkpoint, tmp_path):
    whole = gzip.compress(b"".join(LINES))
    (tmp_path / "in.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read to its end"):
        run_main(checkpoint, input=str(tmp_path / "in.gz"), output=str(tmp_path / "out"))
