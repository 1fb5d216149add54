"""The datasheet: one HTML page that tells a person what is in a dataset, and shows it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from instructrec_jax import evaluation
from instructrec_jax.instructions.assembly import Assembly
from instructrec_jax.instructions.counting import histogram
from instructrec_jax.instructions.example import TRAIN, InstructionExample, encoder_text
from instructrec_jax.instructions.tasks import TASKS

# Samples of each task on the page: that many of each split and hold-out.
_SAMPLES = 4
_LONGEST_SAMPLE = 1_500
# Both of the project's pages look alike: the style stands beside the report.
_STYLE_FOLDER = Path(evaluation.__file__).parent
TARGET_SOURCES = {
    "intrinsic": "taken from the document itself",
    "metadata": "taken from the document's metadata",
    "mined": "found in the text by its connectives",
    "parallel": "the same item in another language",
    "executed": "the result of running the code",
    "model": "written by a model",
}
REASONS = {
    "answer_in_held_out_split": "the same input and target are in a held-out split",
    "contradiction": "the same question has several targets",
    "degenerate": "the same characters or word over and over",
    "duplicate": "the same question twice",
    "empty_target": "the target is empty",
    "execution_constant": "every call of the function gave the same value",
    "execution_crashed": "the guarded process ended",
    "execution_memory": "the call took too much memory",
    "execution_not_literal": "the call gave a value that cannot be written as a literal",
    "execution_raised": "the call raised an exception",
    "execution_refused": "the call tried what the guard forbids",
    "execution_steps": "the call ran too many lines",
    "execution_timeout": "the call took too long",
    "execution_too_long": "the call gave a value too long to be a target",
    "execution_unstable": "two runs of the call differed",
    "lone_surrogate": "half of a character",
    "long_input": "the input is too long",
    "long_target": "the target is too long",
    "over_cap": "more train examples than the recipe asks for",
    "over_test_cap": "more test examples than the recipe asks for",
    "short_target": "the target is too short",
    "target_in_input": "the target stands in the input",
    "text_in_held_out_split": "the document's text is also in a held-out split",
}


def render(
    *,
    info: Mapping[str, Any],
    assembly: Assembly,
) -> str:
    """The page of a dataset; `info` is the contents of its dataset.json."""
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, _STYLE_FOLDER]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["words"] = lambda text: text.replace("_", " ")
    examples = assembly.examples
    reasons = Counter(info["rejected_by_reason"])
    return environment.get_template("datasheet.html").render(
        info=info,
        tasks=_task_rows(info, assembly),
        reasons=[
            (reason, count, REASONS.get(reason, "")) for reason, count in reasons.most_common()
        ],
        target_sources=Counter(example.target_source for example in examples).most_common(),
        target_source_texts=TARGET_SOURCES,
        histograms=[
            ("Question", "instruction and input", _question_lengths(examples)),
            ("Answer", "target", histogram(len(example.target) for example in examples)),
        ],
        styles=_styles(assembly),
        licences=_licences(info),
        samples=samples(examples),
    )


def _question_lengths(examples: Sequence[InstructionExample]) -> list[tuple[int, int]]:
    return histogram(len(encoder_text(e.instruction, e.input)) for e in examples)


def _task_rows(info: Mapping[str, Any], assembly: Assembly) -> list[dict[str, Any]]:
    """A row a task, the largest first."""
    rows = []
    for name, record in info["tasks"].items():
        count = sum(sum(holdouts.values()) for holdouts in record["examples"].values())
        rows.append(
            {
                "name": name,
                "description": TASKS[name].description,
                "count": count,
                "held_out": name in info["recipe"]["holdout_tasks"],
                "templates": assembly.templates[name],
                "held_out_templates": {template.id for template in assembly.held_out[name]},
                **record,
            }
        )
    return sorted(rows, key=lambda row: (-row["count"], row["name"]))


def _styles(assembly: Assembly) -> list[tuple[str, int]]:
    """Train examples by the style of their phrasing."""
    styles = {t.id: t.style for templates in assembly.templates.values() for t in templates}
    used = (styles[e.template] for e in assembly.examples if e.split == TRAIN)
    return Counter(used).most_common()


def _licences(info: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Documents by licence, over all sources."""
    counts: Counter[str] = Counter()
    for source in info["sources"].values():
        counts.update(source["licences"])
    return counts.most_common()


def samples(examples: Sequence[InstructionExample]) -> list[dict[str, Any]]:
    """A few examples of each task, split and hold-out, in the dataset's (shuffled) order."""
    taken: Counter[tuple[str, str, str]] = Counter()
    chosen = []
    for example in examples:
        key = (example.task, example.split, example.holdout)
        if taken[key] >= _SAMPLES:
            continue
        taken[key] += 1
        source = example.provenance
        assert source is not None
        chosen.append(
            {
                "task": example.task,
                "split": example.split,
                "holdout": example.holdout,
                "instruction": example.instruction,
                "input": _shortened(example.input),
                "target": _shortened(example.target),
                "options": list(example.options),
                "template": example.template,
                "source": source.uri
                + (f", lines {source.span[0]}-{source.span[1]}" if source.span else ""),
                "licence": source.licence,
            }
        )
    return sorted(chosen, key=lambda sample: sample["task"])


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST_SAMPLE:
        return text
    return f"{text[:_LONGEST_SAMPLE]} … [{len(text) - _LONGEST_SAMPLE:,} more characters]"
