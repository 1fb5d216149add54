"""The datasheet: one HTML page that tells a person what is in a dataset, and shows it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from instructrec_jax import evaluation
from instructrec_jax.instructions.counting import histogram
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.few_shot import few_shot_text
from instructrec_jax.instructions.personal_data import masked
from instructrec_jax.instructions.phrasings import Phrasings, unseen_task
from instructrec_jax.instructions.tally import Tally

_LONGEST_SAMPLE = 1_500
# Refused drafts shown for each task and reason, and the longest text of one.
_REFUSED, _LONGEST_REFUSED = 2, 400
_SCRIPT_TEXTS = {"": "no letter", "CJK": "Han"}
_MEANS = {
    "system_calls": "no system call but to compute, read clocks, answer and end (seccomp)",
    "namespaces": "without network, mounts and host name",
    "empty_root": "in an empty file system",
}
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
    "answer_in_held_out_split": "a held-out split has the question or its answer, but for case",
    "common_label": "its label is far more frequent than the others",
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
    "few_letters": "hardly any letters",
    "ifd_high": "the curating model finds the answer no likelier with the question than without",
    "in_evaluation_data": "an evaluation file holds it, in whole or in part",
    "length_ratio": "the target is too long for its input",
    "licence": "the licence is not among those allowed",
    "lone_surrogate": "half of a character",
    "long_input": "the input is too long",
    "long_target": "the target is too long",
    "missing_medium": "a picture or film is spoken of that is not there",
    "near_duplicate": "the document is nearly the same as another one",
    "nll_outlier": "the curating model finds the answer far less likely than others of its task",
    "not_run_attribute": "the function is not run: it uses or sets private attributes, or clocks",
    "not_run_length": "the function is not run: it is too long",
    "not_run_name": "the function is not run: it uses names that are not on the list",
    "not_run_signature": "the function is not run: its parameters are too many or none",
    "not_run_statement": "the function is not run: it imports, yields, defines or awaits",
    "other_script": "written in another script than expected",
    "over_cap": "more train examples than the recipe asks for",
    "over_test_cap": "more test examples than the recipe asks for",
    "personal_data": "an address, a telephone, card or account number",
    "secret": "a password, key or token",
    "short_target": "the target is too short",
    "similar_question": "nearly the same words as another draft's",
    "target_in_input": "the target stands in the input",
    "target_in_instruction": "the phrasing gives the target away",
    "text_in_held_out_split": "the document's text is also in a held-out split",
}

# What kind of objection each reason is; a drawn bar has one colour a kind.
FAMILIES = {
    "no sound result of running it": tuple(
        reason for reason in REASONS if reason.startswith(("execution_", "not_run_"))
    ),
    "length and form": (
        *("degenerate", "empty_target", "few_letters", "length_ratio", "lone_surrogate"),
        *("long_input", "long_target", "missing_medium", "other_script", "short_target"),
    ),
    "answer given away": ("target_in_input", "target_in_instruction"),
    "private, or no licence": ("licence", "personal_data", "secret"),
    "in held-out or evaluation data": (
        *("answer_in_held_out_split", "in_evaluation_data", "text_in_held_out_split"),
    ),
    "seen already": ("contradiction", "duplicate", "near_duplicate", "similar_question"),
    "a model's objection": ("ifd_high", "nll_outlier"),
    "balance and caps": ("common_label", "over_cap", "over_test_cap"),
}
# What generators call otherwise.
OTHER_FAMILY = "its task's own"


def render(*, info: Mapping[str, Any], tally: Tally, phrasings: Phrasings) -> str:
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
    reasons = Counter(info["rejected_by_reason"])
    return environment.get_template("datasheet.html").render(
        info=info,
        tasks=_task_rows(info, phrasings),
        reasons=[
            (reason, count, REASONS.get(reason, ""), _family(reason))
            for reason, count in reasons.most_common()
        ],
        families=[*FAMILIES, OTHER_FAMILY],
        guard=[_guard(means) for means in tally.counter("guard")],
        scripts=[
            (_SCRIPT_TEXTS.get(script, script.capitalize()), count)
            for script, count in tally.counter("script").most_common()
        ],
        demonstrated=tally.counts["demonstrated",],
        refused=list(_refused(tally)),
        target_sources=tally.counter("target_source").most_common(),
        target_source_texts=TARGET_SOURCES,
        histograms=[
            ("Question", "instruction and input", _lengths(tally, "encoder")),
            ("Answer", "target", _lengths(tally, "target")),
        ],
        styles=tally.counter("style").most_common(),
        licences=_licences(info),
        samples=[
            sample(example, masks=phrasings.recipe.filters.uses("personal_data"))
            for _, example in tally.records("sample")
        ],
    )


def _lengths(tally: Tally, which: str) -> list[tuple[int, int]]:
    return histogram((key[2], count) for key, count in tally.of("length") if key[1] == which)


def _task_rows(info: Mapping[str, Any], phrasings: Phrasings) -> list[dict[str, Any]]:
    """A row a task, the largest first."""
    rows = []
    for name, record in info["tasks"].items():
        count = sum(sum(holdouts.values()) for holdouts in record["examples"].values())
        families = [0] * (len(FAMILIES) + 1)
        for reason, number in record["rejected"].items():
            families[_family(reason)] += number
        rows.append(
            {
                "name": name,
                "refused_families": families,
                "description": phrasings.recipe.bank[name].description,
                "count": count,
                "held_out": bool(unseen_task(name, phrasings.recipe)),
                "templates": phrasings.all[name],
                "held_out_templates": {template.id for template in phrasings.held_out[name]},
                **record,
            }
        )
    return sorted(rows, key=lambda row: (-row["count"], row["name"]))


def _licences(info: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Documents by licence, over all sources."""
    counts: Counter[str] = Counter()
    for source in info["sources"].values():
        counts.update(source["licences"])
    return counts.most_common()


def sample(example: InstructionExample, *, masks: bool = True) -> dict[str, Any]:
    """An example as the page shows it, secrets and personal data masked where the build masks."""
    tell = masked if masks else str
    source = example.provenance
    assert source is not None
    lines = f", lines {source.span[0]}-{source.span[1]}" if source.span else ""
    return {
        "task": example.task,
        "split": example.split,
        "holdout": example.holdout,
        "shown": _shortened(tell(few_shot_text(example.demonstrations, "", "").strip())),
        "instruction": tell(example.instruction),
        "input": _shortened(tell(example.input)),
        "target": _shortened(tell(example.target)),
        "options": list(map(tell, example.options)),
        "template": example.template,
        "source": source.uri + lines,
        "licence": source.licence,
        "trace": f"{source.corpus} · sha256 {source.sha256[:16]}… · {source.generator}",
    }


def _refused(tally: Tally) -> Iterator[dict[str, str]]:
    """Some of what was refused, for each task and reason; task "" is what could not be read."""
    shown: Counter[tuple[str, str]] = Counter()
    # Where all are written to a file, some were kept for this.
    for (task, reason), line in chain(tally.records("reject"), tally.records("shown_reject")):
        shown[task, reason] += 1
        if shown[task, reason] > _REFUSED:
            continue
        record = json.loads(line)["record"]
        source = record.get("provenance") or record
        lines = "-".join(map(str, source.get("span") or ()))
        text = record.get("input") or record.get("material") or record.get("detail", "")
        yield {
            "task": task,
            "reason": reason,
            "text": REASONS.get(reason, ""),
            "input": _shortened(text, _LONGEST_REFUSED),
            "target": _shortened(record.get("target", ""), _LONGEST_REFUSED),
            "source": source["uri"] + (f", lines {lines}" if lines else ""),
        }


def _family(reason: str) -> int:
    """The place of a reason's family among FAMILIES; OTHER_FAMILY comes behind them."""
    found = (place for place, reasons in enumerate(FAMILIES.values()) if reason in reasons)
    return next(found, len(FAMILIES))


def _guard(means: str) -> str:
    told = [_MEANS.get(name, name) for name in means.split()]
    return "; ".join(told) or "Python's own guard alone: no means of the operating system"


def _shortened(text: str, most: int = _LONGEST_SAMPLE) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most]} … [{len(text) - most:,} more characters]"
