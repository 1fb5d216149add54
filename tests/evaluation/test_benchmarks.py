"""Benchmarks by file: small files of our own in each published layout, and broken ones."""

import gzip
import json

import pytest

from instructrec_jax.errors import ConfigError, DataError
from instructrec_jax.evaluation.benchmarks import BENCHMARKS, find_benchmark
from instructrec_jax.evaluation.code_checks import checks_of
from instructrec_jax.evaluation.protocol import cluster_of
from instructrec_jax.evaluation.shots import with_shots
from instructrec_jax.instructions.execution import Sandbox

NI_TASK = {
    "Contributors": ["x"],
    "Definition": ["Say the opposite of the word"],
    "Positive Examples": [
        {"input": "hot", "output": "cold", "explanation": "-"},
        {"input": "up.", "output": "down", "explanation": "-"},
    ],
    "Negative Examples": [],
    "Instances": [
        {"id": "t-1", "input": "left", "output": ["right", "Right"]},
        {"id": "t-2", "input": "wet", "output": ["dry"]},
    ],
}
CHOICE = {
    "id": "q1",
    "task": "entail",
    "options": ["yes", "no"],
    "target": "no",
    "prompts": {"short": "Is it so?", "long": "Does this follow from that?"},
}
EVAL = {
    "task_id": "own/0",
    "prompt": "from typing import List\n\n\n"
    'def twice(xs: List[int]) -> List[int]:\n    """Each."""\n',
    "test": "def check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n"
    "    assert candidate([]) == []\n",
    "entry_point": "twice",
    "canonical_solution": "    return [2 * x for x in xs]\n",
}


def words(text):
    return len(text.split())


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1), "utf-8")
    return path


def texts(name, examples, limit=1_000):
    return BENCHMARKS[name].assemble(examples, length=words, limit=limit)


def test_super_natural_instructions(tmp_path):
    write(tmp_path / "task1_opposites.json", NI_TASK)
    write(tmp_path / "task2_other.json", {**NI_TASK, "Positive Examples": []})
    benchmark = find_benchmark("super_natural_instructions")
    data = benchmark.read(tmp_path)
    assert [each.task for each in data.examples] == ["task1_opposites"] * 2 + ["task2_other"] * 2
    first = data.examples[0]
    assert (first.id, first.target, first.references) == ("t-1", "right", ("right", "Right"))
    assert (benchmark.primary, benchmark.shots, benchmark.first) == ("rouge_l", 2, 100)
    shown = with_shots(data.examples[:2], [], shots=1)
    (text, left_out), _ = texts(benchmark.name, shown)
    assert left_out == 0
    assert text == (
        "Definition: Say the opposite of the word.\n\n"
        " Positive Example 1 -\nInput: hot.\n Output: cold.\n\n"
        "Now complete the following example -\nInput: left.\nOutput: "
    )
    # A full stop is not doubled, and examples are left out whole.
    (text, left_out), _ = texts(benchmark.name, data.examples[:2], limit=24)
    assert ("up." in text, left_out) == (False, 1)
    (text, left_out), _ = texts(benchmark.name, data.examples[:2])
    assert "Input: up.\n" in text and left_out == 0


def test_the_repositorys_list_of_test_tasks(tmp_path):
    write(tmp_path / "splits" / "default" / "test_tasks.txt", "task1_opposites\n")
    write(tmp_path / "tasks" / "task1_opposites.json", NI_TASK)
    write(tmp_path / "tasks" / "task9_train.json", NI_TASK)
    data = find_benchmark("super_natural_instructions").read(tmp_path)
    assert {each.task for each in data.examples} == {"task1_opposites"}


def test_prompted_choices(tmp_path):
    other = {
        **CHOICE,
        "id": "q2",
        "prompts": [{"template": "own", "prompt": "?", "options": ["a", "b"], "target": "b"}],
    }
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, [CHOICE, other])))
    benchmark = find_benchmark("t0")
    examples = benchmark.read(path).examples
    assert [(each.id, each.template, each.target) for each in examples] == [
        ("q1/short", "short", "no"),
        ("q1/long", "long", "no"),
        ("q2/own", "own", "b"),
    ]
    assert (benchmark.choose_by, benchmark.by_prompt) == ("sum", True)
    assert examples[2].options == ("a", "b")


def test_mmlu(tmp_path):
    rows = '"What, is 1 + 1?",1,2,3,4,B\n"Two\nlines?",a,b,c,d,D\n'
    write(tmp_path / "test" / "easy_sums_test.csv", rows)
    dev = "".join(f"How much is {n}?,{n},x,y,z,A\n" for n in range(6))
    write(tmp_path / "dev" / "easy_sums_dev.csv", dev)
    benchmark = find_benchmark("mmlu")
    data = benchmark.read(tmp_path)
    assert [each.target for each in data.examples] == ["B", "D"]
    asked = with_shots(data.examples, data.shown, shots=5, in_order=benchmark.in_order)
    (text, left_out), _ = texts("mmlu", asked)
    assert text.startswith(
        "The following are multiple choice questions (with answers) about easy sums.\n\n"
        "How much is 0?\nA. 0\nB. x\nC. y\nD. z\nAnswer: A\n\nHow much is 1?"
    )
    assert text.endswith(
        "How much is 4?\nA. 4\nB. x\nC. y\nD. z\nAnswer: A\n\n"
        "What, is 1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    )
    (text, left_out), _ = texts("mmlu", asked, limit=60)
    assert (left_out, "How much is 2?" in text, "How much is 1?" in text) == (3, False, True)
    # A file alone finds the solved questions of its subject beside it.
    alone = benchmark.read(tmp_path / "test" / "easy_sums_test.csv")
    assert len(alone.shown) == 6


def test_big_bench_hard(tmp_path):
    write(tmp_path / "sports.json", {"canary": "-", "examples": [{"input": "Q?", "target": "yes"}]})
    write(tmp_path / "logic.jsonl", '{"input": "P?", "target": "(A)"}\n')
    data = find_benchmark("big_bench_hard").read(tmp_path)
    assert [(each.task, each.input, each.target) for each in data.examples] == [
        ("logic", "P?", "(A)"),
        ("sports", "Q?", "yes"),
    ]
    assert texts("big_bench_hard", data.examples)[0] == ("P?", 0)


def test_instruction_induction(tmp_path):
    pairs = {str(n): {"input": f"w{n}", "output": f"W{n}"} for n in range(1, 9)}
    file = write(tmp_path / "upper.json", {"metadata": {}, "examples": pairs})
    write(tmp_path / "raw" / "induce" / "upper.json", {"examples": pairs})
    write(tmp_path / "raw" / "execute" / "upper.json", {"examples": {"1": pairs["8"]}})
    benchmark = find_benchmark("instruction_induction")
    alone, split = benchmark.read(file), benchmark.read(tmp_path / "raw")
    assert [each.id for each in alone.examples] == ["upper-6", "upper-7", "upper-8"]
    assert [each.id for each in split.examples] == ["upper-1"]

    def respond(asked, stage):
        assert stage == "inducing"
        for each in asked:
            assert each.input.startswith("Input: w1\nOutput: W1\n\nInput: w2")
            assert "w5" in each.input and "w6" not in each.input
        return [" Write it in capitals. " for _ in asked]

    for data in (alone, split):
        examples = benchmark.prepare(data.examples, data.shown, respond)
        assert {each.instruction for each in examples} == {"Write it in capitals."}
        assert [each.input for each in examples] == [each.input for each in data.examples]


def test_no_order_of_a_shown_pair_is_asked(tmp_path):
    pairs = {str(n): {"cause": f"c{n}", "effect": f"e{n}"} for n in range(5)}
    path = write(tmp_path / "cause_and_effect.json", {"examples": pairs})
    data = find_benchmark("instruction_induction").read(path)
    assert [each.target for each in data.shown] == ["c0", "c0", "c1", "c1", "c2"]
    assert [each.target for each in data.examples] == ["c3", "c3", "c4", "c4"]


def test_the_published_shapes_of_induction(tmp_path):
    shapes = [
        {"cause": "It rained.", "effect": "It is wet."},
        {"items": ["moon", "sun"], "all_common_concepts": ["are in the sky", "shine"]},
        {"input": "rate", "output": "late", "other_rhymes": ["fate", "late"]},
        {"input": "day", "possible_translations": ["Tag"]},
    ]
    examples = {str(n): each for n, each in enumerate([{"input": "a", "output": "b"}] * 5 + shapes)}
    path = write(tmp_path / "mixed.json", {"examples": examples})
    found = find_benchmark("instruction_induction").read(path).examples
    assert [(each.id, each.input, each.target, each.references) for each in found] == [
        ("mixed-5/order-1", "Sentence 1: It rained. Sentence 2: It is wet.", "It rained.", ()),
        ("mixed-5/order-2", "Sentence 1: It is wet. Sentence 2: It rained.", "It rained.", ()),
        ("mixed-6", "moon, sun", "are in the sky", ("are in the sky", "shine")),
        ("mixed-7", "rate", "late", ("late", "fate")),
        ("mixed-8", "day", "Tag", ()),
    ]
    assert [cluster_of(each) for each in found[:3]] == ["mixed-5", "mixed-5", "mixed-6"]


def test_human_eval(tmp_path):
    path = tmp_path / "own.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(EVAL).encode()))
    benchmark = find_benchmark("human_eval")
    data = benchmark.read(path)
    (example,) = data.examples
    assert (example.id, example.task, example.input) == ("own/0", "own", EVAL["prompt"])
    check = data.checks["own/0"]
    whole = "```python\ndef twice(xs):\n    return [x + x for x in xs]\n```"
    answers = {
        example.target: True,
        # Cut where another definition begins, as in the published evaluation.
        f"{example.target}\ndef broken(:\n": True,
        whole: True,
        "    return xs": False,
        "    import os\n    return [2 * x for x in xs]": False,
        "    return open('/etc/passwd')": False,
        "nonsense": False,
    }
    with Sandbox(seconds=2.0) as sandbox:
        assert {text: check(sandbox, text) for text in answers} == answers


def test_human_eval_tests_may_draw_and_copy_and_bad_solutions_judge_nothing(tmp_path):
    drawing = """
import copy, random, string
def check(candidate):
    from random import choice, randint
    rng = random.Random(42)
    for _ in range(20):
        xs = [rng.randint(-10, 10) for _ in range(randint(1, 9))]
        assert candidate(copy.deepcopy(xs)) == helper(xs)
        assert choice(string.ascii_letters).isalpha()
"""
    prompt = "def helper(xs):\n    return [2 * x for x in xs]\n\n\n" + EVAL["prompt"]
    solution = "    print(xs)\n    return [2 * x for x in xs]\n"
    record = {**EVAL, "prompt": prompt, "test": drawing, "canonical_solution": solution}
    records = [
        {**record, "task_id": "drawing"},
        {**record, "task_id": "wrong", "canonical_solution": "    return xs\n"},
        {**record, "task_id": "unsolved", "canonical_solution": None},
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), "utf-8")
    data = find_benchmark("human_eval").read(path)
    with Sandbox(seconds=2.0) as sandbox:
        checks, failing = checks_of(data.examples, sandbox, data.checks)
        assert (sorted(checks), failing) == (["drawing", "unsolved"], ["wrong"])
        assert checks["unsolved"](sandbox, solution)
        for wrong in ("    return xs", "    import random\n    return [2 * x for x in xs]"):
            assert not checks["drawing"](sandbox, wrong)


NI, T0 = "super_natural_instructions", "t0"
BROKEN = [
    (NI, '{"Definition": ["x"],\n "Instances": [\n', r":3: not JSON"),
    (NI, {**NI_TASK, "Definition": [3]}, r":5: `Definition` is no text"),
    (NI, {**NI_TASK, "Instances": []}, r":21: `Instances` is no list with entries"),
    (NI, {**NI_TASK, "Instances": [{"input": "a", "output": ["b"]}, {"input": "a"}]},
     r":28 \(Instances\[1\]\): `output` is neither"),
    (T0, '{"id": "1"}', r":1: `prompts` is neither"),
    (T0, json.dumps(CHOICE) + "\n" + json.dumps({**CHOICE, "target": "maybe"}),
     r":2: the target 'maybe' is none of the options"),
    (T0, json.dumps(CHOICE) + "\n{", r":2: not JSON"),
    ("mmlu", "q,a,b,c,d,A\nq,a,b,c,d\n", r":2: 5 columns; expected 6"),
    ("mmlu", "q,a,b,c,d,E\n", r":1: the answer is 'E'"),
    ("big_bench_hard", {"examples": [{"input": "x"}]},
     r":3 \(examples\[0\]\): `target` is missing"),
    ("instruction_induction", {"examples": {"1": {"input": "a", "output": 3}}},
     r":3: `output` is no text but int"),
    ("instruction_induction", {"examples": {"1": {"input": "a", "output": "b"}}},
     r"1 examples; 5 are shown"),
    ("human_eval", json.dumps({**EVAL, "test": "def check(:"}), r":1: `test` is not Python"),
    ("human_eval", json.dumps({**EVAL, "entry_point": "a b"}), r":1: `prompt` begins no function"),
    ("human_eval", f"{json.dumps(EVAL)}\n{json.dumps(EVAL)}", r":2: `task_id` 'own/0' stands"),
    ("mmlu", "\n", "no questions"),
    ("instruction_induction", {"examples": {"1": {"items": [], "all_common_concepts": ["x"]}}},
     r":3: `items` is no list with entries"),
    ("human_eval", "\n" + json.dumps({"task_id": "x"}), r":2: `prompt` is missing"),
    ("json_lines", '{"instruction": "a"}', r":1: no known fields"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "contents", "message"), BROKEN)
def test_one_error_names_file_and_line(name, contents, message, tmp_path):
    suffix = {"mmlu": ".csv", T0: ".jsonl", "human_eval": ".jsonl", "json_lines": ".jsonl"}
    path = write(tmp_path / f"broken{suffix.get(name, '.json')}", contents)
    with pytest.raises(DataError, match=rf"broken\.\w+{message}|broken\.\w+: {message}"):
        find_benchmark(name).read(path)


def test_missing_files_and_names(tmp_path):
    for name in set(BENCHMARKS) - {"json_lines"}:
        with pytest.raises(DataError, match="nowhere"):
            find_benchmark(name).read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no file named \*.csv"):
        find_benchmark("mmlu").read(tmp_path)
    with pytest.raises(ConfigError, match="--benchmark=mmlo: unknown; did you mean 'mmlu'"):
        find_benchmark("mmlo")
