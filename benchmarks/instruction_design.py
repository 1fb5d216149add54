"""Whether likelihood tells right instructions from wrong ones, and what a synthesiser is worth.

    python benchmarks/instruction_design.py --checkpoint=runs/synthesiser --dataset=datasets/dates

The checkpoint and dataset are those of configs/synthesiser.py. CPU, some minutes. All questions are
of test documents, which training never saw. Printed, with the truth known in each case:

- ranking: for each task, the share of (right, wrong) pairs of instructions in which the right one
  has the higher log-likelihood; wrong ones are other tasks' instructions and shuffled words
- curation: examples with another task's instruction or another example's target planted among them,
  and how many of each kind are refused
- synthesis: pairs made of dates, and how many answers are right before curation and after
"""

from collections import Counter, defaultdict
from dataclasses import replace

from absl import app, flags, logging

from instructrec_jax.instructions import hashing
from instructrec_jax.instructions.document import Document
from instructrec_jax.instructions.example import TEST, TRAIN, InstructionExample
from instructrec_jax.instructions.reading import read_examples
from instructrec_jax.instructions.sources import SOURCES
from instructrec_jax.instructions.splitting import split_of_document
from instructrec_jax.instructions.synthesis.curated_file import other_tasks_instructions
from instructrec_jax.instructions.synthesis.curation import CurationSettings, curate
from instructrec_jax.instructions.synthesis.design import score_proposals
from instructrec_jax.instructions.synthesis.generation import (
    Synthesised,
    SynthesisSettings,
    synthesise,
)
from instructrec_jax.instructions.synthesis.grammar import Proposal, propose
from instructrec_jax.instructions.synthesis.likelihood import Judge, load_judge
from instructrec_jax.instructions.synthesis.traits import Pair, traits_of

_CHECKPOINT = flags.DEFINE_string("checkpoint", "runs/synthesiser", "Model that judges and writes.")
_DATASET = flags.DEFINE_string("dataset", "datasets/dates", "Dataset that it was trained on.")
_DOCUMENTS = flags.DEFINE_integer("documents", 60, "Dates that the synthesiser is asked about.")
_LANGUAGES = ("zh", "de", "ru")
_PAIRS, _INSTRUCTIONS, _EXAMPLES = 24, 12, 80


def main(_: list[str]) -> None:
    """Print the three tables."""
    logging.set_verbosity(logging.WARNING)
    judge = load_judge(_CHECKPOINT.value, batch_size=64, max_new_tokens=64)
    seen, tests = defaultdict(set), defaultdict(list)
    for split in (TRAIN, TEST):
        for example in read_examples(_DATASET.value, split=split):
            if example.input and split == TRAIN:
                seen[example.task].add(example.instruction)
            elif example.input and example.holdout == "document":
                tests[example.task].append(example)
    chosen = {
        task: sorted(texts, key=hashing.digest)[:_INSTRUCTIONS] for task, texts in seen.items()
    }
    for task, examples in tests.items():
        rank(task, examples, chosen, judge)
    curate_planted(tests, judge)
    synthesise_dates(judge)


def rank(
    task: str, examples: list[InstructionExample], chosen: dict[str, list[str]], judge: Judge
) -> None:
    """Right and wrong instructions of one task, by log-likelihood."""
    pairs = list(dict.fromkeys(Pair(e.input, e.target) for e in examples))
    traits = traits_of(pairs)
    groups = {
        "right": chosen[task],
        "proposed": [proposal.text for proposal in propose(traits, limit=40)],
        "other task": [text for other, texts in chosen.items() if other != task for text in texts],
        "shuffled": [shuffled(text) for text in chosen[task]],
    }
    named = [(group, text) for group, texts in groups.items() for text in texts]
    proposals = [Proposal("", "terse", text) for _, text in named]
    likelihoods = defaultdict(list)
    scored = score_proposals(proposals, pairs[:_PAIRS], judge, task_type=traits.task_type)
    for (group, _), found in zip(named, scored, strict=True):
        likelihoods[group].append(found.log_likelihood)
    told = ", ".join(
        f"{better} over {worse} {preferred(likelihoods[better], likelihoods[worse]):.2f}"
        for better, worse in (
            ("right", "other task"), ("proposed", "other task"), ("right", "shuffled")
        )
    )  # fmt: skip
    print(f"{task:<25} {traits.task_type:<15} {told}")


def preferred(first: list[float], second: list[float]) -> float:
    """The share of pairs in which the first is higher; equal ones count half."""
    wins = sum((one > two) + 0.5 * (one == two) for one in first for two in second)
    return wins / (len(first) * len(second))


def shuffled(text: str) -> str:
    """The words in another order."""
    words = text.split()
    hashing.generator("shuffled", text).shuffle(words)
    return " ".join(words)


def curate_planted(tests: dict[str, list[InstructionExample]], judge: Judge) -> None:
    """Every fourth example gets another task's instruction, every eighth another target."""
    planted: list[InstructionExample] = []
    for task, examples in tests.items():
        others = [e.instruction for other, more in tests.items() if other != task for e in more]
        targets = [e.target for e in examples]
        for place, example in enumerate(examples[:_EXAMPLES]):
            random, kind = hashing.generator("planted", example.id), "right"
            if place % 4 == 3:
                kind, example = "instruction", replace(example, instruction=random.choice(others))
            elif place % 8 == 5:
                kind, example = "target", replace(example, target=random.choice(targets))
            planted.append(replace(example, id=f"{kind} {task} {place}"))
    verdicts = curate(
        planted, judge, CurationSettings(), wrong=other_tasks_instructions(iter(planted))
    )
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for name, verdict in verdicts.items():
        counts[name.partition(" ")[0]][verdict.reason or "kept"] += 1
    for kind, found in counts.items():
        print(f"planted: {kind:<12} {found.total():>4}: {dict(found)}")


def synthesise_dates(judge: Judge) -> None:
    """Pairs about dates, right or wrong, by what became of them."""
    documents = [
        document
        for unit in SOURCES["locale_names"].units(_LANGUAGES)
        for document in SOURCES["locale_names"].documents(unit, _LANGUAGES, 0)
        if document.content["kind"] == "date" and _unseen(document)
    ]
    documents.sort(key=lambda document: hashing.digest(document.identity))
    settings = SynthesisSettings(instructions=False)
    made = synthesise(
        documents[: _DOCUMENTS.value], synthesiser=judge, judge=judge, settings=settings
    )
    counts: dict[str, list[bool]] = defaultdict(list)
    for each in made:
        counts[each.reason or "kept"].append(is_right(each))
    for reason, right in {"all": sum(counts.values(), []), **counts}.items():
        print(f"synthesised: {reason:<24} {len(right):>4}, right {sum(right) / len(right):.1%}")


def _unseen(document: Document) -> bool:
    split = split_of_document(document, validation_fraction=0.02, test_fraction=0.1, seed=0)
    return split == TEST


def is_right(made: Synthesised) -> bool:
    """Whether the answer is right for the kind of task that was asked for."""
    content = made.request.document.content
    texts, names = content["texts"], content["names"]
    source = next(code for code, text in texts.items() if text == made.input)
    if made.request.task_type == "date":
        return made.target == content["iso"]
    if made.request.task_type == "classification":
        return made.target == names[source]
    if source != "en":
        return made.target == texts["en"]
    asked = [code for code in texts if code != "en" and names[code] in made.instruction]
    return made.target in [texts[code] for code in asked or texts if code != "en"]


if __name__ == "__main__":
    app.run(main)
