import gzip
import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_runner import run_in_memory

from instructrec_jax.instructions.audit import audit, near_leaks
from instructrec_jax.instructions.demonstrations import (
    Demonstrable,
    FewShot,
    Pools,
    demonstration_count,
    with_demonstrations,
)
from instructrec_jax.instructions.document import Draft
from instructrec_jax.instructions.example import Demonstration, InstructionExample, Provenance
from instructrec_jax.instructions.templates import Template

BELOW = Template(id="t.below", style="terse", text="Double it.", file="t.toml")
INLINE = Template(id="t.inline", style="question", text="Twice {{ input }}?", file="t.toml")
POOL = tuple(
    Demonstrable(Draft({"input": str(n)}, target=str(2 * n)), document=f"d{n}", identity=f"i{n}")
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
    options = {"document": "d7", "template": BELOW, "count": 2, "seed": 0, "pool": POOL}
    return with_demonstrations(example, **(options | changes))


def test_demonstrations_are_phrased_like_the_question():
    example = question()
    few = shown(example, count=1)
    (solved,) = few.demonstrations
    assert solved.instruction == "Double it." and solved.target == str(2 * int(solved.input))
    assert replace(few, demonstrations=()) == example
    (solved,) = shown(question(INLINE), template=INLINE, count=1).demonstrations
    assert solved.instruction == f"Twice {solved.material}?" and solved.input == ""


@given(st.integers(0, 5), st.integers(0, 50), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_never_the_question_itself_and_whatever_the_order_of_the_pool(count, seed, number):
    example = question(number=number)
    changes = {"count": count, "seed": seed, "document": f"d{number}"}
    few = shown(example, **changes)
    numbers = [each.input for each in few.demonstrations]
    assert len(numbers) == count and len(set(numbers)) == count
    assert str(number) not in numbers
    # Neither the order nor the repetition of the pool matters.
    assert shown(example, pool=(*reversed(POOL), *POOL), **changes) == few


@pytest.mark.parametrize(
    "pool",
    [
        (),
        # Of the same document; the same question elsewhere, spelt otherwise.
        (Demonstrable(Draft({"input": "8"}, target="16"), document="d7", identity="a"),),
        (Demonstrable(Draft({"input": " 7 "}, target="14"), document="d", identity="b"),),
        (Demonstrable(Draft({"input": "7"}, target="15"), document="d", identity="c"),),
        # Another question with the same answer, which is no closed choice.
        (Demonstrable(Draft({"input": "15-1"}, target="14"), document="d", identity="e"),),
    ],
)
def test_nothing_that_gives_the_answer_away_is_shown(pool):
    example = question()
    assert shown(example, pool=pool, count=3) == example


def test_no_long_answer_stands_in_what_is_shown():
    answer = "The quick brown fox jumps over the lazy dog"
    example = replace(question(), target=answer)
    for draft in (
        Draft({"input": f"He wrote: {answer}."}, target="A fox"),
        Draft({"input": "x"}, target=f"Well, {answer.lower()}!"),
    ):
        assert shown(example, pool=[Demonstrable(draft, "d", "i")]) == example


def test_labels_may_be_shown_with_the_same_answer_and_single_answers_not():
    def pool(*numbers):
        return [Demonstrable(Draft({"input": str(n)}, target="14"), f"d{n}", "i") for n in numbers]

    # The question itself is none of the two others.
    for numbers in ((8,), (8, 7)):
        assert shown(question(), pool=pool(*numbers), document="d") == question()
    assert len(shown(question(), pool=pool(8, 9), document="d").demonstrations) == 2


def test_closed_choices_may_be_shown_with_the_same_answer():
    example = replace(question(), target="even", options=("even", "odd"))
    pool = [Demonstrable(Draft({"input": "8"}, target="even"), document="d", identity="a")]
    assert shown(example, pool=pool).demonstrations[0].target == "even"


def test_choice_hangs_on_seed_and_example():
    def chosen(**changes):
        return [shown(question(id=f"t-{n}"), **changes).demonstrations for n in range(20)]

    assert chosen() == chosen() and len(set(chosen())) > 5
    assert chosen() != chosen(seed=1)


def test_a_share_of_the_examples_gets_one_to_most():
    def counts(share, number=2_000):
        return [demonstration_count(f"t-{n}", share=share, most=4, seed=0) for n in range(number)]

    found = counts(0.3)
    assert found == counts(0.3) and set(found) == set(range(5))
    assert 0.26 < sum(map(bool, found)) / len(found) < 0.34
    assert not any(counts(0.0, 99)) and all(counts(1.0, 99))


examples = st.lists(
    st.builds(
        InstructionExample,
        id=st.text("abc", min_size=1, max_size=2),
        task=st.sampled_from("tu"),
        instruction=st.sampled_from(["Double it.", "Twice"]),
        input=st.sampled_from(["", "1", "2", " 2", "3", "4"]),
        target=st.sampled_from(["2", "4", "6", "8"]),
        template=st.sampled_from(["", "x"]),
        options=st.sampled_from([(), ("2", "4")]),
    ),
    max_size=12,
)


@given(examples, st.integers(0, 3), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_train_examples_show_one_another_in_any_order(given, seed, shuffle):
    given = list({example.id: example for example in given}.values())
    few_shot = FewShot(share=0.8, most=3, seed=seed)
    found = list(map(Pools(given, few_shot).shown_to, given))
    again = shuffle.sample(given, len(given))
    assert list(map(Pools(again, few_shot).shown_to, given)) == found
    for example, few in zip(given, found, strict=True):
        assert replace(few, demonstrations=()) == example
        assert len(few.demonstrations) <= 3
        asked = {(each.instruction, each.input.strip(), each.target) for each in few.demonstrations}
        assert len(asked) == len(few.demonstrations)
        others = [other for other in given if other.id != example.id and other.task == example.task]
        for each in few.demonstrations:
            same = {(other.instruction, other.input, other.target) for other in others}
            assert (each.instruction, each.input, each.target) in same
            assert each.input != example.input or not each.input
            # The same answer where it is a choice, or that of two other questions.
            with_it = {o.input.strip() or o.instruction for o in others if o.target == each.target}
            label = len(with_it - {example.input.strip() or example.instruction}) >= 2
            assert example.options or label or each.target != example.target


def test_large_pools_are_bounded_and_chosen_by_hash():
    given = [replace(question(id=f"t-{n}", number=n), template="") for n in range(3_000)]
    given[5] = replace(given[5], input="x" * 700)
    few_shot = FewShot(share=0.5, most=3, seed=1)
    pools = Pools(given, few_shot)
    random.Random(0).shuffle(given)
    assert pools._pools == Pools(given, few_shot)._pools
    found = [pools.shown_to(example) for example in given]
    shown = {each.input for example in found for each in example.demonstrations}
    assert 800 < len(shown) <= 1_024 and "x" * 700 not in shown
    own = replace(given[0], demonstrations=(Demonstration("a", "", "b"),))
    assert pools.shown_to(own) is own


def test_a_build_shows_train_questions_to_train_questions_alone(recipe):
    few = recipe(
        sources=("python_topics",),
        tasks=("name_topic", "restore_punctuation", "order_words"),
        styles=("imperative", "question", "terse"),
        demonstrations=0.5,
        most_demonstrations=2,
    )
    examples = built(few)
    plain = {example["id"]: example for example in built(replace(few, demonstrations=0.0))}
    assert {example["id"] for example in examples} == set(plain)
    held_out = {e["target"] for e in examples if e["split"] != "train"}
    shown = 0
    for example in examples:
        solved = example.pop("demonstrations", [])
        assert example == plain[example["id"]]
        if not solved:
            continue
        shown += 1
        assert example["split"] == "train" and len(solved) <= 2
        for each in solved:
            # Titles are the same in several splits and of several texts; sentences are not.
            if example["task"] != "name_topic":
                assert each["target"] not in held_out and each["target"] != example["target"]
            assert bool(each["input"]) == bool(example["input"]) != bool(each.get("material"))
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


def test_the_leak_audit_looks_at_what_is_shown():
    source = Provenance("c", "u", None, "0", "MIT", "g", 0)
    text = " ".join(f"word{n}" for n in range(40))
    test = replace(question(), split="test", material=text, input="", provenance=source)
    train = replace(question(number=3), split="train", provenance=replace(source, uri="v"))
    leak = Demonstration("Twice that?", "", test.target, material=text.upper())
    for few, leaks in ((train, 0), (replace(train, demonstrations=(leak,)), 1)):
        splits = {"test": [test], "validation": [], "train": [few]}
        found = audit(
            splits.__getitem__, held_out_templates=frozenset(), held_out_tasks=frozenset()
        )
        assert found.questions_and_answers_in_two_splits == leaks
        assert near_leaks(splits.__getitem__, similarity=0.8, words=30).found == leaks


def test_settings_that_cannot_be_followed(recipe):
    problems = recipe(demonstrations=1.5, most_demonstrations=0, styles=("rude",)).problems()
    assert [line.split(":")[0].split(" is")[0] for line in problems] == [
        "build.styles",
        "build.most_demonstrations",
        "build.demonstrations",
    ]
    assert recipe(styles=("imperative", "chinese"), demonstrations=1.0).problems() == [
        line
        for line in recipe(styles=("imperative", "chinese")).problems()
        if "holdout_phrasings" in line
    ]
