"""Answers instructions with a trained model: JSON lines in, JSON lines out, in the same order.

    python -m instructrec_jax.decode --checkpoint=runs/demo --prompt="Translate to German: Monday"
    python -m instructrec_jax.decode --checkpoint=runs/demo --input=questions.jsonl --output=-
    python -m instructrec_jax.decode --checkpoint=models/flan --input=questions.jsonl \\
        --search=beam --num_beams=4 --num_outputs=2
    python -m instructrec_jax.decode --checkpoint=models/flan --input=pairs.jsonl --mode=score
    python -m instructrec_jax.decode --checkpoint=models/flan --input=quiz.jsonl --mode=choose
    python -m instructrec_jax.decode --checkpoint=models/flan --chat

A line of input is a JSON object with `instruction` and optionally `input` and `id`, or plain text.
`demonstrations`, a list of objects with `instruction`, `input` and `target`, are solved questions
that are shown first; those that do not fit are left out and counted (`demonstrations_left_out`).
`input_tokens` in place of them are the very token ids that the encoder reads: end them with eos.
`prefix` is what the answer goes on from, as --prefix is for all lines.

A line of output is a JSON object with `id`, `output`, `output_tokens`, `score` (the natural
log-probability of the tokens, summed) and `stop_reason` ("eos", "length" where --max_new_tokens
ran out, "stop" at one of --stop, "constraint" where nothing leads on to an allowed answer);
`prefix` is the text that the output goes on from; `truncated` is true where the end of a prompt
did not fit. Beam search adds `beam_score`: score / length^length_penalty, by which it ranks. With
more than one of --num_outputs, `outputs` lists such objects, the best first.

--mode=score reads a `target` too (or `output`, `response`, `completion`; or the token ids
`target_tokens`, scored as they are) and gives `id`, `logprob` (summed) and `token_logprobs`, the
last of them that of eos.

--mode=choose reads `options`, a list of texts, and gives `id`, `choice` and `option_logprobs`:
`sum`, `mean` and `calibrated`, each a list in the order of the options.

A line that cannot be read or answered gives `id` and `error`, and the others are answered.
--output is appended to: the same command goes on where a run was broken off, --overwrite starts
over.
--shard_index and --shard_count give a process its share of the lines. Needs a model and nothing
else of the training side: no TensorFlow, no optimizer.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import io
import itertools
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import jax
import numpy as np
from absl.flags import adopt_module_key_flags
from jax.experimental import multihost_utils

from instructrec_jax.command_line import run, say
from instructrec_jax.decoding import command as flags
from instructrec_jax.decoding.answering import NOT_FINITE, AnswerPrompts, answering
from instructrec_jax.decoding.chat import chat
from instructrec_jax.decoding.command import Command, answer_settings, read_command
from instructrec_jax.decoding.loading import decode_mesh, load_decode_model
from instructrec_jax.decoding.output_file import INPUT_DIGEST, check_settings, open_output
from instructrec_jax.decoding.progress import Progress
from instructrec_jax.decoding.prompts import Assemble, BrokenLine, Prompt, read_prompts
from instructrec_jax.decoding.shards import Shard, check_neighbours, finish
from instructrec_jax.errors import CheckpointError, ConfigError, DataError, UserError
from instructrec_jax.instructions.example import encoder_text
from instructrec_jax.instructions.few_shot import fitted_text, token_length
from instructrec_jax.instructions.writing import json_line
from instructrec_jax.training import processes
from instructrec_jax.training.model_folder import LoadedModel

for module in (flags, processes):  # so that --help lists them
    adopt_module_key_flags(module)

# Batches of lines that are held at once: they are sorted by length, so that batches have little
# padding, and written when all are answered.
WINDOW_BATCHES = 32


@dataclass
class Summary:
    """What became of the lines."""

    answered: int = 0
    broken: int = 0
    truncated: int = 0
    tokens: int = 0
    demonstrations_left_out: int = 0
    seconds: float = 0.0


def main() -> None:
    """The binary."""
    command = read_command()
    if processes.DISTRIBUTED.value:
        processes.join_processes()
    if flags.COMPILE_CACHE.value:
        jax.config.update("jax_compilation_cache_dir", flags.COMPILE_CACHE.value)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    with contextlib.ExitStack() as files:
        name = str(flags.INPUT.value)
        file = None if flags.INPUT.value is None else files.enter_context(_open_input(name))
        mesh = decode_mesh(flags.MESH.value)
        if mesh is not None:
            files.enter_context(jax.set_mesh(mesh))
        model = load_decode_model(
            str(flags.CHECKPOINT.value), mesh=mesh, dtype=str(flags.PARAMETER_DTYPE.value)
        )
        first = jax.process_index() == 0
        tell = say if first else _nothing
        tell(f"model: {model.description}")
        encoder_length = command.max_input_tokens or model.encoder_length
        assemble = _assembling(model, command, encoder_length)
        if flags.CHAT.value:
            chat(model, command, assemble, encoder_length=encoder_length)
            return
        answer = answering(model, command, encoder_length=encoder_length)
        settings = {**answer_settings(), "input": name, "model": _identity(model)}
        if command.json_schema is not None:
            settings["json_schema"] = _sha256(Path(command.json_schema))
        total = None
        if file is not None and Path(name).is_file():
            settings[INPUT_DIGEST] = _sha256(Path(name))
            total = None if name.endswith(".gz") else _line_count(Path(name), command.shard)
        # What answers has parameters of its own now.
        model = dataclasses.replace(model, params=None)
        records: Iterable[Prompt | BrokenLine]
        lines = None if file is None else _Lines(file, name)
        if lines is None:
            records = [Prompt("prompt", encoder_text(str(flags.PROMPT.value), ""))]
        else:
            records = read_prompts(
                lines,
                is_own=command.shard.has,
                vocabulary_size=model.config.vocabulary_size,
                with_targets=command.mode == "score",
                with_options=command.reads_options,
                with_prefix=command.mode == "generate",
                assemble=assemble,
            )
        # After the model: a mistyped checkpoint must not empty a file of earlier answers.
        output, records, done = _destination(files, records, settings, command, tell)
        left = None if total is None else total - done
        with Progress(tell, left) if first else contextlib.nullcontext(_nothing) as progress:
            window_lines = WINDOW_BATCHES * command.batch_size
            window_lines, name = WINDOW_BATCHES * command.batch_size, str(model.folder)
            decoding = partial(decode, window_lines=window_lines, model_name=name)
            summary = _unless_closed(
                partial(decoding, records, answer, output, progress=progress, lines_before=done)
            )
        if summary is not None:
            _say_summary(summary, encoder_length, tell)
            if lines is not None and command.shard.count > 1 and first:
                output.close()
                _finish_shard(command.shard, lines.count)


def _unless_closed(answer_all: Callable[[], Summary]) -> Summary | None:
    """What `decode` tells, with its seconds; None where nobody reads the answers any more."""
    started = time.monotonic()
    try:
        summary = answer_all()
    except BrokenPipeError:
        # The reader of the answers, such as `head`, has enough. Python flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None
    summary.seconds = time.monotonic() - started
    return summary


def decode(
    records: Iterable[Prompt | BrokenLine],
    answer: AnswerPrompts,
    output: IO[bytes],
    *,
    progress: Callable[[int], None],
    window_lines: int,
    model_name: str,
    lines_before: int = 0,
) -> Summary:
    """Answers `records` in order and at constant memory, a window of lines after another.

    Every window is flushed to `output`, so that a killed run keeps what it has done. `progress` is
    told how many lines are done; a run that was broken off had done `lines_before`.

    Raises:
      CheckpointError: the model gave finite numbers to none, from the first line on.
    """
    summary = Summary()
    remaining = iter(records)
    while window := list(itertools.islice(remaining, window_lines)):
        before = summary.answered + summary.broken
        prompts = [record for record in window if isinstance(record, Prompt)]

        def tell(done: int, before: int = before) -> None:
            progress(before + done)

        found = answer(prompts, tell)
        errors = [each.record.get("error") for each in found]
        if not summary.answered and not lines_before and all(errors) and NOT_FINITE in errors:
            raise CheckpointError(f"{model_name}: the model's {NOT_FINITE}")
        answers = iter(found)
        for record in window:
            if isinstance(record, BrokenLine):
                summary.broken += 1
                _write_line(output, {"id": record.id, "error": record.error})
                continue
            answered = next(answers)
            if answered.failed:
                summary.broken += 1
                _write_line(output, answered.record)
                continue
            if record.demonstrations_left_out:
                answered.record["demonstrations_left_out"] = record.demonstrations_left_out
            summary.answered += 1
            summary.demonstrations_left_out += record.demonstrations_left_out
            summary.truncated += answered.truncated
            summary.tokens += answered.tokens
            _write_line(output, answered.record)
        output.flush()
        progress(summary.answered + summary.broken)
    return summary


def _destination(
    files: contextlib.ExitStack,
    records: Iterable[Prompt | BrokenLine],
    settings: dict[str, Any],
    command: Command,
    tell: Callable[[str], None],
) -> tuple[IO[bytes], Iterable[Prompt | BrokenLine], int]:
    """Where answers go, the records that have none yet, and how many have.

    Of several processes that are one the first writes, and tells the others where it goes on.
    DataError: another input's answers.
    """
    remaining = iter(records)
    output, done, problem = cast(IO[bytes], io.BytesIO()), 0, None
    if jax.process_index() == 0:
        try:
            output, done, remaining = _opened(files, remaining, settings, command)
        except UserError as error:
            problem, done = error, -1
    if processes.DISTRIBUTED.value:
        done = int(multihost_utils.broadcast_one_to_all(np.int32(done)))
    if problem is not None:
        raise problem
    if done < 0:
        raise ConfigError("the first process of the run cannot write answers, and says why")
    if jax.process_index() > 0:
        output = files.enter_context(_nowhere())
        next(itertools.islice(remaining, done, done), None)
    elif done:
        path = command.shard.path(Path(flags.OUTPUT.value))
        tell(f"going on after {done} lines that {path} has")
    return output, remaining, done


def _opened(
    files: contextlib.ExitStack,
    records: Iterator[Prompt | BrokenLine],
    settings: dict[str, Any],
    command: Command,
) -> tuple[IO[bytes], int, Iterator[Prompt | BrokenLine]]:
    """Where answers go, how many are there to stay, and the records that are to be answered.

    A window that is there in part is answered again: with the same neighbours, in the same shapes,
    it gets the same last digits.
    """
    if flags.OUTPUT.value == "-":
        return sys.stdout.buffer, 0, records
    whole, overwrite = Path(flags.OUTPUT.value), bool(flags.OVERWRITE.value)
    path = command.shard.path(whole)
    check_neighbours(whole, command.shard)
    if path != whole and whole.exists() and not overwrite:
        check_settings(whole, settings)
    window_lines = WINDOW_BATCHES * command.batch_size
    file, written = open_output(path, settings, overwrite=overwrite, window_lines=window_lines)
    output = files.enter_context(file)
    if not written.lines:
        return output, 0, records
    kept = (written.lines - 1) // window_lines * window_lines
    next(itertools.islice(records, kept, kept), None)
    begun = list(itertools.islice(records, written.lines - kept))
    if len(begun) < written.lines - kept or begun[-1].id != written.last_id:
        what = "no such line" if len(begun) < written.lines - kept else f"id {begun[-1].id!r}"
        raise DataError(
            f"--output={path} ends with the answer to id {written.last_id!r}, and line "
            f"{command.shard.line(written.lines)} of the input has {what}: the input has changed; "
            "--overwrite starts over"
        )
    following = list(itertools.islice(records, 1))
    cut = written.bytes_of_windows
    if not following or len(begun) == window_lines or cut is None:
        return output, written.lines, itertools.chain(following, records)
    file.truncate(cut)
    return output, kept, itertools.chain(begun, following, records)


def _nowhere() -> IO[bytes]:
    return open(os.devnull, "wb")


def _finish_shard(shard: Shard, lines: int) -> None:
    output = Path(flags.OUTPUT.value)
    lacking = finish(output, shard, lines)
    if lacking:
        say(f"{output} is written when these shards are done too: {', '.join(map(str, lacking))}")
    else:
        say(f"{output} has the answers of all {shard.count} shards")


def _nothing(_: object = None) -> None:
    """Says nothing: the first of several processes speaks."""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line_count(path: Path, shard: Shard) -> int:
    """Lines of the file that are the shard's."""
    with path.open("rb") as file:
        return sum(shard.has(number) for number, _ in enumerate(file, start=1))


def _identity(model: LoadedModel) -> str:
    """Which weights these are: by their checksums, or where there are none by their files."""
    known: dict[str, Any] = dict(model.checksums)
    if not known:
        known = {file.name: _sha256(file) for file in Path(model.folder).glob("*.safetensors")}
    checksums = repr(sorted(known.items()))
    return f"{model.description} {zlib.crc32(checksums.encode()):08x}"


def _assembling(model: LoadedModel, command: Command, encoder_length: int) -> Assemble:
    """How demonstrations come before a question: as many as the model's input has room for."""
    encode = partial(model.tokenizer.encode_batch, parse_sentinels=command.parse_sentinels)
    return partial(fitted_text, length=token_length(encode), limit=encoder_length)


def _open_input(name: str) -> IO[bytes]:
    if name == "-":
        return sys.stdin.buffer
    try:
        return cast(IO[bytes], gzip.open(name)) if name.endswith(".gz") else open(name, "rb")
    except FileNotFoundError:
        raise DataError(f"input file {name} does not exist") from None
    except OSError as error:
        raise DataError(f"input {name} cannot be read: {error.strerror}") from None


class _Lines:
    """The lines of a file, counted as they are read. DataError: it breaks off."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.count = 0
        self._file, self._name = file, name

    def __iter__(self) -> Iterator[bytes]:
        try:
            for line in self._file:
                self.count += 1
                yield line
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"input {self._name} cannot be read to its end: {error}") from None


def _write_line(output: IO[bytes], record: dict[str, Any]) -> None:
    output.write(json_line(record).encode())


def _say_summary(summary: Summary, encoder_length: int, say: Callable[[str], None]) -> None:
    seconds = summary.seconds
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
        say(f"lines that could not be read or answered (`error`): {summary.broken}")


if __name__ == "__main__":
    run(main, needs_config=False)
