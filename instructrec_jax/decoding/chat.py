"""Questions and answers in a terminal, or through a pipe.

Earlier questions and their answers stand before the next one, as demonstrations do: as many of the
newest as there is room for. Answers are written as they grow.
"""

import sys
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TextIO

from instructrec_jax.decoding.answering import generate_options, guide_of
from instructrec_jax.decoding.command import Command
from instructrec_jax.decoding.generate import Generation, generate
from instructrec_jax.decoding.prepared import PreparedModel, prepared_model
from instructrec_jax.decoding.prompts import Assemble
from instructrec_jax.decoding.stops import continuation
from instructrec_jax.errors import DataError, UserError
from instructrec_jax.instructions.document import Draft
from instructrec_jax.instructions.example import Demonstration
from instructrec_jax.instructions.templates import Template, load_templates
from instructrec_jax.training.model_folder import LoadedModel

HELP = """A line is a question. Its answer and what came before are kept in mind.
/template TASK.NAME [FIELD=VALUE ...]  puts the next lines into a template, as their input
/template                              takes the template away
/reset                                 forgets what came before
/quit                                  ends, as the end of input does"""

# Turns that are kept; what does not fit the encoder is left out anyway.
_MEMORY = 50


class Chat:
    """A conversation: what is said, and what comes of it."""

    def __init__(
        self,
        model: LoadedModel,
        command: Command,
        assemble: Assemble,
        *,
        encoder_length: int,
        output: TextIO,
    ) -> None:
        """ConfigError: not with this model."""
        self._model = model
        self._params: PreparedModel = prepared_model(model.params, model.config)[0]
        self._assemble = assemble
        self._prefix = command.prefix
        guide = guide_of(model, command, bool(self._prefix)) if command.has_grammar else None
        self._arguments = {
            **generate_options(model, command),
            "batch_size": 1,
            "encoder_length": encoder_length,
            "parse_sentinels": command.parse_sentinels,
            "guides": None if guide is None else [guide],
        }
        self._stops = command.stop
        self._output = output
        self._turns: deque[Demonstration] = deque(maxlen=_MEMORY)
        self._template: Template | None = None
        self._fields: dict[str, str] = {}
        self._questions = 0

    def hear(self, line: str) -> bool:
        """Answers a line or does what it says; False where it ends the conversation."""
        line = line.strip()
        try:
            if line == "/quit":
                return False
            if line == "/reset":
                self._turns.clear()
                self._say("(forgotten)")
            elif line == "/help":
                self._say(HELP)
            elif line.split(maxsplit=1)[:1] == ["/template"]:
                self._choose_template(line.split()[1:])
            elif line.startswith("/"):
                self._say(f"(no command {line.split()[0]}; /help lists them)")
            elif line:
                self._answer(line)
        except UserError as error:
            self._say(f"({error})")
        return True

    def _say(self, text: str) -> None:
        print(text, file=self._output, flush=True)

    def _choose_template(self, words: Sequence[str]) -> None:
        if not words:
            self._template, self._fields = None, {}
            self._say("(no template)")
            return
        task = words[0].partition(".")[0]
        try:
            known = {template.id: template for template in load_templates(task)}
        except DataError:
            self._say(f"(no templates of a task {task!r})")
            return
        if words[0] not in known:
            self._say(f"(no template {words[0]}; there are {', '.join(known)})")
            return
        fields = dict(word.partition("=")[::2] for word in words[1:])
        lacking = sorted(known[words[0]].fields - {"input"} - set(fields))
        if lacking:
            asked = " ".join(f"{name}=..." for name in lacking)
            self._say(f"({words[0]} needs {asked})")
            return
        self._template, self._fields = known[words[0]], fields
        self._say(f"(template {words[0]})")

    def _question(self, line: str) -> tuple[str, str]:
        """Instruction and input."""
        if self._template is None:
            return line, ""
        return self._template.render(Draft(fields={**self._fields, "input": line}, target=""))

    def _answer(self, line: str) -> None:
        instruction, given = self._question(line)
        # The newest first where not all fit, and in their order where they do.
        turns = list(self._turns)
        text, left_out = self._assemble(turns, instruction, given)
        while left_out and turns:
            turns.pop(0)
            text, left_out = self._assemble(turns, instruction, given)
        written = _Written(self._output)
        self._questions += 1

        def read(_: int, tokens: list[int]) -> None:
            written.grow(self._text(tokens))

        (generation,) = generate(
            self._params,
            self._model.config,
            self._model.tokenizer,
            [text],
            prefixes=[self._prefix],
            ids=[self._questions],
            reader=read,
            **self._arguments,
        )
        written.end(self._prefix + generation.output)
        if generation.truncated:
            self._say("(the end of the question did not fit)")
        self._remember(instruction, given, generation)

    def _text(self, tokens: Sequence[int]) -> str:
        """What is sure to stay: no character that may go on, nothing that may be a stop string."""
        tokenizer = self._model.tokenizer
        prefix = tokenizer.encode_batch([self._prefix])[0] if self._prefix else []
        text = continuation(tokenizer, prefix, tokens).rstrip("\ufffd")
        for stop in self._stops:
            if stop in text:
                text = text[: text.index(stop)]
            held = next(n for n in range(len(stop), -1, -1) if text.endswith(stop[:n]))
            text = text[: len(text) - held]
        return self._prefix + text

    def _remember(self, instruction: str, given: str, generation: Generation) -> None:
        answer = self._prefix + generation.output
        if answer.strip():
            self._turns.append(Demonstration(instruction, given, answer))


class _Written:
    """An answer on its way to the reader."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._text = ""

    def grow(self, text: str) -> None:
        """Writes what is new."""
        if text.startswith(self._text):
            print(text[len(self._text) :], end="", file=self._output, flush=True)
            self._text = text

    def end(self, text: str) -> None:
        """Writes the rest, and ends the line."""
        self.grow(text)
        print(file=self._output, flush=True)


def chat(model: LoadedModel, command: Command, assemble: Assemble, *, encoder_length: int) -> None:
    """Answers lines of stdin on stdout until they end. ConfigError: not with this model."""
    conversation = Chat(model, command, assemble, encoder_length=encoder_length, output=sys.stdout)
    ask = input if sys.stdin.isatty() else None
    if ask is not None:
        print(HELP, file=sys.stderr, flush=True)
    lines = iter(partial(ask, "> "), None) if ask else (line for line in sys.stdin)
    try:
        for line in lines:
            if not conversation.hear(line):
                return
    except EOFError:
        print(file=sys.stderr)
