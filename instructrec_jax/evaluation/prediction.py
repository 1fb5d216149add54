"""A model's answers to instruction examples: its own output, and how likely the target was."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from instructrec_jax.data.tokenizer import Tokenizer
from instructrec_jax.decoding.choosing import Choice, ChooseBy, choose
from instructrec_jax.decoding.generate import generate
from instructrec_jax.decoding.prompts import CONTENT_FREE
from instructrec_jax.decoding.scoring import score
from instructrec_jax.evaluation.protocol import Answer
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.few_shot import fitted_texts, token_length
from instructrec_jax.model.config import T5Config

# Examples to encoder texts of a greatest length, each with how many demonstrations it lacks.
Assemble = Callable[..., list[tuple[str, int]]]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Respondent:
    """A model, and how questions are put to it.

    `assemble(examples, length=..., limit=...)` makes the encoder's texts (`few_shot.fitted_texts`,
    or a benchmark's own). With `choose_by`, examples with options are answered by the most probable
    of these (`decoding.choosing`) instead of by greedy search. `parse_sentinels`, as in training:
    whether "<extra_id_0>" in a text is the sentinel token.
    """

    params: Any
    config: T5Config
    tokenizer: Tokenizer
    batch_size: int
    max_new_tokens: int
    encoder_length: int
    parse_sentinels: bool = False
    assemble: Assemble = fitted_texts
    choose_by: ChooseBy | None = None
    progress: Progress | None = None

    def outputs(
        self, examples: Sequence[InstructionExample], *, stage: str = "answering"
    ) -> list[Answer]:
        """Answers without their targets' log-probabilities, in the order of the examples."""
        texts = self._texts(examples)
        chosen = [self.choose_by is not None and bool(example.options) for example in examples]
        ranked = iter(self._ranked(examples, texts, chosen, stage))
        written = iter(
            self._written([t for t, c in zip(texts, chosen, strict=True) if not c], stage)
        )
        return [next(ranked) if choose else next(written) for choose in chosen]

    def target_scores(
        self, examples: Sequence[InstructionExample], *, stage: str = "scoring targets"
    ) -> list[tuple[float, int]]:
        """Summed log-probability of each target, eos included, and its number of tokens."""
        scores = score(
            self.params,
            self.config,
            self.tokenizer,
            [text for text, _ in self._texts(examples)],
            [example.target for example in examples],
            batch_size=self.batch_size,
            encoder_length=self.encoder_length,
            parse_sentinels=self.parse_sentinels,
            progress=self._progress_of(stage, len(examples)),
        )
        return [(each.logprob, len(each.token_logprobs)) for each in scores]

    def _texts(self, examples: Sequence[InstructionExample]) -> list[tuple[str, int]]:
        encode = partial(self.tokenizer.encode_batch, parse_sentinels=self.parse_sentinels)
        length = token_length(encode)
        return self.assemble(examples, length=length, limit=self.encoder_length)

    def _progress_of(self, stage: str, total: int) -> Callable[[int], None] | None:
        progress = self.progress
        return None if progress is None else lambda done: progress(stage, done, total)

    def _written(self, texts: Sequence[tuple[str, int]], stage: str) -> list[Answer]:
        if not texts:
            return []
        generations = generate(
            self.params,
            self.config,
            self.tokenizer,
            [text for text, _ in texts],
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            encoder_length=self.encoder_length,
            parse_sentinels=self.parse_sentinels,
            progress=self._progress_of(stage, len(texts)),
        )
        return [
            Answer(
                output=generation.output,
                score=generation.score,
                stop_reason=generation.stop_reason,
                target_logprob=math.nan,
                target_tokens=0,
                input_cut=generation.truncated,
                demonstrations_left_out=left_out,
                confidence=math.exp(min(generation.score, 0.0)),
            )
            for generation, (_, left_out) in zip(generations, texts, strict=True)
        ]

    def _ranked(
        self,
        examples: Sequence[InstructionExample],
        texts: Sequence[tuple[str, int]],
        chosen: Sequence[bool],
        stage: str,
    ) -> list[Answer]:
        asked = [place for place, choose in enumerate(chosen) if choose]
        if not asked:
            return []
        assert self.choose_by is not None
        # What an option's probability is where the question says nothing, for calibration.
        empty = [
            replace(examples[place], input=CONTENT_FREE)
            if examples[place].input
            else replace(examples[place], instruction=CONTENT_FREE)
            for place in asked
        ]
        choices = choose(
            self.params,
            self.config,
            self.tokenizer,
            [texts[place][0] for place in asked],
            [examples[place].options for place in asked],
            batch_size=self.batch_size,
            encoder_length=self.encoder_length,
            parse_sentinels=self.parse_sentinels,
            content_free=[text for text, _ in self._texts(empty)],
            progress=self._progress_of(f"{stage} by choice", len(asked)),
        )
        return [
            _chosen(examples[place], choice, by=self.choose_by, left_out=texts[place][1])
            for place, choice in zip(asked, choices, strict=True)
        ]


def _chosen(example: InstructionExample, choice: Choice, *, by: ChooseBy, left_out: int) -> Answer:
    best = choice.best(by)
    numbers: list[float] = getattr(choice, by)
    return Answer(
        output=example.options[best],
        score=choice.sum[best],
        stop_reason="choice",
        target_logprob=math.nan,
        target_tokens=0,
        input_cut=choice.truncated,
        demonstrations_left_out=left_out,
        confidence=1 / sum(math.exp(min(number - numbers[best], 0.0)) for number in numbers),
        option_logprobs={
            "sum": choice.sum,
            "mean": choice.mean,
            "calibrated": choice.calibrated,
        },
    )


def answer_examples(respondent: Respondent, examples: Sequence[InstructionExample]) -> list[Answer]:
    """Output and target log-probability of each example, in their order."""
    outputs = respondent.outputs(examples)
    scores = respondent.target_scores(examples)
    return [
        replace(output, target_logprob=logprob, target_tokens=tokens)
        for output, (logprob, tokens) in zip(outputs, scores, strict=True)
    ]
