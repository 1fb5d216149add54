"""New tokens a second of decoding, against transformers and CTranslate2 on the same weights.

    python benchmarks/decoding.py
    python benchmarks/decoding.py --batch_sizes=8 --searches=greedy --repeats=1   # a short look

T5 1.1 small with random weights, encoder of 256 tokens, 64 new ones, eos ruled out so that all do
the same work; float32, bfloat16 and int8, the devices' own threads, encoder included. All
libraries take turns, and the median of the repeats counts. CTranslate2 takes part where it is
installed (pip install ctranslate2), in float32 and int8.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from instructrec_jax.decoding.beam import BeamSettings
from instructrec_jax.decoding.generate import generate
from instructrec_jax.decoding.loading import load_decode_model
from instructrec_jax.decoding.logit_rules import LogitRules
from instructrec_jax.decoding.prepared import prepared_model

_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["1", "8", "32"], "Prompts at once.")
_SEARCHES = flags.DEFINE_list("searches", ["greedy", "beam"], "greedy, beam (4 beams) or both.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Times each is measured, after one that is not.")
_ENCODER_LENGTH = flags.DEFINE_integer("encoder_length", 256, "Tokens of a prompt.")
_NEW_TOKENS = flags.DEFINE_integer("new_tokens", 64, "Tokens of an answer.")

_VOCABULARY = 32_128
_NUM_BEAMS = 4

# Prompts and a number of beams to nothing: only the time counts.
Answer = Callable[[np.ndarray, int], Any]


class _Ids:
    """A tokenizer for token ids alone."""

    eos_id = 1
    vocabulary_size = _VOCABULARY

    def encode_batch(self, texts: Any, *, parse_sentinels: bool = False) -> list[list[int]]:
        return [[] for _ in texts]

    def decode(self, ids: Any) -> str:
        return ""


def write_model(folder: Path) -> Any:
    """A random T5 1.1 small of transformers, in a folder with a tokenizer of numbers."""
    import tokenizers
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(
        **{"vocab_size": _VOCABULARY, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 6},
        **{"num_layers": 8, "num_decoder_layers": 8, "feed_forward_proj": "gated-gelu"},
        **{"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1},
    )
    model = transformers.T5ForConditionalGeneration(config).eval()
    # transformers 5 ties the head of every model that is made from a config.
    model.lm_head = torch.nn.Linear(config.d_model, _VOCABULARY, bias=False)
    model.config.tie_word_embeddings = False
    model.config.scale_decoder_outputs = False
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {str(n): n for n in range(3, _VOCABULARY)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    model.save_pretrained(folder)
    return model


def of_transformers(model: Any) -> Answer:
    """transformers' generate."""
    import torch

    def answer(prompts: np.ndarray, num_beams: int) -> Any:
        with torch.inference_mode():
            return model.generate(
                input_ids=torch.from_numpy(prompts.astype(np.int64)),
                num_beams=num_beams,
                do_sample=False,
                max_new_tokens=_NEW_TOKENS.value,
                min_new_tokens=_NEW_TOKENS.value,
            )

    return answer


def of_this_library(folder: Path, dtype: str) -> Answer:
    """`generate` with weights of `dtype`."""
    loaded = load_decode_model(str(folder), mesh=None, dtype=dtype)
    model, config = prepared_model(loaded.params, loaded.config)

    def answer(prompts: np.ndarray, num_beams: int) -> Any:
        return generate(
            model,
            config,
            _Ids(),
            [row.tolist() for row in prompts],
            max_new_tokens=_NEW_TOKENS.value,
            batch_size=len(prompts),
            encoder_length=_ENCODER_LENGTH.value,
            rules=LogitRules(min_new_tokens=_NEW_TOKENS.value),
            beams=BeamSettings(num_beams) if num_beams > 1 else None,
        )

    return answer


def of_ctranslate2(folder: Path, compute_type: str) -> Answer:
    """CTranslate2's translator; ImportError where it is not installed."""
    import ctranslate2

    converted = folder / compute_type
    ctranslate2.converters.TransformersConverter(str(folder)).convert(
        str(converted), quantization=compute_type
    )
    translator = ctranslate2.Translator(str(converted), compute_type=compute_type)

    def answer(prompts: np.ndarray, num_beams: int) -> Any:
        return translator.translate_batch(
            [[str(token) for token in row] for row in prompts],
            beam_size=num_beams,
            max_batch_size=len(prompts),
            max_decoding_length=_NEW_TOKENS.value,
            min_decoding_length=_NEW_TOKENS.value,
        )

    return answer


def medians(
    libraries: Mapping[str, Answer], prompts: np.ndarray, num_beams: int
) -> dict[str, float]:
    """Seconds of each library; they take turns, so that a busy machine slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in libraries}
    for repeat in range(_REPEATS.value + 1):
        for name, answer in libraries.items():
            started = time.perf_counter()
            jax.block_until_ready(answer(prompts, num_beams))
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main(_: Any) -> None:
    """Prints a table in Markdown."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = write_model(folder)
        libraries = {
            "transformers": of_transformers(model),
            **{
                f"this library {dtype}": of_this_library(folder, dtype)
                for dtype in ("float32", "bfloat16", "int8")
            },
        }
        try:
            for compute_type in ("float32", "int8"):
                libraries[f"CTranslate2 {compute_type}"] = of_ctranslate2(folder, compute_type)
        except ImportError:
            print("CTranslate2 is not installed: left out", file=sys.stderr)
        print("| " + " | ".join(("search", "batch", *libraries)) + " |")
        print("|" + "---|" * (2 + len(libraries)), flush=True)
        random = np.random.RandomState(0)
        for search in _SEARCHES.value:
            for batch_size in map(int, _BATCH_SIZES.value):
                prompts = random.randint(3, 32_000, (batch_size, _ENCODER_LENGTH.value))
                seconds = medians(libraries, prompts, _NUM_BEAMS if search == "beam" else 1)
                speeds = [batch_size * _NEW_TOKENS.value / each for each in seconds.values()]
                cells = (search, batch_size, *(f"{speed:.0f}" for speed in speeds))
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        print("\nnew tokens a second, median of", _REPEATS.value)


if __name__ == "__main__":
    app.run(main)
