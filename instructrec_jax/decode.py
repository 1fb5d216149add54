"""Answers instructions with a trained model: JSON lines in, JSON lines out, in the same order.

    python -m instructrec_jax.decode --checkpoint=runs/demo --prompt="Translate to German: Monday"
    python -m instructrec_jax.decode --checkpoint=runs/demo --input=questions.jsonl --output=-
    python -m instructrec_jax.decode --checkpoint=models/flan --input=questions.jsonl \\
        --search=beam --num_beams=4 --num_outputs=2
    python -m instructrec_jax.decode --checkpoint=models/flan --input=pairs.jsonl --mode=score

A line of input is a JSON object with `instruction` and optionally `input` and `id`, or plain text.
`demonstrations`, a list of objects with `instruction`, `input` and `target`, are solved questions
that are shown first; those that do not fit are left out and counted (`demonstrations_left_out`).
`input_tokens` in place of them are the very token ids that the encoder reads: end them with eos.

A line of output is a JSON object with `id`, `output`, `output_tokens`, `score` (the natural
log-probability of the tokens, summed) and `stop_reason` ("eos", or "length" where
--max_new_tokens ran out); `truncated` is true where the end of a prompt did not fit. Beam search
adds `beam_score`: score / length^length_penalty, by which it ranks. With more than one of
--num_outputs, `outputs` lists such objects, the best first.

--mode=score reads a `target` too (or `output`, `response`, `completion`; or the token ids
`target_tokens`, scored as they are) and gives `id`, `logprob` (summed) and `token_logprobs`, the
last of them that of eos.

A line that cannot be read gives `id` and `error`, and the others are answered. Needs a model and
nothing else of the training side: no TensorFlow, no optimizer.
"""

import contextlib
import gzip
import itertools
import math
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, cast

from absl import flags

from instructrec_jax.command_line import run, say
from instructrec_jax.decoding.beam import BeamSettings
from instructrec_jax.decoding.generate import generate_several
from instructrec_jax.decoding.prompts import Assemble, BrokenLine, Prompt, read_prompts
from instructrec_jax.decoding.records import generation_record, score_record
from instructrec_jax.decoding.scoring import score
from instructrec_jax.errors import CheckpointError, ConfigError, DataError
from instructrec_jax.instructions.example import encoder_text
from instructrec_jax.instructions.few_shot import fitted_text, token_length
from instructrec_jax.instructions.writing import json_line
from instructrec_jax.training.model_folder import LoadedModel, load_model

_DEFAULT_NUM_BEAMS = 4

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Run folder, one of its checkpoints, or a folder with a model."
)
_INPUT = flags.DEFINE_string("input", None, "File of lines to answer (.gz too), - for stdin.")
_OUTPUT = flags.DEFINE_string("output", "-", "File for the JSON lines, - for stdout.")
_PROMPT = flags.DEFINE_string("prompt", None, "One instruction, in place of --input.")
_MODE = flags.DEFINE_enum(
    "mode", "generate", ["generate", "score"], "Answer, or tell how probable given targets are."
)
_SEARCH = flags.DEFINE_enum(
    "search", None, ["greedy", "beam"], "How to look for the best answer; greedy by default."
)
_NUM_BEAMS = flags.DEFINE_integer(
    "num_beams",
    None,
    f"Answers that beam search follows at once; {_DEFAULT_NUM_BEAMS} by default.",
)
_LENGTH_PENALTY = flags.DEFINE_float(
    "length_penalty",
    None,
    "Beam search ranks by log-probability / length^this; 1 by default, more favours long answers.",
)
_EARLY_STOPPING = flags.DEFINE_enum(
    "early_stopping",
    None,
    ["false", "true", "never"],
    "When beam search ends once --num_beams answers have: where no other seems likely to be "
    "better (false, the default), at once (true), or where none can be (never).",
)
_NUM_OUTPUTS = flags.DEFINE_integer(
    "num_outputs", None, "Answers to give of each prompt, at most --num_beams; 1 by default."
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", None, "Longest answer in tokens; by default the target length of training."
)
_MIN_NEW_TOKENS = flags.DEFINE_integer(
    "min_new_tokens", None, "Least tokens of an answer before its eos; 0 by default."
)
_MAX_INPUT_TOKENS = flags.DEFINE_integer(
    "max_input_tokens",
    None,
    "Longest prompt in tokens, longer ones lose their end; by default the model's input length.",
)
_PARSE_SENTINELS = flags.DEFINE_boolean(
    "parse_sentinels", False, "<extra_id_0> in a text is the sentinel token, not plain text."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Prompts answered at once.")

# Flags that have a meaning only there, and values that mean nothing special.
_OF_BEAM_SEARCH = (
    (_NUM_BEAMS, 1),
    (_LENGTH_PENALTY, None),
    (_EARLY_STOPPING, None),
    (_NUM_OUTPUTS, 1),
)
_OF_GENERATING = (
    _SEARCH,
    _MAX_NEW_TOKENS,
    _MIN_NEW_TOKENS,
    _NUM_BEAMS,
    _LENGTH_PENALTY,
    _EARLY_STOPPING,
    _NUM_OUTPUTS,
)

# The least values of flags.
_LEAST: tuple[tuple[flags.FlagHolder[int | None], int], ...] = (
    (_MAX_NEW_TOKENS, 1),
    (_MIN_NEW_TOKENS, 0),
    (_MAX_INPUT_TOKENS, 1),
    (_NUM_BEAMS, 1),
    (_NUM_OUTPUTS, 1),
    (_BATCH_SIZE, 1),
)
_EARLY_STOPPING_VALUES: dict[str | None, bool | Literal["never"]] = {
    None: False,
    "false": False,
    "true": True,
    "never": "never",
}

# Lines that are held at once: they are sorted by length, so that batches have little padding.
WINDOW_LINES = 4096
_SECONDS_BETWEEN_PROGRESS = 5.0


@dataclass(frozen=True)
class Answer:
    """What is written of a prompt, and what is counted."""

    record: dict[str, Any]
    tokens: int  # generated or scored
    truncated: bool


# Prompts to answers in their order; tells a callback how many are done.
AnswerPrompts = Callable[[Sequence[Prompt], Callable[[int], None]], list[Answer]]


@dataclass
class Summary:
    """What became of the lines."""

    answered: int = 0
    broken: int = 0
    truncated: int = 0
    tokens: int = 0
    demonstrations_left_out: int = 0


def main() -> None:
    """The binary."""
    _check_flags()
    beams = _beam_settings()
    with contextlib.ExitStack() as files:
        name = str(_INPUT.value)
        file = None if _INPUT.value is None else files.enter_context(_open_input(name))
        model = load_model(str(_CHECKPOINT.value))
        say(f"model: {model.description}")
        encoder_length = _MAX_INPUT_TOKENS.value or model.encoder_length
        answer = _answering(model, beams, encoder_length=encoder_length)
        records: Iterable[Prompt | BrokenLine]
        if file is None:
            records = [Prompt("prompt", encoder_text(str(_PROMPT.value), ""))]
        else:
            records = read_prompts(
                _lines(file, name),
                vocabulary_size=model.config.vocabulary_size,
                with_targets=_MODE.value == "score",
                assemble=_assembling(model, encoder_length),
            )
        # After the model: a mistyped checkpoint must not empty a file of earlier answers.
        output = files.enter_context(_open_output(_OUTPUT.value))
        started = time.monotonic()
        try:
            summary = decode(records, answer, output, progress=say)
        except BrokenPipeError:
            # The reader of the answers, such as `head`, has enough. Python flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        _say_summary(summary, encoder_length, seconds=time.monotonic() - started)


def decode(
    records: Iterable[Prompt | BrokenLine],
    answer: AnswerPrompts,
    output: IO[bytes],
    *,
    progress: Callable[[str], None],
) -> Summary:
    """Answers `records` in order and at constant memory, a window of lines after another.

    Every window is flushed to `output`, so that a killed run keeps what it has done.
    """
    summary = Summary()
    report = _Progress(progress)
    remaining = iter(records)
    while window := list(itertools.islice(remaining, WINDOW_LINES)):
        report.before = summary.answered + summary.broken
        prompts = [record for record in window if isinstance(record, Prompt)]
        answers = iter(answer(prompts, report))
        for record in window:
            if isinstance(record, BrokenLine):
                summary.broken += 1
                _write_line(output, {"id": record.id, "error": record.error})
                continue
            answered = next(answers)
            if record.demonstrations_left_out:
                answered.record["demonstrations_left_out"] = record.demonstrations_left_out
            summary.answered += 1
            summary.demonstrations_left_out += record.demonstrations_left_out
            summary.truncated += answered.truncated
            summary.tokens += answered.tokens
            _write_line(output, answered.record)
        output.flush()
    return summary


def _assembling(model: LoadedModel, encoder_length: int) -> Assemble:
    """How demonstrations come before a question: as many as the model's input has room for."""
    encode = partial(model.tokenizer.encode_batch, parse_sentinels=_PARSE_SENTINELS.value)
    return partial(fitted_text, length=token_length(encode), limit=encoder_length)


def _answering(
    model: LoadedModel, beams: BeamSettings | None, *, encoder_length: int
) -> AnswerPrompts:
    """How to answer prompts as the flags say. ConfigError: not with this model."""
    arguments: dict[str, Any] = {
        "batch_size": _BATCH_SIZE.value,
        "encoder_length": encoder_length,
        "parse_sentinels": _PARSE_SENTINELS.value,
    }
    if _MODE.value == "score":
        return partial(scored, model, **arguments)
    max_new_tokens = _MAX_NEW_TOKENS.value or model.decoder_length
    min_new_tokens = _MIN_NEW_TOKENS.value or 0
    if min_new_tokens > max_new_tokens:
        raise ConfigError(
            f"--min_new_tokens={min_new_tokens} is more than --max_new_tokens={max_new_tokens}"
        )
    if beams is not None:
        beams.check(max_new_tokens=max_new_tokens, vocabulary_size=model.config.vocabulary_size)
    arguments |= {"max_new_tokens": max_new_tokens, "min_new_tokens": min_new_tokens}
    return partial(generated, model, beams=beams, **arguments)


def generated(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    progress: Callable[[int], None],
    *,
    beams: BeamSettings | None,
    **arguments: Any,
) -> list[Answer]:
    """Answers by the model; `arguments` are those of `generate_several`."""
    answers = generate_several(
        model.params,
        model.config,
        model.tokenizer,
        [prompt.text for prompt in prompts],
        beams=beams,
        progress=progress,
        **arguments,
    )
    _check_finite([generation.score for outputs in answers for generation in outputs], model)
    several = beams is not None and beams.num_outputs > 1
    return [
        Answer(
            record=generation_record(prompt.id, outputs, several=several),
            tokens=sum(len(generation.output_tokens) for generation in outputs),
            truncated=outputs[0].truncated,
        )
        for prompt, outputs in zip(prompts, answers, strict=True)
    ]


def scored(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    progress: Callable[[int], None],
    **arguments: Any,
) -> list[Answer]:
    """Log-probabilities of the prompts' targets; `arguments` are those of `score`."""
    scores = score(
        model.params,
        model.config,
        model.tokenizer,
        [prompt.text for prompt in prompts],
        [prompt.target for prompt in prompts],
        progress=progress,
        **arguments,
    )
    _check_finite([target.logprob for target in scores], model)
    return [
        Answer(
            record=score_record(prompt.id, target),
            tokens=len(target.token_logprobs),
            truncated=target.truncated,
        )
        for prompt, target in zip(prompts, scores, strict=True)
    ]


def _check_finite(scores: Iterable[float], model: LoadedModel) -> None:
    if not all(map(math.isfinite, scores)):
        raise CheckpointError(f"{model.folder}: the model's probabilities are not finite numbers")


def _check_flags() -> None:
    if not _CHECKPOINT.value:
        raise ConfigError("give a trained model, for example --checkpoint=runs/demo")
    if (_INPUT.value is None) == (_PROMPT.value is None):
        raise ConfigError("give either --input=FILE (- for stdin) or --prompt='...'")
    if _PROMPT.value is not None and not _PROMPT.value.strip():
        raise ConfigError("--prompt is empty")
    for flag, least in _LEAST:
        if flag.value is not None and flag.value < least:
            raise ConfigError(f"--{flag.name} must be at least {least}, not {flag.value}")
    if _MODE.value == "score":
        if _PROMPT.value is not None:
            raise ConfigError("--mode=score reads prompts and targets from --input, not --prompt")
        for given in _OF_GENERATING:
            if given.value is not None:
                raise ConfigError(f"--{given.name} has no meaning with --mode=score")
    if _INPUT.value is not None:
        source, target = Path(_INPUT.value), Path(_OUTPUT.value)
        if source.exists() and target.exists() and source.samefile(target):
            raise ConfigError(f"--output={target} would overwrite the input")


def _beam_settings() -> BeamSettings | None:
    """Those of the flags, None for greedy search. ConfigError: flags that contradict each other."""
    if _SEARCH.value != "beam":
        for flag, harmless in _OF_BEAM_SEARCH:
            if flag.value not in (None, harmless):
                raise ConfigError(f"--{flag.name}={flag.value} needs --search=beam")
        return None
    num_beams = _DEFAULT_NUM_BEAMS if _NUM_BEAMS.value is None else _NUM_BEAMS.value
    num_outputs = 1 if _NUM_OUTPUTS.value is None else _NUM_OUTPUTS.value
    if num_outputs > num_beams:
        raise ConfigError(f"--num_outputs={num_outputs} is more than --num_beams={num_beams}")
    return BeamSettings(
        num_beams=num_beams,
        length_penalty=1.0 if _LENGTH_PENALTY.value is None else _LENGTH_PENALTY.value,
        early_stopping=_EARLY_STOPPING_VALUES[_EARLY_STOPPING.value],
        num_outputs=num_outputs,
    )


def _open_input(name: str) -> IO[bytes]:
    if name == "-":
        return sys.stdin.buffer
    try:
        return cast(IO[bytes], gzip.open(name)) if name.endswith(".gz") else open(name, "rb")
    except FileNotFoundError:
        raise DataError(f"input file {name} does not exist") from None
    except OSError as error:
        raise DataError(f"input {name} cannot be read: {error.strerror}") from None


def _lines(file: IO[bytes], name: str) -> Iterator[bytes]:
    try:
        yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"input {name} cannot be read to its end: {error}") from None


def _open_output(name: str) -> IO[bytes]:
    if name == "-":
        return sys.stdout.buffer
    try:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        return open(name, "wb")
    except OSError as error:
        raise ConfigError(f"--output={name} cannot be written: {error.strerror}") from None


def _write_line(output: IO[bytes], record: dict[str, Any]) -> None:
    output.write(json_line(record).encode())


class _Progress:
    """Tells how far it is, every few seconds; called with the number of prompts of a window done.

    `before` counts the lines of earlier windows.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.before = 0
        self._tell = tell
        self._started = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_PROGRESS:
            self._last = now
            done += self.before
            self._tell(f"{done} lines, {done / (now - self._started):.1f} a second")


def _say_summary(summary: Summary, encoder_length: int, *, seconds: float) -> None:
    say(
        f"lines answered: {summary.answered}, with {summary.tokens} tokens in {seconds:.1f} s"
        f" ({summary.tokens / max(seconds, 1e-9):.0f} tokens/s)"
    )
    if summary.truncated:
        say(f"prompts cut to {encoder_length} tokens (`truncated`): {summary.truncated}")
    if summary.demonstrations_left_out:
        say(
            f"demonstrations that {encoder_length} tokens have no room for "
            f"(`demonstrations_left_out`): {summary.demonstrations_left_out}"
        )
    if summary.broken:
        say(f"lines that could not be read (`error`): {summary.broken}")


if __name__ == "__main__":
    run(main, needs_config=False)
