"""Prompts to what decode writes of them, as the command asks."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from instructrec_jax.decoding.choosing import choose
from instructrec_jax.decoding.command import Command
from instructrec_jax.decoding.generate import generate_several
from instructrec_jax.decoding.grammar import json_guide, regex_guide
from instructrec_jax.decoding.guides import Guide, Trie
from instructrec_jax.decoding.logit_rules import bad_word_table
from instructrec_jax.decoding.prepared import prepared_model
from instructrec_jax.decoding.prompts import Prompt
from instructrec_jax.decoding.records import choice_record, generation_record, score_record
from instructrec_jax.decoding.scoring import score
from instructrec_jax.errors import CheckpointError, ConfigError
from instructrec_jax.training.model_folder import LoadedModel


@dataclass(frozen=True)
class Answer:
    """What is written of a prompt, and what is counted."""

    record: dict[str, Any]
    tokens: int  # generated or scored
    truncated: bool


# Prompts to answers in their order; tells a callback how many are done.
AnswerPrompts = Callable[[Sequence[Prompt], Callable[[int], None]], list[Answer]]


def answering(model: LoadedModel, command: Command, *, encoder_length: int) -> AnswerPrompts:
    """How to answer prompts as the command says. ConfigError: not with this model."""
    arguments: dict[str, Any] = {
        "batch_size": command.batch_size,
        "encoder_length": encoder_length,
        "parse_sentinels": command.parse_sentinels,
    }
    if command.mode == "score":
        return partial(scored, model, **arguments)
    if command.mode == "choose":
        return partial(chosen, model, command=command, **arguments)
    options = {**generate_options(model, command), "guide": guide_of(model, command)}
    params, _ = prepared_model(model.params, model.config)
    return partial(
        generated,
        dataclasses.replace(model, params=params),
        command=command,
        **arguments,
        **options,
    )


def generate_options(model: LoadedModel, command: Command) -> dict[str, Any]:
    """Arguments of `generate_several` that are the same for all prompts. ConfigError."""
    vocabulary_size = model.config.vocabulary_size
    max_new_tokens = command.max_new_tokens or model.decoder_length
    if command.rules.min_new_tokens > max_new_tokens:
        raise ConfigError(
            f"--min_new_tokens={command.rules.min_new_tokens} is more than "
            f"--max_new_tokens={max_new_tokens}"
        )
    if command.beams is not None:
        command.beams.check(max_new_tokens=max_new_tokens, vocabulary_size=vocabulary_size)
    eos_id = model.tokenizer.eos_id
    words = model.tokenizer.encode_batch(command.bad_words)
    return {
        "max_new_tokens": max_new_tokens,
        "beams": command.beams,
        "sampling": command.sampling,
        "rules": dataclasses.replace(command.rules, bad_words=bad_word_table(words, eos_id=eos_id)),
        "stop_strings": command.stop,
    }


def guide_of(model: LoadedModel, command: Command) -> Guide | None:
    """The guide that all prompts share, None where there is none. ConfigError."""
    size = model.config.vocabulary_size
    if command.regex is not None:
        return regex_guide(command.regex, model.tokenizer, vocabulary_size=size)
    if command.json_schema is not None:
        return json_guide(command.json_schema, model.tokenizer, vocabulary_size=size)
    return None


def generated(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    progress: Callable[[int], None],
    *,
    command: Command,
    guide: Guide | None = None,
    **arguments: Any,
) -> list[Answer]:
    """Answers by the model; `arguments` are those of `generate_several`."""
    guides: list[Guide] | None = None if guide is None else [guide] * len(prompts)
    if command.constrain_to_options:
        guides = [_options_guide(model, prompt.options) for prompt in prompts]
    prefixes = [command.prefix if prompt.prefix is None else prompt.prefix for prompt in prompts]
    answers = generate_several(
        model.params,
        model.config,
        model.tokenizer,
        [prompt.text for prompt in prompts],
        prefixes=prefixes,
        guides=guides,
        ids=[prompt.id for prompt in prompts],
        progress=progress,
        **arguments,
    )
    _check_finite([generation.score for outputs in answers for generation in outputs], model)
    settings = command.beams or command.sampling
    several = settings is not None and settings.num_outputs > 1
    return [
        Answer(
            record=generation_record(prompt.id, outputs, several=several, prefix=prefix),
            tokens=sum(len(generation.output_tokens) for generation in outputs),
            truncated=outputs[0].truncated,
        )
        for prompt, prefix, outputs in zip(prompts, prefixes, answers, strict=True)
    ]


def _options_guide(model: LoadedModel, options: Sequence[str]) -> Trie:
    answers = [
        [*tokens, model.tokenizer.eos_id] for tokens in model.tokenizer.encode_batch(options)
    ]
    return Trie(answers, vocabulary_size=model.config.vocabulary_size)


def scored(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    progress: Callable[[int], None],
    **arguments: Any,
) -> list[Answer]:
    """Log-probabilities of the prompts' targets; `arguments` are those of `score`."""
    scores = score(
        model.params,
        model.config,
        model.tokenizer,
        [prompt.text for prompt in prompts],
        [prompt.target for prompt in prompts],
        progress=progress,
        **arguments,
    )
    _check_finite([target.logprob for target in scores], model)
    return [
        Answer(
            record=score_record(prompt.id, target),
            tokens=len(target.token_logprobs),
            truncated=target.truncated,
        )
        for prompt, target in zip(prompts, scores, strict=True)
    ]


def chosen(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    progress: Callable[[int], None],
    *,
    command: Command,
    **arguments: Any,
) -> list[Answer]:
    """The prompts' options, and which of them the model finds most probable."""
    choices = choose(
        model.params,
        model.config,
        model.tokenizer,
        [prompt.text for prompt in prompts],
        [prompt.options for prompt in prompts],
        content_free=[prompt.content_free for prompt in prompts],
        progress=progress,
        **arguments,
    )
    _check_finite([number for choice in choices for number in choice.sum], model)
    return [
        Answer(
            record=choice_record(prompt.id, prompt.options, choice, by=command.choose_by),
            tokens=choice.tokens,
            truncated=choice.truncated,
        )
        for prompt, choice in zip(prompts, choices, strict=True)
    ]


def _check_finite(scores: Iterable[float], model: LoadedModel) -> None:
    if not all(map(math.isfinite, scores)):
        raise CheckpointError(f"{model.folder}: the model's probabilities are not finite numbers")
