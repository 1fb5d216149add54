import gzip
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_runner import run_in_memory

from instructrec_jax.instructions.demonstrations import (
    MOST_DEMONSTRATIONS,
    Demonstration,
    demonstration_count,
    with_demonstrations,
)
from instructrec_jax.instructions.document import Draft
from instructrec_jax.instructions.example import InstructionExample, encoder_text
from instructrec_jax.instructions.templates import Template

BELOW = Template(id="t.below", style="terse", text="Double it.", file="t.toml")
INLINE = Template(id="t.inline", style="question", text="Twice {{ input }}?", file="t.toml")
POOL = tuple(
    Demonstration(Draft({"input": str(n)}, target=str(2 * n)), document=f"d{n}", identity=f"i{n}")
    for n in range(1, 13)
)


def question(template=BELOW, *, id="t-1", number=7):
    draft = Draft({"input": str(number)}, target=str(2 * number))
    instruction, text = template.render(draft)
    return InstructionExample(
        id=id,
        task="t",
        instruction=instruction,
        input=text,
        material="" if text else draft.input,
        target=draft.target,
        template=template.id,
    )


def shown(example, **changes):
    options = {"document": "d7", "template": BELOW, "count": 2, "budget": 10_000, "seed": 0}
    return with_demonstrations(example, POOL, **(options | changes))


def test_demonstrations_stand_in_front_in_the_question_s_own_phrasing():
    example = question()
    few = shown(example, count=1)
    first, rest = encoder_text(few.instruction, few.input).split("\n\n", 1)
    assert first == "Double it."
    number, answer, again, asked = rest.replace("\n\n", "\n").split("\n")
    assert answer == f"Answer: {2 * int(number)}" and (again, asked) == ("Double it.", "7")
    assert replace(few, instruction=example.instruction) == example
    inline = shown(question(INLINE), template=INLINE, count=1)
    first, answer, last = inline.instruction.replace("\n\n", "\n").split("\n")
    assert first.startswith("Twice ") and answer.startswith("Answer: ") and last == "Twice 7?"
    assert inline.input == "" and inline.material == "7"


def test_long_answers_begin_a_line():
    pool = [Demonstration(Draft({"input": "x"}, target="a\nb"), document="d", identity="i")]
    few = with_demonstrations(
        question(), pool, document="e", template=BELOW, count=1, budget=99, seed=0
    )
    assert "\nAnswer:\na\nb\n\nDouble it." in few.instruction


@given(st.integers(0, 5), st.integers(0, 400), st.integers(0, 50), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_within_the_budget_and_never_the_question_itself(count, budget, seed, number):
    example = question(number=number)
    changes = {"count": count, "budget": budget, "seed": seed, "document": f"d{number}"}
    few = shown(example, **changes)
    text = encoder_text(few.instruction, few.input)
    asked = text.split("Double it.\n\n")[1:]
    numbers = [part.split("\n")[0] for part in asked[:-1]]
    assert len(numbers) <= count and len(set(numbers)) == len(numbers)
    assert str(number) not in numbers
    assert len(text) <= budget or few == example
    # Neither the order nor the repetition of the pool matters.
    again = with_demonstrations(example, (*reversed(POOL), *POOL), template=BELOW, **changes)
    assert again == few


def test_one_that_does_not_fit_makes_room_for_the_next():
    long = Demonstration(Draft({"input": "x" * 500}, target="y"), document="long", identity="0")
    for seed in range(8):
        few = with_demonstrations(
            question(), (long, *POOL), document="d7", template=BELOW, count=2, budget=120, seed=seed
        )
        assert few.instruction.count("Answer:") == 2 and "xxx" not in few.instruction


def test_the_budget_may_be_of_tokens():
    def words(text):
        return len(text.split())

    few = shown(question(), count=3, budget=12, length=words)
    assert few.instruction.count("Answer:") == 1
    assert words(encoder_text(few.instruction, few.input)) <= 12


@pytest.mark.parametrize(
    "pool",
    [
        (),
        # Of the same document; the same question elsewhere, spelt otherwise.
        (Demonstration(Draft({"input": "8"}, target="16"), document="d7", identity="a"),),
        (Demonstration(Draft({"input": " 7 "}, target="14"), document="d", identity="b"),),
        (Demonstration(Draft({"input": "7"}, target="15"), document="d", identity="c"),),
        # Another question with the same answer, which is no closed choice.
        (Demonstration(Draft({"input": "15-1"}, target="14"), document="d", identity="e"),),
    ],
)
def test_nothing_that_gives_the_answer_away_is_shown(pool):
    example = question()
    options = {"document": "d7", "template": BELOW, "count": 3, "budget": 999, "seed": 0}
    assert with_demonstrations(example, pool, **options) == example


def test_closed_choices_may_be_shown_with_the_same_answer():
    example = replace(question(), target="even", options=("even", "odd"))
    pool = [Demonstration(Draft({"input": "8"}, target="even"), document="d", identity="a")]
    few = with_demonstrations(
        example, pool, document="e", template=BELOW, count=1, budget=99, seed=0
    )
    assert "Answer: even" in few.instruction


def test_choice_hangs_on_seed_and_example():
    def chosen(**changes):
        return [shown(question(id=f"t-{n}"), **changes).instruction for n in range(20)]

    assert chosen() == chosen() and len(set(chosen())) > 5
    assert chosen() != chosen(seed=1)


def test_a_share_of_the_examples_gets_one_to_three():
    counts = [demonstration_count(f"t-{n}", share=0.3, seed=0) for n in range(2_000)]
    assert counts == [demonstration_count(f"t-{n}", share=0.3, seed=0) for n in range(2_000)]
    assert set(counts) == set(range(MOST_DEMONSTRATIONS + 1))
    assert 0.26 < sum(map(bool, counts)) / len(counts) < 0.34
    assert not any(demonstration_count(f"t-{n}", share=0.0, seed=0) for n in range(99))
    assert all(demonstration_count(f"t-{n}", share=1.0, seed=0) for n in range(99))


def test_a_build_shows_train_questions_to_train_questions_alone(recipe):
    few = recipe(
        sources=("python_topics",),
        tasks=("name_topic", "restore_punctuation", "order_words"),
        styles=("imperative", "question", "terse"),
        demonstrations=0.5,
        demonstration_characters=1_200,
    )
    examples = built(few)
    plain = {example["id"]: example for example in built(replace(few, demonstrations=0.0))}
    assert {example["id"] for example in examples} == set(plain)
    held_out = {e["target"] for e in examples if e["split"] != "train"}
    shown = 0
    for example in examples:
        own = plain[example["id"]]
        instruction = example["instruction"]
        assert instruction.endswith(own["instruction"])
        assert {**example, "instruction": ""} == {**own, "instruction": ""}
        if instruction == own["instruction"]:
            continue
        shown += 1
        assert example["split"] == "train"
        front = instruction[: -len(own["instruction"])]
        answers = [part.split("\n")[0] for part in front.split("\nAnswer: ")[1:]]
        assert 1 <= len(answers) <= MOST_DEMONSTRATIONS
        # Titles are the same in several splits by nature; sentences are not.
        assert example["task"] == "name_topic" or not held_out & set(answers)
        assert example["target"] not in answers
        assert len(instruction) + len(example["input"]) <= 1_200
    train = sum(example["split"] == "train" for example in examples)
    assert 0.3 * train < shown < 0.6 * train


def built(recipe):
    _, files = run_in_memory(recipe)
    return [
        json.loads(line)
        for name in sorted(files)
        if name.startswith(("train", "validation", "test"))
        for line in gzip.decompress(files[name]).splitlines()
    ]


def test_settings_that_cannot_be_followed(recipe):
    problems = recipe(demonstrations=1.5, demonstration_characters=0, styles=("rude",)).problems()
    assert [line.split(":")[0].split(" is")[0] for line in problems] == [
        "build.styles",
        "build.demonstration_characters",
        "build.demonstrations",
    ]
    assert recipe(styles=("imperative", "chinese"), demonstrations=1.0).problems() == [
        line
        for line in recipe(styles=("imperative", "chinese")).problems()
        if "holdout_phrasings" in line
    ]
