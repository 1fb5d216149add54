import contextlib
import gzip
import io
import json
import re
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from instructrec_jax import decode
from instructrec_jax.data.tokenizer_training import train_tokenizer
from instructrec_jax.decoding import answering
from instructrec_jax.decoding.generate import Generation
from instructrec_jax.decoding.prompts import Prompt, read_prompts
from instructrec_jax.errors import CheckpointError, ConfigError, DataError
from instructrec_jax.model.config import T5Config, padded_vocabulary_size
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training.checkpoint import save_model
from instructrec_jax.training.model_folder import load_model

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
    assert "lines that could not be read or answered (`error`): 3" in words
    assert "prompts cut to 32 tokens (`truncated`): 1" in words
    assert "loaded: []" in words


def run_main(checkpoint, **values):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(checkpoint=str(checkpoint), **values):
        decode.main()


def echo(params, config, tokenizer, texts, **options):
    """In place of `generate_several`, where the model does not matter."""
    options["progress"](len(texts))
    return [[Generation(text, [len(text)], -1.0, "eos", len(text) > 99)] for text in texts]


def test_file_to_file(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "generate_several", echo)
    source, target = tmp_path / "lines.gz", tmp_path / "new" / "answers.jsonl"
    source.write_bytes(gzip.compress(b"".join(LINES)))
    run_main(checkpoint, input=str(source), output=str(target))
    answers = [json.loads(line) for line in target.read_bytes().splitlines()]
    texts = [answer.get("output") for answer in answers]
    many_words = "many words " * 40
    assert texts == ["What is the time?", "Count\n\na b c", None, None, None, many_words, "最后"]
    assert "最后".encode() in target.read_bytes()


def test_demonstrations_without_room_are_counted(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "generate_several", echo)
    source, target = tmp_path / "lines.jsonl", tmp_path / "answers.jsonl"
    shown = [{"instruction": word * 9, "target": "c"} for word in ("a", "many words ", "b")]
    record = {"instruction": "Count", "input": "d", "demonstrations": shown}
    source.write_text(json.dumps(record) + "\n" + json.dumps({**record, "demonstrations": "x"}))
    run_main(checkpoint, input=str(source), output=str(target), max_input_tokens=60)
    few, broken = map(json.loads, target.read_text().splitlines())
    assert few["output"] == f"{'a' * 9}\nAnswer: c\n\n{'b' * 9}\nAnswer: c\n\nCount\n\nd"
    assert few["demonstrations_left_out"] == 1
    assert broken["error"] == "line 2: demonstrations is not a list of objects"


def decode_lines(model, lines=LINES, *, progress=lambda done: None, window=100, **more):
    output = io.BytesIO()
    summary = decode.decode(
        read_prompts(lines, vocabulary_size=128),
        partial(answering.generated, model, command=COMMAND, max_new_tokens=9),
        output,
        progress=progress,
        window_lines=window,
        model_name="run",
        **more,
    )
    return summary, [json.loads(line) for line in output.getvalue().splitlines()]


COMMAND = SimpleNamespace(
    constrain_to_options=False, prefix="", beams=None, sampling=None, max_target_tokens=None
)


@pytest.fixture
def no_model():
    tokenizer = SimpleNamespace(encode_batch=lambda texts: [[] for _ in texts])
    return SimpleNamespace(
        params={}, config=None, tokenizer=tokenizer, folder="run", decoder_length=8
    )


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_windows_keep_the_order_and_count_everything(monkeypatch, no_model, window):
    monkeypatch.setattr(answering, "generate_several", echo)
    told = []
    summary, answers = decode_lines(no_model, progress=told.append, window=window)
    assert [answer["id"] for answer in answers] == ["1", "second", "3", "fourth", "5", 6, "7"]
    assert summary == decode.Summary(answered=4, broken=3, truncated=1, tokens=4)
    assert told == sorted(told) and told[-1] == len(LINES)


def test_a_model_without_finite_probabilities_is_an_error(monkeypatch, no_model):
    broken = Generation("", [0], float("nan"), "length")
    monkeypatch.setattr(answering, "generate_several", lambda *_, **__: [[broken]])
    with pytest.raises(CheckpointError, match="run: the model's probabilities are not finite"):
        decode_lines(no_model, LINES[:1])
    # Where it gives numbers to others, that line alone is lost.
    good = Generation("fine", [5, 1], -1.0, "eos")
    monkeypatch.setattr(answering, "generate_several", lambda *_, **__: [[broken], [good]])
    summary, (lost, kept) = decode_lines(no_model, LINES[:2])
    assert lost == {"id": "1", "error": "probabilities are not finite numbers"}
    assert kept["output"] == "fine"
    assert (summary.answered, summary.broken) == (1, 1)
    # Alone in its window, or in what a run that was broken off has left, it is lost like any other.
    given = iter([[[good]], [[broken]], [[broken]]])
    monkeypatch.setattr(answering, "generate_several", lambda *_, **__: next(given))
    assert decode_lines(no_model, LINES[:2], window=1)[0].broken == 1
    assert decode_lines(no_model, LINES[:1], lines_before=1)[0].broken == 1


def test_a_space_that_no_token_stands_for_is_left_to_the_answer(monkeypatch):
    monkeypatch.setattr(answering, "generate_several", lambda *_, **__: [])
    asked = []
    for kept in (str, str.rstrip):
        tokenizer = SimpleNamespace(
            encode_batch=lambda texts, kept=kept: [list(kept(text).encode()) for text in texts],
            decode=lambda ids: bytes(ids).decode(),
        )
        model = SimpleNamespace(params={}, config=None, tokenizer=tokenizer, decoder_length=8)
        prompts = [Prompt("1", "?", prefix=prefix) for prefix in ("It is ", "It is", "")]
        with contextlib.suppress(ValueError):  # There are no answers.
            answering.generated(
                model, prompts, print, command=COMMAND, max_new_tokens=9,
                guide=lambda after_prefix: asked.append(after_prefix),
            )  # fmt: skip
    # In a text that goes on, a space is a space; in one that begins with it, it is dropped.
    assert asked == [True, True, False, False, True, False]


def test_prompt(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "generate_several", echo)
    target = tmp_path / "answer.jsonl"
    run_main(checkpoint, prompt="What is the time?", output=str(target))
    (answer,) = map(json.loads, target.read_bytes().splitlines())
    assert (answer["id"], answer["output"]) == ("prompt", "What is the time?")


@pytest.fixture
def answers_to(checkpoint, tmp_path):
    """Runs the binary on some records, and gives what it has written of them."""

    def run_on(*records, **values):
        source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        source.write_text("".join(json.dumps(record) + "\n" for record in records))
        run_main(checkpoint, input=str(source), output=str(target), overwrite=True, **values)
        return [json.loads(line) for line in target.read_bytes().splitlines()]

    return run_on


def test_beam_search_gives_several_outputs(answers_to):
    beam = {"search": "beam", "num_beams": 3, "length_penalty": 2.0, "early_stopping": "never"}
    records = [{"instruction": "line 3"}, {"instruction": "many words " * 40}]
    several = answers_to(*records, **beam, num_outputs=2)
    assert [record.keys() for record in several] == [
        {"id", "outputs"},
        {"id", "outputs", "truncated"},
    ]
    for record in several:
        best, second = record["outputs"]
        assert best["output_tokens"] != second["output_tokens"]
        assert best["beam_score"] >= second["beam_score"]
        for output in record["outputs"]:
            length = len(output["output_tokens"])
            assert output["beam_score"] == pytest.approx(output["score"] / length**2, abs=1e-5)
    alone = answers_to(*records, **beam)
    assert [record["output_tokens"] for record in alone] == [
        record["outputs"][0]["output_tokens"] for record in several
    ]
    assert list(alone[0]) == [
        *("id", "output", "output_tokens", "score", "stop_reason", "beam_score")
    ]


def test_scores_of_targets(answers_to):
    prompt = {"instruction": "line 3"}
    (answer,) = answers_to(prompt)
    records = [
        {**prompt, "target_tokens": answer["output_tokens"]},
        {**prompt, "target": "count 9"},
        {"id": "alpaca", **prompt, "input": "", "output": "count 9"},
        {"id": "none", **prompt},
    ]
    *scored, without = answers_to(*records, mode="score")
    assert [list(record) for record in scored] == [["id", "logprob", "token_logprobs"]] * 3
    assert scored[0]["logprob"] == pytest.approx(answer["score"], abs=1e-4)
    assert len(scored[0]["token_logprobs"]) == len(answer["output_tokens"])
    assert scored[2] == {**scored[1], "id": "alpaca"}
    assert sum(scored[1]["token_logprobs"]) == pytest.approx(scored[1]["logprob"], abs=1e-4)
    assert without == {"id": "none", "error": "line 4: no field 'target'"}
    long, prefixed = answers_to(
        {**prompt, "target": "count 9 " * 300},
        {**prompt, "target": "count 9", "prefix": "a"},
        mode="score",
    )
    assert re.fullmatch(r"target has [\d,]+ tokens, more than 1,024 .*", long["error"])
    assert prefixed["error"].startswith("line 2: prefix has no meaning")


def test_token_ids_and_sentinels(checkpoint, answers_to):
    tokenizer = load_model(checkpoint).tokenizer
    text = "line <extra_id_0> 3"
    plain, parsed = (
        [*tokenizer.encode_batch([text], parse_sentinels=parse)[0], tokenizer.eos_id]
        for parse in (False, True)
    )
    assert plain != parsed
    records = [{"instruction": text}, {"input_tokens": plain}, {"input_tokens": parsed}]
    records = [{**record, "target": "<extra_id_0> 4"} for record in records]

    def logprobs(**values):
        return [r["logprob"] for r in answers_to(*records, mode="score", **values)]

    as_text, of_plain, of_parsed = logprobs()
    assert as_text == of_plain != of_parsed
    as_text, of_plain, of_parsed = logprobs(parse_sentinels=True)
    assert as_text == of_parsed != of_plain


def test_choices_among_options(answers_to):
    prompt = {"instruction": "Which?", "input": "line 3"}
    records = [
        {"id": "two", **prompt, "options": ["count 9", "words"]},
        {"id": "tokens", "input_tokens": [5, 6, 1], "options": ["count 9"]},
        {"id": "none", **prompt},
        {"id": "empty", **prompt, "options": []},
        {"id": "twice", **prompt, "options": ["a", "a"]},
        {"id": "number", **prompt, "options": ["a", 3]},
    ]
    two, tokens, *broken = answers_to(*records, mode="choose", choose_by="mean")
    assert list(two) == ["id", "choice", "option_logprobs"]
    assert list(two["option_logprobs"]) == ["sum", "mean", "calibrated"]
    best = max(range(2), key=two["option_logprobs"]["mean"].__getitem__)
    assert two["choice"] == records[0]["options"][best]
    assert tokens["choice"] == "count 9"
    scored = answers_to(
        {**prompt, "target": "count 9"},
        {"instruction": "Which?", "input": "N/A", "target": "count 9"},
        mode="score",
    )
    logprob, free = (record["logprob"] for record in scored)
    assert two["option_logprobs"]["sum"][0] == pytest.approx(logprob, abs=1e-4)
    assert two["option_logprobs"]["calibrated"][0] == pytest.approx(logprob - free, abs=2e-4)
    assert [record["error"] for record in broken] == [
        "line 3: no field 'options'",
        "line 4: options is empty",
        "line 5: options[1] comes twice",
        "line 6: options[1] is a number, not a string",
    ]


def test_prefixes_stops_options_and_expressions(answers_to):
    prompt = {"instruction": "line 3"}
    own, common = answers_to({**prompt, "prefix": "count"}, prompt, prefix="words 9")
    assert (own["prefix"], common["prefix"]) == ("count", "words 9")
    assert list(own)[:3] == ["id", "prefix", "output"]
    (among,) = answers_to(
        {**prompt, "options": ["count 9", "x"]}, constrain="options", max_new_tokens=9
    )
    assert among["output"] in ("count 9", "x")
    spelt, long = answers_to(
        {**prompt, "options": ["é\u3000ü"]},
        {**prompt, "options": ["count", "count 9 " * 9]},
        constrain="options",
        max_new_tokens=9,
    )
    assert (spelt["output"], spelt["stop_reason"]) == ("é\u3000ü", "eos")
    assert re.match(r"options\[1\] has \d+ tokens with its end, more than", long["error"])
    (after,) = answers_to({**prompt, "prefix": "count "}, regex="[0-9]", search="sample")
    assert after["output"].isdigit() and after["stop_reason"] == "eos"
    (spaced,) = answers_to({**prompt, "prefix": "count "}, regex=" ?words", max_new_tokens=9)
    assert spaced["output"] == "words"
    (match,) = answers_to(prompt, regex="[0-9]{2}", search="sample")
    assert match["output"].isdigit() and match["stop_reason"] == "eos"
    (stopped,) = answers_to(prompt, regex="[0-9]a[0-9]{9}", stop=["a"], max_new_tokens=9)
    assert stopped["output"].isdigit() and stopped["stop_reason"] == "stop"


def test_options_that_the_model_cannot_tell_apart(no_model):
    # As SentencePiece without byte fallback has it: what it does not know is one token.
    no_model.tokenizer.encode_batch = lambda texts: [[5, 2 if "{" in t else 3] for t in texts]
    no_model.tokenizer.eos_id = 1
    no_model.config = SimpleNamespace(vocabulary_size=9)
    options = answering._Closed(no_model, ["yes", "yes {"])
    assert options.problem(max_new_tokens=3) is None
    told = options.in_its_words(Generation("yes \u2047", [5, 2, 1], -1.0, "eos"))
    assert told.output == "yes {"
    alike = answering._Closed(no_model, ["no {", "yes", "yes {"])
    assert alike.problem(max_new_tokens=3) == (
        "options[0] and options[2] are the same tokens to the model"
    )


def test_limits_of_tokens(answers_to):
    prompt = {"input_tokens": [5] * 40}
    (cut,) = answers_to(prompt, max_new_tokens=3)
    assert cut["truncated"] and len(cut["output_tokens"]) <= 3
    (longer,) = answers_to(prompt, max_input_tokens=40, max_new_tokens=9, min_new_tokens=9)
    assert "truncated" not in longer
    assert len(longer["output_tokens"]) == 9 and longer["stop_reason"] == "length"


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
        ({"prompt": "a", "min_new_tokens": -1}, ConfigError, "--min_new_tokens must be at least 0"),
        ({"prompt": "a", "max_input_tokens": 0}, ConfigError, "--max_input_tokens must be"),
        ({"prompt": "a", "search": "beam", "num_beams": 0}, ConfigError, "--num_beams must be"),
        ({"prompt": "a", "num_beams": 2}, ConfigError, "--num_beams=2 needs --search=beam"),
        ({"prompt": "a", "length_penalty": 0.0}, ConfigError, "--length_penalty=0.0 needs"),
        ({"prompt": "a", "early_stopping": "true"}, ConfigError, "--early_stopping=true needs"),
        ({"prompt": "a", "num_outputs": 2}, ConfigError, "--num_outputs=2 needs --search=beam or"),
        (
            {"prompt": "a", "search": "beam", "num_outputs": 5},
            ConfigError,
            "--num_outputs=5 is more than --num_beams=4",
        ),
        ({"prompt": "a", "mode": "score"}, ConfigError, "--mode=score reads"),
        ({"input": "a", "mode": "score", "search": "beam"}, ConfigError, "--search has no meaning"),
        ({"prompt": "a", "mode": "choose"}, ConfigError, "--mode=choose reads prompts and options"),
        ({"prompt": "a", "constrain": "options"}, ConfigError, "--constrain=options reads"),
        ({"prompt": "a", "temperature": 0.5}, ConfigError, "--temperature=0.5 needs --search=samp"),
        ({"prompt": "a", "choose_by": "mean"}, ConfigError, "--choose_by=mean needs --mode=choose"),
        ({"prompt": "a", "search": "sample", "temperature": 0.0}, ConfigError, "temperature must"),
        ({"prompt": "a", "search": "sample", "top_p": 1.5}, ConfigError, "top_p must be above 0"),
        ({"prompt": "a", "search": "sample", "top_k": 0}, ConfigError, "top_k must be at least 1"),
        ({"prompt": "a", "search": "sample", "min_p": -0.1}, ConfigError, "min_p must be from 0"),
        ({"prompt": "a", "search": "sample", "seed": -1}, ConfigError, "seed must be from 0"),
        ({"prompt": "a", "repetition_penalty": 0.0}, ConfigError, "repetition_penalty must be"),
        ({"prompt": "a", "no_repeat_ngram_size": 0}, ConfigError, "--no_repeat_ngram_size must"),
        ({"prompt": "a", "stop": [""]}, ConfigError, "--bad_words and --stop take"),
        ({"prompt": "a", "regex": "a", "json_schema": "b"}, ConfigError, "cannot both say"),
        ({"chat": True, "search": "beam"}, ConfigError, "--chat writes answers as they grow"),
        ({"prompt": "a", "mesh": "rows=2"}, ConfigError, "no axis 'rows'"),
        ({"prompt": "a", "checkpoint": "missing"}, CheckpointError, "missing"),
        ({"input": "missing.jsonl"}, DataError, "input file missing.jsonl does not exist"),
        ({"input": "."}, DataError, "input . cannot be read"),
    ],
)
def test_user_errors(tmp_path, monkeypatch, values, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        run_main(**{"checkpoint": "unused", **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_new_tokens": 7}, "--min_new_tokens=7 is more than --max_new_tokens=6"),
        ({"regex": "("}, "--regex='\\(' is no regular expression"),
        ({"regex": "(?=a)b"}, "cannot be followed"),
        ({"json_schema": "missing.json"}, "--json_schema=missing.json cannot be read"),
        ({"search": "beam", "num_beams": 10**6}, "num_beams must be less than"),
        ({"search": "beam", "length_penalty": 1e9}, "length_penalty 1000000000.0 is out of range"),
    ],
)
def test_flags_that_the_model_refuses(checkpoint, values, message):
    with pytest.raises(ConfigError, match=message):
        run_main(checkpoint, prompt="Hello", **values)


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


def test_an_output_goes_on_only_with_the_same_settings_and_input(checkpoint, tmp_path, capsys):
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"line 1\nline 2\nline 3\n")
    arguments = {"input": str(source), "output": str(target), "search": "sample"}
    run_main(checkpoint, **arguments)
    whole = target.read_bytes()
    assert whole.count(b"\n") == 3
    target.write_bytes(whole[: whole.index(b"\n") + 9])
    run_main(checkpoint, **arguments, batch_size=2)
    assert "going on after 1 lines" in capsys.readouterr().err
    assert [json.loads(line)["output_tokens"] for line in target.read_bytes().splitlines()] == [
        json.loads(line)["output_tokens"] for line in whole.splitlines()
    ]
    with pytest.raises(ConfigError, match="made with seed=None, not 1; choose another"):
        run_main(checkpoint, **arguments, seed=1)
    # No line has an id that would tell.
    source.write_bytes(b"line 0\nline 2\nline 3\nline 4\n")
    with pytest.raises(DataError, match="another content of .*in: the input has changed"):
        run_main(checkpoint, **arguments)
    run_main(checkpoint, **arguments, overwrite=True)
    assert target.read_bytes().count(b"\n") == 4


def test_damaged_gzip_input(checkpoint, tmp_path):
    whole = gzip.compress(b"".join(LINES))
    (tmp_path / "in.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read to its end"):
        run_main(checkpoint, input=str(tmp_path / "in.gz"), output=str(tmp_path / "out"))
