"""Standard benchmarks by file: `evaluate --benchmark=NAME --dataset=PATH`.

A benchmark is a reader (benchmark_files.py) and one entry in `BENCHMARKS`, which says how its
questions are put to the model and which metric decides.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from instructrec_jax.decoding.choosing import ChooseBy
from instructrec_jax.errors import ConfigError, nearest
from instructrec_jax.evaluation import benchmark_files
from instructrec_jax.evaluation.benchmark_files import BenchmarkData
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.few_shot import fitted_texts

# Examples to texts of at most `limit` tokens by `length`, each with how many shots it lacks.
Assemble = Callable[..., list[tuple[str, int]]]
# Changed examples and the name of a stage to a model's outputs.
Respond = Callable[[Sequence[InstructionExample], str], Sequence[str]]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    `shots` are shown where nothing else is asked for, `in_order` those that come first; `first`
    bounds the examples of a task, 0 = all. `choose_by` answers by the most probable option. With
    `by_prompt` figures are spread over prompts. `prepare` changes the examples by what the model
    says of those that are shown.
    """

    name: str
    title: str
    read: Callable[[Path], BenchmarkData]
    primary: str
    assemble: Assemble = fitted_texts
    choose_by: ChooseBy | None = None
    shots: int | None = None
    in_order: bool = False
    first: int = 0
    by_prompt: bool = False
    prepare: (
        Callable[
            [Sequence[InstructionExample], Sequence[InstructionExample], Respond],
            list[InstructionExample],
        ]
        | None
    ) = None


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name. Raises ConfigError for a name that is none."""
    if name not in BENCHMARKS:
        raise ConfigError(
            f"--benchmark={name}: unknown{nearest(name, BENCHMARKS)}; "
            f"there are {', '.join(BENCHMARKS)}"
        )
    return BENCHMARKS[name]


def super_ni_texts(
    examples: Sequence[InstructionExample], *, length: Callable[[str], int], limit: int
) -> list[tuple[str, int]]:
    """The official encoding (Tk-Instruct, Wang et al. 2022): definition, positive examples, input.

    Positive examples are taken in their order as long as the whole fits.
    """
    return [_super_ni_text(example, length=length, limit=limit) for example in examples]


def _super_ni_text(
    example: InstructionExample, *, length: Callable[[str], int], limit: int
) -> tuple[str, int]:
    definition = (
        f"{_ended(f'Definition: {example.instruction}')}\n\n" if example.instruction else ""
    )
    question = (
        f"Now complete the following example -\n{_ended(f'Input: {example.input.strip()}')}\n"
        "Output: "
    )
    shown = ""
    for number, each in enumerate(example.demonstrations):
        positive = (
            f" Positive Example {number + 1} -\n{_ended(f'Input: {each.input.strip()}')}\n"
            f"{_ended(f' Output: {each.target.strip()}')}\n\n"
        )
        if length(definition + shown + positive + question) > limit:
            return definition + shown + question, len(example.demonstrations) - number
        shown += positive
    return definition + shown + question, 0


def _ended(text: str) -> str:
    return text if text[-1] in string.punctuation else f"{text}."


def mmlu_texts(
    examples: Sequence[InstructionExample], *, length: Callable[[str], int], limit: int
) -> list[tuple[str, int]]:
    """The format of Hendrycks et al. (2021): subject, solved questions, question, "Answer:"."""
    return [_mmlu_text(example, length=length, limit=limit) for example in examples]


def _mmlu_text(
    example: InstructionExample, *, length: Callable[[str], int], limit: int
) -> tuple[str, int]:
    about = f" about {example.instruction}" if example.instruction else ""
    heading = f"The following are multiple choice questions (with answers){about}.\n\n"
    blocks = [f"{each.input}\nAnswer: {each.target}\n\n" for each in example.demonstrations]
    question = f"{example.input}\nAnswer:"
    left_out = 0
    # The last solved question goes first, as in the published evaluation.
    while blocks and length(heading + "".join(blocks) + question) > limit:
        blocks.pop()
        left_out += 1
    return heading + "".join(blocks) + question, left_out


def induced(
    examples: Sequence[InstructionExample],
    shown: Sequence[InstructionExample],
    respond: Respond,
) -> list[InstructionExample]:
    """The questions under the instruction that the model itself reads off the shown examples."""
    pairs: dict[str, list[str]] = {}
    for each in shown:
        pairs.setdefault(each.task, []).append(f"Input: {each.input}\nOutput: {each.target}")
    asked = [
        InstructionExample(
            id=task,
            task=task,
            instruction="Each output below was made from its input by the same instruction. "
            "Write that instruction.",
            input="\n\n".join(of_task),
            target="",
        )
        for task, of_task in pairs.items()
    ]
    instructions = dict(zip(pairs, respond(asked, "inducing"), strict=True))
    return [
        replace(example, instruction=instructions[example.task].strip()) for example in examples
    ]


BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="super_natural_instructions",
            title="Super-NaturalInstructions",
            read=benchmark_files.super_natural_instructions,
            primary="rouge_l",
            assemble=super_ni_texts,
            shots=2,
            first=100,
        ),
        Benchmark(
            name="t0",
            title="Rank classification over prompts, as for T0",
            read=benchmark_files.prompted_choices,
            primary="accuracy",
            choose_by="sum",
            by_prompt=True,
        ),
        Benchmark(
            name="mmlu",
            title="MMLU",
            read=benchmark_files.mmlu,
            primary="accuracy",
            assemble=mmlu_texts,
            choose_by="sum",
            shots=5,
            in_order=True,
        ),
        Benchmark(
            name="big_bench_hard",
            title="BIG-Bench-Hard",
            read=benchmark_files.big_bench_hard,
            primary="exact_match",
        ),
        Benchmark(
            name="instruction_induction",
            title="Instruction induction",
            read=benchmark_files.instruction_induction,
            primary="normalised_match",
            prepare=induced,
        ),
        Benchmark(
            name="human_eval",
            title="HumanEval: pass@1 by greedy search",
            read=benchmark_files.human_eval,
            primary="pass_rate",
        ),
        Benchmark(
            name="json_lines",
            title="JSON lines",
            read=benchmark_files.json_lines,
            primary="exact_match",
        ),
    )
}
