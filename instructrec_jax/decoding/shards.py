"""One file of questions answered by several processes that know nothing of each other.

    answers.jsonl-00000-of-00004          answers to lines 1, 5, 9, ... of the input
    answers.jsonl-00000-of-00004.state    their settings, and once all are there, how many lines
    answers.jsonl                         all of them in order, by the process that ends last

Each shard goes on by itself after a kill. The shards stay when they are joined, so that a process
that is started again finds its work done.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from instructrec_jax.decoding.output_file import FINISHED, read_state, state_path, write_state
from instructrec_jax.errors import ConfigError, DataError


@dataclass(frozen=True)
class Shard:
    """Every `count`-th line of the input, from line `index` + 1 on."""

    index: int = 0
    count: int = 1

    def has(self, number: int) -> bool:
        """Whether a line, numbered from 1, is its own."""
        return (number - 1) % self.count == self.index

    def line(self, answers: int) -> int:
        """The number of the input's line that has so many answers of this shard with its own."""
        return (answers - 1) * self.count + self.index + 1

    def path(self, output: Path) -> Path:
        """Where its answers are, of those that `output` will hold."""
        if self.count == 1:
            return output
        return output.with_name(f"{output.name}-{self.index:05d}-of-{self.count:05d}")


def check_neighbours(output: Path, shard: Shard) -> None:
    """ConfigError: there are answers of another number of shards."""
    pattern = re.compile(re.escape(output.name) + r"-\d{5}-of-(\d{5})")
    names = [path.name for path in output.parent.glob("*")] if output.parent.is_dir() else []
    found = sorted({int(match[1]) for match in map(pattern.fullmatch, names) if match})
    other = [count for count in found if count != shard.count]
    if other and not (shard.count == 1 and output.exists()):
        raise ConfigError(
            f"--output={output} has answers of --shard_count={other[0]} beside it; go on with "
            "that, choose another file, or remove them"
        )


def finish(output: Path, shard: Shard, lines: int) -> list[int]:
    """Notes that a shard is whole, of an input of so many lines, and joins all when they are.

    Returns:
      The indices of the shards that are not whole yet; none: `output` holds all answers.

    Raises:
      DataError: the shards are not of one input.
      ConfigError: they were made with different settings, or cannot be written.
    """
    own = shard.path(output)
    try:
        state = {name: value for name, value in read_state(own).items() if name != FINISHED}
        write_state(own, {**state, FINISHED: lines})
        every = [Shard(index, shard.count) for index in range(shard.count)]
        states = [_state(each.path(output)) for each in every]
        lacking = [n for n, other in enumerate(states) if FINISHED not in other]
        if not lacking:
            for each, other in zip(every, states, strict=True):
                _check_same(each.path(output), other, own, states[shard.index])
            _join(output, [each.path(output) for each in every], lines)
            write_state(output, state)
        return lacking
    except OSError as error:
        raise ConfigError(f"--output={output} cannot be written: {error.strerror}") from None


def _state(path: Path) -> dict[str, Any]:
    return read_state(path) if state_path(path).exists() and path.exists() else {}


def _check_same(path: Path, state: Mapping[str, Any], own: Path, own_state: Any) -> None:
    if state[FINISHED] != own_state[FINISHED]:
        raise DataError(
            f"{path} was made of an input of {state[FINISHED]} lines, {own} of one of "
            f"{own_state[FINISHED]}; --overwrite starts one over"
        )
    if state != own_state:
        raise ConfigError(f"{path} and {own} were made with different settings; see their .state")


def _join(output: Path, parts: list[Path], lines: int) -> None:
    """Writes their lines in turn, at once: a killed process leaves no half of them."""
    unfinished = output.with_name(f"{output.name}.{os.getpid()}.new")
    with contextlib.ExitStack() as opened, open(unfinished, "wb") as joined:
        files: list[IO[bytes]] = [opened.enter_context(open(part, "rb")) for part in parts]
        for number in range(lines):
            line = files[number % len(files)].readline()
            if not line.endswith(b"\n"):
                raise DataError(
                    f"{parts[number % len(files)]} lacks the answer to line {number + 1}; "
                    "--overwrite starts it over"
                )
            joined.write(line)
    os.replace(unfinished, output)
