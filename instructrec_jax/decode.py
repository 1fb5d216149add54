"""Answers instructions with a trained model: JSON lines in, JSON lines out, in the same order.

    python -m instructrec_jax.decode --checkpoint=runs/demo --prompt="Translate to German: Monday"
    python -m instructrec_jax.decode --checkpoint=runs/demo --input=questions.jsonl --output=-

A line of input is a JSON object with `instruction` and optionally `input` and `id`, or plain text.
A line of output is a JSON object with `id`, `output`, `output_tokens`, `score` (the natural
log-probability of the tokens, summed) and `stop_reason` ("eos", or "length" where
--max_new_tokens ran out); `truncated` is true where the end of a prompt did not fit. A line that
cannot be read gives `id` and `error`, and the others are answered.

Needs a checkpoint and nothing else of the training side: no TensorFlow, no optimizer.
"""

import contextlib
import gzip
import itertools
import math
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from absl import flags

from instructrec_jax.command_line import run, say
from instructrec_jax.decoding.generate import Generation, generate
from instructrec_jax.decoding.prompts import BrokenLine, Prompt, read_prompts
from instructrec_jax.errors import CheckpointError, ConfigError, DataError
from instructrec_jax.instructions.example import encoder_text
from instructrec_jax.instructions.writing import json_line
from instructrec_jax.training.checkpoint import LoadedModel, load_model

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run folder, or one of its checkpoints.")
_INPUT = flags.DEFINE_string("input", None, "File of lines to answer (.gz too), - for stdin.")
_OUTPUT = flags.DEFINE_string("output", "-", "File for the JSON lines, - for stdout.")
_PROMPT = flags.DEFINE_string("prompt", None, "One instruction, in place of --input.")
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", None, "Longest answer in tokens; by default the target length of training."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Prompts answered at once.")

# Lines that are held at once: they are sorted by length, so that batches have little padding.
WINDOW_LINES = 4096
_SECONDS_BETWEEN_PROGRESS = 5.0


@dataclass
class Summary:
    """What became of the lines."""

    answered: int = 0
    broken: int = 0
    truncated: int = 0
    new_tokens: int = 0


def main() -> None:
    """The binary."""
    _check_flags()
    with contextlib.ExitStack() as files:
        records: Iterable[Prompt | BrokenLine]
        if _PROMPT.value is not None:
            records = [Prompt("prompt", encoder_text(_PROMPT.value, ""))]
        else:
            name = str(_INPUT.value)
            records = read_prompts(_lines(files.enter_context(_open_input(name)), name))
        model = load_model(str(_CHECKPOINT.value))
        say(f"model: {model.description}")
        # After the model: a mistyped checkpoint must not empty a file of earlier answers.
        output = files.enter_context(_open_output(_OUTPUT.value))
        started = time.monotonic()
        try:
            summary = decode(
                records,
                model,
                output,
                max_new_tokens=_MAX_NEW_TOKENS.value or model.decoder_length,
                batch_size=_BATCH_SIZE.value,
                progress=say,
            )
        except BrokenPipeError:
            # The reader of the answers, such as `head`, has enough. Python flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        _say_summary(summary, model, seconds=time.monotonic() - started)


def decode(
    records: Iterable[Prompt | BrokenLine],
    model: LoadedModel,
    output: IO[bytes],
    *,
    max_new_tokens: int,
    batch_size: int,
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
        generations = iter(
            generate(
                model.params,
                model.config,
                model.tokenizer,
                [prompt.text for prompt in prompts],
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                encoder_length=model.encoder_length,
                progress=report,
            )
        )
        for record in window:
            if isinstance(record, BrokenLine):
                summary.broken += 1
                _write_line(output, {"id": record.id, "error": record.error})
                continue
            generation = next(generations)
            summary.answered += 1
            summary.truncated += generation.truncated
            summary.new_tokens += len(generation.output_tokens)
            _write_line(output, _output_record(record, generation, model))
        output.flush()
    return summary


def _output_record(prompt: Prompt, generation: Generation, model: LoadedModel) -> dict[str, Any]:
    if not math.isfinite(generation.score):
        raise CheckpointError(f"{model.folder}: the model's probabilities are not finite numbers")
    record: dict[str, Any] = {
        "id": prompt.id,
        "output": generation.output,
        "output_tokens": generation.output_tokens,
        "score": round(generation.score, 6),
        "stop_reason": generation.stop_reason,
    }
    if generation.truncated:
        record["truncated"] = True
    return record


def _check_flags() -> None:
    if not _CHECKPOINT.value:
        raise ConfigError("give a trained model, for example --checkpoint=runs/demo")
    if (_INPUT.value is None) == (_PROMPT.value is None):
        raise ConfigError("give either --input=FILE (- for stdin) or --prompt='...'")
    if _PROMPT.value is not None and not _PROMPT.value.strip():
        raise ConfigError("--prompt is empty")
    for flag in (_MAX_NEW_TOKENS, _BATCH_SIZE):
        if flag.value is not None and flag.value < 1:
            raise ConfigError(f"--{flag.name} must be at least 1, not {flag.value}")
    if _INPUT.value is not None:
        source, target = Path(_INPUT.value), Path(_OUTPUT.value)
        if source.exists() and target.exists() and source.samefile(target):
            raise ConfigError(f"--output={target} would overwrite the input")


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


def _say_summary(summary: Summary, model: LoadedModel, *, seconds: float) -> None:
    say(
        f"lines answered: {summary.answered}, with {summary.new_tokens} tokens in {seconds:.1f} s"
        f" ({summary.new_tokens / max(seconds, 1e-9):.0f} tokens/s)"
    )
    if summary.truncated:
        say(f"prompts cut to {model.encoder_length} tokens (`truncated`): {summary.truncated}")
    if summary.broken:
        say(f"lines that could not be read (`error`): {summary.broken}")


if __name__ == "__main__":
    run(main, needs_config=False)
