"""What log-probabilities say of an instruction, and which examples they leave.

All arithmetic on numbers that a judge gives (`likelihood.py`); natural logarithms throughout.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from instructrec_jax.errors import ConfigError
from instructrec_jax.instructions.example import InstructionExample, encoder_text
from instructrec_jax.instructions.synthesis.likelihood import Judge, Likelihood

# Iglewicz and Hoaglin 1993: 0.6745 is the normal distribution's third quartile.
_NORMAL_QUARTILE = 0.6745
# So few values say nothing about what is usual.
_LEAST_FOR_OUTLIERS = 8


@dataclass(frozen=True)
class CurationSettings:
    """Thresholds; an example outside is refused with the reason in brackets.

    `max_ifd` (ifd_high), `min_ifd` (ifd_low): instruction-following difficulty, the perplexity of
    the answer given the question over that of the answer alone. 1 or more: the question does not
    help (Li et al. 2023, arXiv 2308.12032); near 0: the answer follows too easily.
    `min_margin` (no_margin): how much more probable, in nats a token, the answer is under its own
    instruction than on average under wrong ones (FLIPPED, Ye et al. 2022, arXiv 2210.02969).
    `max_outlier` (nll_outlier): modified z-score of the answer's NLL a token among those of its
    task, above 0. 0 switches the last one off, -inf and inf the others.
    """

    max_ifd: float = 1.0
    min_ifd: float = 0.0
    min_margin: float = 0.0
    max_outlier: float = 3.5

    def problems(self) -> list[str]:
        """Everything that is wrong with the thresholds, one line each."""
        found = [
            f"{name}: {getattr(self, name)} is no number"
            for name in ("max_ifd", "min_ifd", "min_margin", "max_outlier")
            if math.isnan(getattr(self, name))
        ]
        if self.min_ifd >= self.max_ifd:
            found.append(f"min_ifd: {self.min_ifd} leaves nothing below max_ifd {self.max_ifd}")
        if self.max_outlier < 0:
            found.append(f"max_outlier: {self.max_outlier} is below 0, which means off")
        return found


@dataclass(frozen=True)
class Measures:
    """What a judge finds in an example: NLL in nats a token, IFD, and margin in nats a token."""

    nll: float
    ifd: float
    margin: float


@dataclass(frozen=True)
class CurationVerdict:
    """Why an example is refused, "" where it is kept, and what was measured."""

    reason: str
    measures: Measures


def log_likelihood_per_token(likelihoods: Sequence[Likelihood]) -> float:
    """Of all answers together: summed log-probability over summed tokens."""
    return sum(each.logprob for each in likelihoods) / sum(each.tokens for each in likelihoods)


def instruction_following_difficulty(given: Likelihood, alone: Likelihood) -> float:
    """PPL(y | q) / PPL(y): below 1 where the question makes the answer more probable."""
    return math.exp(min(alone.per_token - given.per_token, 700.0))


def flipped_margin(given: Likelihood, wrong: Sequence[Likelihood]) -> float:
    """log p(y | q, x) minus its mean over wrong instructions, a token; 0 without any."""
    if not wrong:
        return 0.0
    return given.per_token - sum(each.per_token for each in wrong) / len(wrong)


def outlier_scores(values: Sequence[float]) -> list[float]:
    """Modified z-scores 0.6745 (x - median) / MAD; all 0 for few values or where MAD is 0."""
    if len(values) < _LEAST_FOR_OUTLIERS:
        return [0.0] * len(values)
    middle = median(values)
    spread = median(abs(value - middle) for value in values)
    if spread == 0:
        return [0.0] * len(values)
    return [_NORMAL_QUARTILE * (value - middle) / spread for value in values]


def measure(
    examples: Sequence[InstructionExample],
    judge: Judge,
    *,
    wrong: Callable[[InstructionExample], Sequence[str]],
) -> dict[str, Measures]:
    """{id: measures} of some examples, in as many calls of the judge's batches as it likes.

    Each depends on its example alone: examples may come in any portions.

    Args:
        examples: with ids of their own.
        judge: of `likelihood.load_judge`.
        wrong: instructions that are not the example's, such as `grammar.wrong_instructions` gives.
    """
    requests: list[tuple[str, str]] = []
    places: list[tuple[int, int]] = []
    for example in examples:
        start = len(requests)
        text = example.material or example.input
        requests.append((encoder_text(example.instruction, example.input), example.target))
        requests.append(("", example.target))
        requests += [(encoder_text(other, text), example.target) for other in wrong(example)]
        places.append((start, len(requests)))
    found = judge.score(requests)
    measured = {}
    for example, (start, end) in zip(examples, places, strict=True):
        given, alone, *others = found[start:end]
        measured[example.id] = Measures(
            nll=-given.per_token,
            ifd=instruction_following_difficulty(given, alone),
            margin=flipped_margin(given, others),
        )
    return measured


def verdicts(
    measures: Mapping[str, Measures], tasks: Mapping[str, str], settings: CurationSettings
) -> dict[str, CurationVerdict]:
    """{id: verdict}: the thresholds, and last the outliers among what the others leave of a task.

    Args:
        measures: by id.
        tasks: the task of each id.
        settings: the thresholds.
    """
    reasons = {name: _objection(found, settings) for name, found in measures.items()}
    left: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if not reason:
            left.setdefault(tasks[name], []).append(name)
    if settings.max_outlier:
        for names in left.values():
            scores = outlier_scores([measures[name].nll for name in names])
            for name, score in zip(names, scores, strict=True):
                if score > settings.max_outlier:
                    reasons[name] = "nll_outlier"
    return {name: CurationVerdict(reasons[name], measures[name]) for name in measures}


def curate(
    examples: Iterable[InstructionExample],
    judge: Judge,
    settings: CurationSettings,
    *,
    wrong: Callable[[InstructionExample], Sequence[str]],
    portion: int = 1_024,
) -> dict[str, CurationVerdict]:
    """{id: verdict} of a stream of examples; holds `portion` of them and all measures at once.

    Raises:
        ConfigError: thresholds that cannot be met.
    """
    if problems := settings.problems():
        raise ConfigError("\n  ".join(["examples cannot be curated:", *problems]))
    measures: dict[str, Measures] = {}
    tasks: dict[str, str] = {}
    held: list[InstructionExample] = []
    for example in examples:
        tasks[example.id] = example.task
        held.append(example)
        if len(held) == portion:
            measures |= measure(held, judge, wrong=wrong)
            held = []
    measures |= measure(held, judge, wrong=wrong)
    return verdicts(measures, tasks, settings)


def counted(found: Mapping[str, CurationVerdict]) -> Counter[str]:
    """How many were refused for each reason."""
    return Counter(verdict.reason for verdict in found.values() if verdict.reason)


def _objection(measures: Measures, settings: CurationSettings) -> str:
    if measures.ifd >= settings.max_ifd:
        return "ifd_high"
    if measures.ifd < settings.min_ifd:
        return "ifd_low"
    # At equality the instruction makes no difference.
    return "no_margin" if measures.margin <= settings.min_margin else ""
