"""Prompts to what decode writes of them, as the command asks."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from instructrec_jax.decoding.batching import encode_texts
from instructrec_jax.decoding.choosing import choose
from instructrec_jax.decoding.command import Command
from instructrec_jax.decoding.generate import Generation, generate_several
from instructrec_jax.decoding.grammar import json_guide, regex_guide
from instructrec_jax.decoding.guides import Guide, Trie
from instructrec_jax.decoding.logit_rules import bad_word_table
from instructrec_jax.decoding.prepared import prepared_model
from instructrec_jax.decoding.prompts import Prompt
from instructrec_jax.decoding.records import choice_record, generation_record, score_record
from instructrec_jax.decoding.scoring import score
from instructrec_jax.errors import ConfigError
from instructrec_jax.training.model_folder import LoadedModel


@dataclass(frozen=True)
class Answer:
    """What is written of a prompt, and what is counted."""

    record: dict[str, Any]
    tokens: int = 0  # generated or scored
    truncated: bool = False

    @property
    def failed(self) -> bool:
        """Whether the record says, in `error`, why there is no answer."""
        return "error" in self.record


# The error of a record for which the model gave no numbers.
NOT_FINITE = "probabilities are not finite numbers"

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
        return partial(scored, model, command=command, **arguments)
    if command.mode == "choose":
        return partial(chosen, model, command=command, **arguments)
    options: dict[str, Any] = generate_options(model, command)
    if command.has_grammar:
        # It needs no parameters, and would keep these beside the prepared ones.
        options["guide"] = cache(
            partial(guide_of, dataclasses.replace(model, params=None), command)
        )
        options["guide"](False)  # What is wrong with it is told before the first prompt.
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


def guide_of(model: LoadedModel, command: Command, after_prefix: bool) -> Guide:
    """The guide that prompts share, those with a prefix and those without. ConfigError."""
    arguments: dict[str, Any] = {
        "vocabulary_size": model.config.vocabulary_size,
        "after_prefix": after_prefix,
    }
    if command.regex is not None:
        return regex_guide(command.regex, model.tokenizer, **arguments)
    return json_guide(str(command.json_schema), model.tokenizer, **arguments)


def longest_target(model: LoadedModel, command: Command) -> int:
    """How many tokens a given target, prefix or option may have, eos included.

    Attention takes memory by its square.
    """
    return command.max_target_tokens or max(1024, 4 * model.decoder_length)


def generated(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    progress: Callable[[int], None],
    *,
    command: Command,
    max_new_tokens: int,
    guide: Callable[[bool], Guide] | None = None,
    **arguments: Any,
) -> list[Answer]:
    """Answers by the model; `arguments` are those of `generate_several`."""
    prefixes = [command.prefix if prompt.prefix is None else prompt.prefix for prompt in prompts]
    tokens = model.tokenizer.encode_batch(prefixes)
    problems = _too_long({"prefix": tokens}, longest_target(model, command))
    closed: list[_Closed] = []
    if command.constrain_to_options:
        closed = [_Closed(model, prompt.options) for prompt in prompts]
        problems |= {
            place: problem
            for place, options in enumerate(closed)
            if (problem := options.problem(max_new_tokens=max_new_tokens))
        }
    asked = [place for place in range(len(prompts)) if place not in problems]
    guides: list[Guide] | None = None
    if closed:
        guides = [closed[place].guide for place in asked]
    elif guide is not None:
        # A prefix's last space that no token stands for is the answer's first.
        guides = [
            guide(bool(prefixes[place]) and not _loses_last_space(model, prefixes[place]))
            for place in asked
        ]
    answers = generate_several(
        model.params,
        model.config,
        model.tokenizer,
        [prompts[place].text for place in asked],
        max_new_tokens=max_new_tokens,
        prefixes=[prefixes[place] for place in asked],
        guides=guides,
        ids=[prompts[place].id for place in asked],
        progress=progress,
        **arguments,
    )
    settings = command.beams or command.sampling
    several = settings is not None and settings.num_outputs > 1
    found: dict[int, Answer] = {}
    for place, outputs in zip(asked, answers, strict=True):
        if not all(math.isfinite(generation.score) for generation in outputs):
            problems[place] = NOT_FINITE
            continue
        if closed:
            outputs = [closed[place].in_its_words(generation) for generation in outputs]
        else:
            outputs = [_joined(model, prefixes[place], generation) for generation in outputs]
        found[place] = Answer(
            record=generation_record(
                prompts[place].id, outputs, several=several, prefix=prefixes[place]
            ),
            tokens=sum(len(generation.output_tokens) for generation in outputs),
            truncated=outputs[0].truncated,
        )
    return _in_order(prompts, found, problems)


class _Closed:
    """The options of one question, and the way back from tokens to their texts."""

    def __init__(self, model: LoadedModel, options: Sequence[str]) -> None:
        tokens = model.tokenizer.encode_batch(options)
        ended = [[*answer, model.tokenizer.eos_id] for answer in tokens]
        self.guide = Trie(ended, vocabulary_size=model.config.vocabulary_size)
        self._places = {tuple(answer): place for place, answer in reversed([*enumerate(ended)])}
        self._options = options
        self._ended = ended

    def problem(self, *, max_new_tokens: int) -> str | None:
        """Why no answer could be told to be one of the options."""
        for place, answer in enumerate(self._ended):
            if len(answer) > max_new_tokens:
                return (
                    f"options[{place}] has {len(answer)} tokens with its end, more than "
                    f"--max_new_tokens={max_new_tokens}"
                )
            if (first := self._places[tuple(answer)]) != place:
                return f"options[{first}] and options[{place}] are the same tokens to the model"
        return None

    def in_its_words(self, generation: Generation) -> Generation:
        """With the option's own text, of which the tokens may be another spelling."""
        place = self._places.get(tuple(generation.output_tokens))
        if place is None:
            return generation
        return dataclasses.replace(generation, output=self._options[place])


def _joined(model: LoadedModel, prefix: str, generation: Generation) -> Generation:
    """Without a first space where the prefix ends with the same, which no token stands for."""
    if not (generation.output.startswith(" ") and _loses_last_space(model, prefix)):
        return generation
    return dataclasses.replace(generation, output=generation.output[1:])


def _loses_last_space(model: LoadedModel, prefix: str) -> bool:
    if not prefix.endswith(" "):
        return False
    return not model.tokenizer.decode(model.tokenizer.encode_batch([prefix])[0]).endswith(" ")


def scored(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    progress: Callable[[int], None],
    *,
    command: Command,
    parse_sentinels: bool,
    **arguments: Any,
) -> list[Answer]:
    """Log-probabilities of the prompts' targets; `arguments` are those of `score`."""
    targets = encode_texts(
        model.tokenizer, [prompt.target for prompt in prompts], parse_sentinels=parse_sentinels
    )
    problems = _too_long({"target": targets}, longest_target(model, command))
    asked = [place for place in range(len(prompts)) if place not in problems]
    scores = score(
        model.params,
        model.config,
        model.tokenizer,
        [prompts[place].text for place in asked],
        [targets[place] for place in asked],
        parse_sentinels=parse_sentinels,
        progress=progress,
        **arguments,
    )
    found: dict[int, Answer] = {}
    for place, target in zip(asked, scores, strict=True):
        if not math.isfinite(target.logprob):
            problems[place] = NOT_FINITE
            continue
        found[place] = Answer(
            record=score_record(prompts[place].id, target),
            tokens=len(target.token_logprobs),
            truncated=target.truncated,
        )
    return _in_order(prompts, found, problems)


def chosen(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    progress: Callable[[int], None],
    *,
    command: Command,
    parse_sentinels: bool,
    **arguments: Any,
) -> list[Answer]:
    """The prompts' options, and which of them the model finds most probable."""
    options = [
        encode_texts(model.tokenizer, prompt.options, parse_sentinels=parse_sentinels)
        for prompt in prompts
    ]
    longest = [max(of_prompt, key=len) for of_prompt in options]
    problems = _too_long({"an option": longest}, longest_target(model, command))
    asked = [place for place in range(len(prompts)) if place not in problems]
    choices = choose(
        model.params,
        model.config,
        model.tokenizer,
        [prompts[place].text for place in asked],
        [options[place] for place in asked],
        content_free=[prompts[place].content_free for place in asked],
        parse_sentinels=parse_sentinels,
        progress=progress,
        **arguments,
    )
    found: dict[int, Answer] = {}
    for place, choice in zip(asked, choices, strict=True):
        if not all(map(math.isfinite, [*choice.sum, *choice.calibrated])):
            problems[place] = NOT_FINITE
            continue
        prompt = prompts[place]
        found[place] = Answer(
            record=choice_record(prompt.id, prompt.options, choice, by=command.choose_by),
            tokens=choice.tokens,
            truncated=choice.truncated,
        )
    return _in_order(prompts, found, problems)


def _too_long(given: Mapping[str, Sequence[Sequence[int]]], limit: int) -> dict[int, str]:
    """{place of a prompt: what of it is longer than `limit` tokens}."""
    return {
        place: f"{name} has {len(tokens):,} tokens, more than {limit:,} (--max_target_tokens)"
        for name, of_prompts in given.items()
        for place, tokens in enumerate(of_prompts)
        if len(tokens) > limit
    }


def _in_order(
    prompts: Sequence[Prompt],
    found: Mapping[int, Answer],
    problems: Mapping[int, str],
) -> list[Answer]:
    """An answer or an error for each prompt."""
    return [
        found[place] if place in found else Answer({"id": prompt.id, "error": problems[place]})
        for place, prompt in enumerate(prompts)
    ]
