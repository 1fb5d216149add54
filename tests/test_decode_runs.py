"""The decode binary as a program: killed and started again, on a mesh, through a pipe."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny_model import write_dataset, write_run

LINES = 300


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return write_run(folder / "run", write_dataset(folder / "data.jsonl"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    # Of one length class: each more is compiled for every batch size and mesh.
    lines = [
        json.dumps(
            {"id": f"q{n}", "instruction": f"Do add: {n:03} and {n * 7:04}", "options": ["a", "bc"]}
        )
        for n in range(LINES)
    ]
    lines[7] = "{broken"
    path.write_text("\n".join(lines) + "\n")
    return path


def program(run, *arguments, devices=1):
    # What one program compiled, the next one of this file reads.
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "JAX_COMPILATION_CACHE_DIR": str(run / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    environment["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "instructrec_jax.decode", f"--checkpoint={run}", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)


def finished(process, text=""):
    out, words = process.communicate(text.encode(), timeout=300)
    return process.returncode, out.decode(), words.decode()


def answers_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def same(ours, theirs):
    def facts(records):
        return [(r["id"], r.get("error"), r.get("output_tokens")) for r in records]

    return facts(ours) == facts(theirs)


@pytest.fixture(scope="module")
def whole(run, questions, tmp_path_factory):
    """The answers of a run that nothing broke off, and what it said."""
    output = tmp_path_factory.mktemp("whole") / "answers.jsonl"
    code, _, words = finished(program(run, f"--input={questions}", f"--output={output}", *SAMPLE))
    assert code == 0, words
    return answers_of(output)


SAMPLE = ("--search=sample", "--top_p=0.9", "--batch_size=2", "--seed=5")


def test_a_killed_run_goes_on_without_a_line_lost_or_repeated(run, questions, whole, tmp_path):
    output = tmp_path / "answers.jsonl"
    command = (f"--input={questions}", f"--output={output}", *SAMPLE)
    for _ in range(2):
        before = output.stat().st_size if output.exists() else 0
        process = program(run, *command)
        while process.poll() is None and (not output.exists() or output.stat().st_size <= before):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = output.read_bytes().count(b"\n")
    assert 0 < done < LINES
    with open(output, "ab") as file:
        file.write(b'{"id": "torn')
    # Another batch size changes nothing.
    code, _, words = finished(program(run, *command, "--batch_size=16"))
    assert code == 0, words
    assert f"going on after {done} lines" in words
    assert same(answers_of(output), whole)
    assert [record["id"] for record in whole] == [f"q{n}" if n != 7 else "8" for n in range(LINES)]
    assert "error" in whole[7]


def test_answers_on_a_mesh_are_the_same(run, questions, whole, tmp_path):
    output = tmp_path / "answers.jsonl"
    command = (f"--input={questions}", f"--output={output}", *SAMPLE, "--batch_size=16")
    code, _, words = finished(program(run, *command, "--mesh=data=4,tensor=2", devices=8))
    assert code == 0, words
    assert same(answers_of(output), whole)


def test_chat_through_a_pipe(run):
    asked = "\n".join(
        [
            "Do add: 1 and 2",
            "/template translate_sentences.none",
            "/template translate_sentences.terse",
            "/template translate_sentences.terse source_language=English target_language=German",
            "Good morning",
            "/reset",
            "/what",
            "/quit",
            "never asked",
        ]
    )
    arguments = ("--chat", "--max_new_tokens=5", "--prefix=Sum:", "--stop=never")
    code, out, words = finished(program(run, *arguments), asked + "\n")
    assert code == 0, words
    lines = out.splitlines()
    for expected in (
        "Sum:",
        "(no template translate_sentences.none; there are ",
        "(translate_sentences.terse needs source_language=... target_language=...)",
        "(template translate_sentences.terse)",
        "(forgotten)",
        "(no command /what; /help lists them)",
    ):
        assert any(line.startswith(expected) for line in lines), (expected, out)
    assert len([line for line in lines if line.startswith("Sum:")]) == 2
