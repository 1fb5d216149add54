"""What a run is going to see, before it does: its mixture in numbers, and packed rows in colour.

The texts are data: nothing in them is taken for markup, and characters that a terminal would act
upon, or not show, are spelt out. Special tokens stand in angle brackets, ⟨eos⟩, that differ from
those of a text which merely says so.
"""

import io
import itertools
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import Console
from rich.text import Text

from instructrec_jax.data.plan import PackingPlan
from instructrec_jax.data.tokenizer_interface import Tokenizer

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_red")
_SPECIAL = "bold reverse"
_LINE_CHARACTERS = 100
# Columns of the mixture's table: heading and width.
_COLUMNS = (("examples", 12), ("asked", 9), ("realised", 10), ("an epoch", 12), ("in the run", 12))


def rows_text(
    plan: PackingPlan, tokenizer: Tokenizer, *, count: int, colour: bool, short: bool = False
) -> str:
    """Packed rows of the first step for a person, segment by segment.

    Args:
        plan: of the run.
        tokenizer: that its tokens are of.
        count: rows at most.
        colour: whether a terminal will show it; the environment (NO_COLOR, TERM) may still forbid.
        short: a line for each segment, else its whole text.
    """
    written = io.StringIO()
    console = Console(
        file=written,
        force_terminal=colour,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
    )
    rows = plan.rows_for_steps(0, 1)
    for row in range(min(count, len(rows))):
        examples = rows.examples[rows.offsets[row] : rows.offsets[row + 1]].tolist()
        console.print(Text(f"row {row + 1} of step 1: {_row_words(plan, examples)}", "bold"))
        for segment, example in enumerate(examples, start=1):
            for line in _segment(plan, tokenizer, segment, example, short=short):
                console.print(line)
    return written.getvalue().rstrip("\n")


def _row_words(plan: PackingPlan, examples: Sequence[int]) -> str:
    sides = []
    for side, limit in (
        ("encoder", plan.config.encoder_length),
        ("decoder", plan.config.decoder_length),
    ):
        tokens = sum(len(_tokens(plan, side, example)) for example in examples)
        sides.append(f"{side} {tokens:,} of {limit:,} tokens ({1 - tokens / limit:.1%} padding)")
    return f"{len(examples)} example{'s' if len(examples) > 1 else ''}, {', '.join(sides)}"


def _tokens(plan: PackingPlan, side: str, example: int) -> np.ndarray:
    tokens = getattr(plan.cache, f"{side}_tokens")
    start, end = getattr(plan.cache, f"{side}_offsets")[example : example + 2]
    return tokens[start:end]


def _segment(
    plan: PackingPlan, tokenizer: Tokenizer, segment: int, example: int, *, short: bool
) -> Iterator[Text]:
    colour = _COLOURS[(segment - 1) % len(_COLOURS)]
    sides = {side: _tokens(plan, side, example) for side in ("encoder", "decoder")}
    texts = {side: _text(tokenizer, tokens.tolist(), colour) for side, tokens in sides.items()}
    task = _visible(plan.cache.tasks[plan.cache.task_ids[example]])
    if short:
        shown = (_cut(texts["encoder"]), (" → ", "bold"), _cut(texts["decoder"]))
        yield Text.assemble((f"{segment:>4}  [{task}] ", colour), *shown)
        return
    name = _visible(plan.cache.example_id(example))
    counts = " + ".join(f"{len(tokens):,}" for tokens in sides.values())
    yield Text(f"{segment:>4}  task {task}, id {name}, {counts} tokens", f"bold {colour}")
    for side, text in texts.items():
        heading = f"      {side}  "
        for line in text.split("\n", allow_blank=True):
            yield Text.assemble((heading, "dim"), line)
            heading = " " * len(heading)


def _cut(text: Text) -> Text:
    """The text on one line, shortened."""
    line = Text(" ").join(text.split("\n"))
    if len(line) > _LINE_CHARACTERS:
        line = line[: _LINE_CHARACTERS - 1] + Text("…", "dim")
    return line


def _text(tokenizer: Tokenizer, ids: Sequence[int], colour: str) -> Text:
    """The text of some tokens; special ones by name."""
    names = {tokenizer.pad_id: "pad", tokenizer.eos_id: "eos", tokenizer.unk_id: "unk"}
    names |= {token: f"extra_id_{n}" for n, token in enumerate(tokenizer.sentinel_ids)}
    text = Text()
    for is_special, run in itertools.groupby(ids, names.__contains__):
        if is_special:
            text.append("".join(f"⟨{names[token]}⟩" for token in run), f"{_SPECIAL} {colour}")
        else:
            text.append(_visible(tokenizer.decode(list(run))), colour)
    return text


def _visible(text: str) -> str:
    """The text with all characters spelt out that are no letters, marks, signs or line breaks."""
    return "".join(
        character
        if character == "\n" or not unicodedata.category(character).startswith(("C", "Zl", "Zp"))
        else f"\\u{{{ord(character):x}}}"
        for character in text
    )


def mixture_table(plan: PackingPlan, *, steps: int) -> str:
    """Asked and realised rate of each task, and how often its examples are seen.

    Args:
        plan: of the run.
        steps: of the run; how many epochs they are is reckoned from the first block of each phase.
    """
    lines, rows_left = [], float(steps * plan.config.batch_size)
    uses, total_epochs = dict.fromkeys(plan.sizes, 0.0), 0.0
    width = max(len("task"), *(len(_visible(task)) for task in plan.sizes))
    for number, phase in enumerate(plan.phases):
        later = plan.phases[number + 1 :]
        rows = plan.statistics(phase.first_epoch)["rows"]
        epochs = rows_left / rows
        if later:
            epochs = min(epochs, later[0].first_epoch - phase.first_epoch)
        rows_left -= epochs * rows
        total_epochs += epochs
        size = plan.epoch_size(phase.first_epoch)
        until = f" to {later[0].first_epoch - 1}" if later else ""
        onwards = "" if later or not number else " and all after it"
        reached = "" if epochs else ", not reached by this run"
        noun = "epochs" if until else "from epoch" if not number else "epoch"
        lines.append(
            f"mixture, {noun} {phase.first_epoch}{until}{onwards}: {size:,} examples each{reached}"
        )
        heading = "".join(name.rjust(column) for name, column in _COLUMNS)
        lines.append("  " + "task".ljust(width) + heading)
        for task, count in phase.counts.items():
            uses[task] += epochs * count / max(plan.sizes[task], 1)
            cells = (
                f"{plan.sizes[task]:,}",
                f"{phase.rates[task]:.2%}",
                f"{count / size:.2%}",
                f"{count:,}",
                f"{uses[task]:.2f} x",
            )
            aligned = "".join(c.rjust(w) for c, (_, w) in zip(cells, _COLUMNS, strict=True))
            lines.append("  " + _visible(task).ljust(width) + aligned)
    lines.append(
        f"{steps:,} steps of {plan.config.batch_size:,} rows are about {total_epochs:.2f} epochs; "
        '"in the run": how often an example of the task is seen up to there'
    )
    return "\n".join(lines)
