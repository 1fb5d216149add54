"""The hold-out protocol with planted models: a perfect one, a copying one, and hand figures."""

import json
from dataclasses import replace

import pytest
import sacrebleu

from instructrec_jax.evaluation.floors import copy_input, most_frequent_targets
from instructrec_jax.evaluation.metrics import LOSSES, METRICS
from instructrec_jax.evaluation.protocol import (
    Answer,
    choose_examples,
    evaluate_answers,
    holdout_order,
)
from instructrec_jax.instructions.example import InstructionExample


def example(index: int, task: str, holdout: str, **fields) -> InstructionExample:
    defaults = {
        "instruction": "Summarise the function.",
        "input": f"def function_{index}(): return {index}",
        "target": f"Return the number {index}.",
    }
    return InstructionExample(
        id=f"{task}/{index}", task=task, holdout=holdout, **{**defaults, **fields}
    )


EXAMPLES = [
    *(example(i, "summarise", "document") for i in range(3)),
    *(example(i, "summarise", "phrasing") for i in range(3, 5)),
    *(example(i, "explain", "document", input="") for i in range(5, 7)),
    example(7, "unseen", "task", references=("Another answer.",)),
    example(8, "loose", ""),
]
TEXT_METRICS = [metric.name for metric in METRICS][:6]
FREQUENT = most_frequent_targets(EXAMPLES, ())


def answer(output: str, *, logprob: float = -2.0, tokens: int = 4) -> Answer:
    return Answer(
        output=output, score=-1.0, stop_reason="eos", target_logprob=logprob, target_tokens=tokens
    )


def groups_of(figures):
    return [group for each in figures["tasks"].values() for group in each.values()]


def test_perfect_model_is_perfect_everywhere_and_beats_the_floors():
    evaluation = evaluate_answers(
        examples=EXAMPLES, answers=[answer(each.target) for each in EXAMPLES], frequent=FREQUENT
    )
    groups = groups_of(evaluation.figures) + list(evaluation.figures["macro"].values())
    for group in groups:
        assert set(group["model"]) == {*LOSSES, *TEXT_METRICS}
        for name in TEXT_METRICS:
            assert group["model"][name] == pytest.approx(1.0)
            assert group["intervals"][name] == pytest.approx([1.0, 1.0])
    for prediction in evaluation.predictions:
        assert [prediction[name] for name in TEXT_METRICS] == pytest.approx([1.0] * 6)
    # Counted on the answers themselves, the most frequent target is right now and then: that few
    # examples do not tell a perfect model from it. A tie is no win either.
    assert [group["beats_floors"] for group in groups_of(evaluation.figures)] == [
        False,
        False,
        False,
        True,
        False,
    ]
    taught = most_frequent_targets(EXAMPLES, [replace(each, target="No.") for each in EXAMPLES])
    figures = evaluate_answers(
        examples=EXAMPLES, answers=[answer(each.target) for each in EXAMPLES], frequent=taught
    ).figures
    assert {group["verdict"] for group in groups_of(figures)} == {"above (few)"}


def test_a_win_on_few_examples_is_marked_and_chance_is_no_win():
    few = [example(i, "summarise", "document") for i in range(29)]
    many = [example(i, "long", "document") for i in range(30)]
    chance = [example(i, "chance", "document") for i in range(30)]
    examples = [*few, *many, *chance]
    # On "chance" it copies the input; but once it knows, which leaves it above in the mean.
    answers = [
        answer(copy_input(each, {}) if each.task == "chance" and each.id != "chance/7" else target)
        for each in examples
        for target in [each.target]
    ]
    frequent = most_frequent_targets(examples, [example(99, "chance", "", target="-")])
    figures = evaluate_answers(examples=examples, answers=answers, frequent=frequent).figures
    groups = {task: each["document"] for task, each in figures["tasks"].items()}
    assert groups["summarise"]["verdict"] == "above (few)"
    assert groups["long"]["verdict"] == "above"
    assert groups["long"]["difference_to_best_floor"]["low"] > 0
    assert groups["chance"]["best_floor"] == "copy_input"
    assert groups["chance"]["difference_to_best_floor"]["value"] > 0
    assert groups["chance"]["verdict"] == "not above"
    assert figures["macro"]["document"]["tasks_beating_floors"] == 2
    assert figures["macro"]["document"]["tasks_beating_floors_few"] == 1
    assert figures["summary"]["tasks_beating_floors"] == 2
    assert figures["summary"]["tasks_beating_floors_few"] == 1


def test_copying_model_equals_the_copy_floor_exactly_and_never_beats():
    answers = [answer(copy_input(each, FREQUENT)) for each in EXAMPLES]
    figures = evaluate_answers(examples=EXAMPLES, answers=answers, frequent=FREQUENT).figures
    for group in groups_of(figures) + list(figures["macro"].values()):
        assert set(group["floors"]["copy_input"]) == set(TEXT_METRICS)
        for name in TEXT_METRICS:
            assert group["model"][name] == group["floors"]["copy_input"][name]
    assert not any(group["beats_floors"] for group in groups_of(figures))
    assert figures["summary"]["tasks_beating_floors"] == 0
    assert figures["summary"]["groups_beating_floors"] == 0


def test_losses_macro_and_summary_by_hand():
    answers = [
        answer("?", logprob=-6.0, tokens=3),
        answer("?", logprob=-2.0, tokens=1),
        answer("?", logprob=-4.0, tokens=4),
        *(answer("?") for _ in range(2)),
        *(answer("?", logprob=-1.0, tokens=1) for _ in range(2)),
        *(answer("?") for _ in range(2)),
    ]
    figures = evaluate_answers(examples=EXAMPLES, answers=answers, frequent=FREQUENT).figures
    document = figures["tasks"]["summarise"]["document"]
    assert document["examples"] == 3
    assert document["model"]["loss_per_token"] == 12 / 8
    assert document["model"]["loss_per_sequence"] == 4.0
    macro = figures["macro"]["document"]
    assert macro["tasks"] == 2
    assert macro["examples"] == 5
    assert macro["model"]["loss_per_token"] == (1.5 + 1.0) / 2
    assert macro["model"]["loss_per_sequence"] == (4.0 + 1.0) / 2
    assert macro["floors"]["copy_input"]["chrf"] == pytest.approx(
        sum(
            sacrebleu.corpus_chrf(
                [copy_input(each, FREQUENT) for each in group], [[each.target for each in group]]
            ).score
            / 100
            for group in (EXAMPLES[:3], EXAMPLES[5:7])
        )
        / 2
    )
    assert figures["summary"] == {
        "tasks_beating_floors": 0,
        "tasks_beating_floors_few": 0,
        "tasks": 4,
        "groups_beating_floors": 0,
        "groups_beating_floors_few": 0,
        "groups": 5,
        "examples": 9,
    }
    assert list(figures["macro"]) == ["document", "phrasing", "task", "all"]
    low, high = document["intervals"]["loss_per_token"]
    assert 1 <= low <= 1.5 <= high <= 2


def test_a_reference_other_than_the_target_counts():
    answers = [answer("Another answer.") for _ in EXAMPLES]
    figures = evaluate_answers(examples=EXAMPLES, answers=answers, frequent=FREQUENT).figures
    assert figures["tasks"]["unseen"]["task"]["model"]["exact_match"] == 1.0
    assert figures["tasks"]["loose"]["all"]["model"]["exact_match"] == 0.0


def test_records_are_json_and_hold_the_contract_keys():
    evaluation = evaluate_answers(
        examples=EXAMPLES, answers=[answer("?") for _ in EXAMPLES], frequent=FREQUENT
    )
    json.dumps(evaluation.figures, allow_nan=False)
    keys = {
        "id",
        "task",
        "holdout",
        "instruction",
        "input",
        "target",
        "references",
        "output",
        "score",
        "exact_match",
        "chrf",
        "rouge_l",
    }
    for record in evaluation.predictions:
        assert keys <= set(json.loads(json.dumps(record, allow_nan=False)))


def test_holdouts_stand_in_the_protocols_order():
    names = ["all", "zebra", "task", "document", "ant", "phrasing", "composition"]
    assert sorted(names, key=holdout_order) == [
        "document",
        "phrasing",
        "task",
        "composition",
        "ant",
        "zebra",
        "all",
    ]


def test_choosing_keeps_order_and_counts_per_group():
    many = [example(i, task, "document") for i in range(20) for task in ("a", "b")]
    chosen = choose_examples(many, max_examples_per_task=5)
    assert [each.task for each in chosen].count("a") == 5
    assert len(chosen) == 10
    assert [many.index(each) for each in chosen] == sorted(many.index(each) for each in chosen)
    assert chosen != [*many[:10]]
    # The choice of an example does not depend on where it stands.
    assert set(choose_examples(many[::-1], max_examples_per_task=5)) == set(chosen)
    assert choose_examples(many, max_examples_per_task=0) == many


def test_one_answer_for_each_example():
    with pytest.raises(ValueError, match="9 examples and 1 answers"):
        evaluate_answers(examples=EXAMPLES, answers=[answer("?")], frequent=FREQUENT)


def test_options_code_and_another_primary_metric():
    examples = [
        replace(
            example(i, "judge", "document"), target="yes" if i % 2 else "no", options=("yes", "no")
        )
        for i in range(40)
    ]
    answers = [answer(each.target if i != 7 else "maybe") for i, each in enumerate(examples)]
    frequent = most_frequent_targets(examples, ())

    def passes(examples, outputs):
        return [None if i % 4 else output == "no" for i, output in enumerate(outputs)]

    evaluation = evaluate_answers(
        examples=examples,
        answers=answers,
        frequent=frequent,
        untrained=["x"] * 40,
        passes=passes,
        primary="accuracy",
    )
    group = evaluation.figures["tasks"]["judge"]["document"]
    assert group["model"]["accuracy"] == 39 / 40
    # yes: 19 right, 1 missed; no: 20 right.
    assert group["model"]["macro_f1"] == pytest.approx((38 / 39 + 1) / 2)
    assert group["model"]["pass_rate"] == 1.0
    assert group["floors"]["untrained"]["accuracy"] == 0
    assert group["floors"]["most_frequent_target"]["accuracy"] == 0.5
    assert group["primary_metric"] == evaluation.figures["primary_metric"] == "accuracy"
    assert group["verdict"] == "above"
    assert evaluation.predictions[7]["accuracy"] == 0.0
    assert [each["passed"] for each in evaluation.predictions[:5]] == [True, None, None, None, True]
    # Examples without options leave chrF to decide.
    mixed = evaluate_answers(
        examples=[*examples, *EXAMPLES],
        answers=[*answers, *(answer("?") for _ in EXAMPLES)],
        frequent=most_frequent_targets([*examples, *EXAMPLES], ()),
        primary="accuracy",
    ).figures
    assert mixed["primary_metric"] == "chrf"
    assert mixed["macro"]["document"]["model"]["accuracy"] == 39 / 40
