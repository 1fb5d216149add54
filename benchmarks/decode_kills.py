"""Kills `decode` while it answers a large file, starts it again, and compares with one left alone.

    python benchmarks/decode_kills.py --lines=1000,10000,100000
    python benchmarks/decode_kills.py --lines=5000 --decode_flags="--search=beam --num_beams=4"

A small model with random parameters answers files of so many lines, of which one in a hundred is
broken. Of each size one run is left in peace; another is killed (SIGKILL) --kills times, when so
many equal parts of the answers are written, and begun again by the same command. Told are seconds
and peak memory of the first, and whether both files have the same bytes, a line for each line, in
order. Exit code 0 where they have. CPU only, one device.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
from absl import flags

from instructrec_jax.command_line import run, say
from instructrec_jax.data.byte_tokenizer import ByteTokenizer
from instructrec_jax.model.config import padded_vocabulary_size, t5_config
from instructrec_jax.model.t5 import init_parameters
from instructrec_jax.training.checkpoint import save_model

_LINES = flags.DEFINE_list("lines", ["1000", "10000", "100000"], "Sizes of the files.")
_KILLS = flags.DEFINE_integer("kills", 2, "Kills of each run that is killed.", 1)
_DECODE_FLAGS = flags.DEFINE_string("decode_flags", "--batch_size=256", "More flags of decode.")


def main() -> None:
    """Answer files of each size twice."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_model(folder / "model")
        different = 0
        for lines in map(int, _LINES.value or ()):
            questions = folder / f"{lines}.jsonl"
            with questions.open("w", encoding="utf-8") as file:
                file.writelines(map(_question, range(lines)))
            whole, killed = (folder / f"{lines}.{kind}" for kind in ("whole", "killed"))
            started = time.monotonic()
            mebibytes = _finished(_command(folder, questions, whole))
            seconds = time.monotonic() - started
            for kill in range(1, _KILLS.value + 1):
                _killed(_command(folder, questions, killed), killed, kill, whole)
            _finished(_command(folder, questions, killed))
            ids = [json.loads(line)["id"] for line in killed.open(encoding="utf-8")]
            same = killed.read_bytes() == whole.read_bytes()
            same = same and ids == [str(number) for number in range(1, lines + 1)]
            different += not same
            say(
                f"{lines:,} lines: {seconds:.0f} s, {mebibytes:.0f} MiB at most; killed "
                f"{_KILLS.value} times: {'the same bytes' if same else 'DIFFERENT'}"
            )
        sys.exit(bool(different))


def _write_model(folder: Path) -> None:
    tokenizer = ByteTokenizer(sentinels=0)
    config = t5_config(
        "tiny",
        vocabulary_size=padded_vocabulary_size(tokenizer.vocabulary_size),
        d_model=32,
        num_encoder_layers=1,
        num_decoder_layers=1,
    )
    params = init_parameters(config, jax.random.key(0))
    save_model(
        folder,
        params=params,
        config=config,
        tokenizer=tokenizer,
        encoder_length=64,
        decoder_length=12,
    )


def _question(number: int) -> str:
    if number % 100 == 50:
        return '{"instruction": \n'
    return (
        json.dumps({"instruction": f"Question {number * number}: " + "word " * (number % 9)}) + "\n"
    )


def _command(folder: Path, questions: Path, output: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "instructrec_jax.decode", f"--checkpoint={folder / 'model'}"),
        *(f"--input={questions}", f"--output={output}", f"--compile_cache={folder / 'cache'}"),
        *str(_DECODE_FLAGS.value).split(),
    ]


def _started(command: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)


def _finished(command: list[str]) -> float:
    """Peak memory in MiB."""
    process = _started(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"decode ended with {os.waitstatus_to_exitcode(status)}: {' '.join(command)}")
    return usage.ru_maxrss / 1024


def _killed(command: list[str], output: Path, kill: int, whole: Path) -> None:
    """Ends the run when its share of the answers is written."""
    process = _started(command)
    share = whole.stat().st_size * kill // (_KILLS.value + 1)
    while process.poll() is None and (not output.exists() or output.stat().st_size < share):
        time.sleep(0.01)
    if process.poll() is not None:
        sys.exit("decode ended before it was killed: give it more lines")
    process.send_signal(signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    run(main, needs_config=False)
