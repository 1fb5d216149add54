"""A checkpoint as a judge and a writer: log-probabilities of answers, and its own answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Likelihood:
    """The summed natural log-probability of an answer, and its tokens, eos included."""

    logprob: float
    tokens: int

    @property
    def per_token(self) -> float:
        """The mean log-probability of a token."""
        return self.logprob / self.tokens


@dataclass(frozen=True)
class Written:
    """A text that the model wrote, with its log-probability; `ended` by itself, not cut off."""

    text: str
    likelihood: Likelihood
    ended: bool


@dataclass(frozen=True)
class Judge:
    """A model as synthesis sees it; a test may hand in any two functions.

    `score` gives the likelihood of the target of each (encoder text, target), in order; `write` the
    answer to each encoder text. `name` says for a person which model this is, `fingerprint` for a
    machine.
    """

    name: str
    fingerprint: str
    score: Callable[[Sequence[tuple[str, str]]], list[Likelihood]]
    write: Callable[[Sequence[str]], list[Written]]


def load_judge(
    checkpoint: str, *, batch_size: int = 32, max_new_tokens: int = 128, num_beams: int = 1
) -> Judge:
    """The model of a run, checkpoint, model or Hugging Face folder.

    Raises:
        CheckpointError: nothing there, or the files are damaged.
    """
    # A build without a checkpoint neither needs JAX nor waits for it to load.
    from instructrec_jax.decoding.beam import BeamSettings
    from instructrec_jax.decoding.generate import generate
    from instructrec_jax.decoding.scoring import score
    from instructrec_jax.training.fingerprint import fingerprint
    from instructrec_jax.training.model_folder import load_model

    model = load_model(checkpoint)

    def scored(requests: Sequence[tuple[str, str]]) -> list[Likelihood]:
        # The same question of many examples is asked of the model once.
        unique = list(dict.fromkeys(requests))
        if not unique:
            return []
        texts, targets = zip(*unique, strict=True)
        found = score(
            model.params,
            model.config,
            model.tokenizer,
            texts,
            targets,
            batch_size=batch_size,
            encoder_length=model.encoder_length,
        )
        likelihoods = {
            request: Likelihood(each.logprob, len(each.token_logprobs))
            for request, each in zip(unique, found, strict=True)
        }
        return [likelihoods[request] for request in requests]

    def written(texts: Sequence[str]) -> list[Written]:
        if not texts:
            return []
        found = generate(
            model.params,
            model.config,
            model.tokenizer,
            texts,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            encoder_length=model.encoder_length,
            beams=BeamSettings(num_beams) if num_beams > 1 else None,
        )
        return [
            Written(
                text=each.output.strip(),
                likelihood=Likelihood(each.score, max(1, len(each.output_tokens))),
                ended=each.stop_reason == "eos",
            )
            for each in found
        ]

    return Judge(
        name=model.description,
        fingerprint=repr(sorted(fingerprint(model.params).items())),
        score=scored,
        write=written,
    )
