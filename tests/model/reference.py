"""Fixed weights, a fixed padded batch, and the same weights in transformers' T5.

Weights come from `RandomState`, whose stream NumPy guarantees for ever, so that the golden files
beside this one stay right.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from instructrec_jax.model.config import T5Config
from instructrec_jax.model.t5 import init_parameters

# Odd head counts, encoder and decoder of different depths, lengths beyond the greatest relative
# distance, heads that do not join to d_model.
_V1_1 = T5Config(
    vocabulary_size=128,
    d_model=40,
    head_size=8,
    num_heads=3,
    d_ff=40,
    num_encoder_layers=2,
    num_decoder_layers=3,
    activation_dtype="float32",
)
CONFIGS = {
    "v1_0": dataclasses.replace(
        _V1_1,
        d_model=32,
        num_heads=4,
        d_ff=48,
        num_decoder_layers=2,
        gated_feed_forward=False,
        activation="relu",
        tied_embeddings=True,
        scale_decoder_output=True,
    ),
    "v1_1": _V1_1,
    # UL2's kind.
    "tied_silu": dataclasses.replace(
        _V1_1,
        d_model=28,
        head_size=16,
        num_heads=5,
        d_ff=48,
        num_encoder_layers=3,
        num_decoder_layers=2,
        relative_attention_buckets=16,
        relative_attention_max_distance=20,
        activation="silu",
        tied_embeddings=True,
        scale_decoder_output=True,
    ),
    # The function is T5 1.1's; transformers has a class of its own for it.
    "mt5": _V1_1,
    "byt5": dataclasses.replace(
        _V1_1, d_model=24, num_heads=2, d_ff=56, num_encoder_layers=4, num_decoder_layers=1
    ),
    "umt5": dataclasses.replace(_V1_1, shared_relative_bias=False),
    # What else a config may say: an odd half of buckets, far distances, exact GELU without gate,
    # an untied head behind scaled states.
    "long": dataclasses.replace(
        _V1_1,
        d_model=16,
        num_encoder_layers=1,
        num_decoder_layers=2,
        relative_attention_buckets=30,
        relative_attention_max_distance=200,
        gated_feed_forward=False,
        activation="gelu_exact",
        scale_decoder_output=True,
    ),
}
DECODER_LENGTHS = (9, 24, 3)
MAX_NEW_TOKENS = 12


def encoder_lengths(config: T5Config) -> tuple[int, int, int]:
    """Tokens of each example of the fixed batch."""
    return (150 if config.relative_attention_max_distance > 128 else 40, 17, 1)


def fixed_parameters(config: T5Config, *, seed: int = 0) -> dict[str, Any]:
    """float32 NumPy parameters of a size at which attention and bias matter."""
    shapes = jax.eval_shape(lambda key: init_parameters(config, key), jax.random.key(0))
    random = np.random.RandomState(seed)
    scales = {"norm": (1.0, 0.1), "token_embedder": (0.0, 0.3), "relative_bias": (0.0, 1.0)}

    def leaf(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> np.ndarray:
        module = path[-2].key.rpartition("_norm")[1].strip("_") or path[-2].key
        mean, deviation = scales.get(module, (0.0, 0.15))
        return (mean + deviation * random.standard_normal(shape.shape)).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(leaf, shapes)
    # Some outputs shall end: eos, id 1, gets logits of a greater spread.
    if config.tied_embeddings:
        params["token_embedder"]["embedding"][1] *= 3
    else:
        params["lm_head"]["kernel"][:, 1] *= 3
    return params


def padded_batch(config: T5Config, *, seed: int = 1) -> dict[str, np.ndarray]:
    """One example a row, of the lengths above; the features that training reads."""
    random = np.random.RandomState(seed)
    examples = [
        (random.randint(0, config.vocabulary_size, s), random.randint(2, config.vocabulary_size, t))
        for s, t in zip(encoder_lengths(config), DECODER_LENGTHS, strict=True)
    ]
    return rows_of([[example] for example in examples])


def rows_of(
    rows: list[list[tuple[np.ndarray, np.ndarray]]],
    *,
    encoder_length: int = 0,
    decoder_length: int = 0,
) -> dict[str, np.ndarray]:
    """Features of rows that each hold some (inputs, targets), padded to a common length."""
    encoder_length = encoder_length or max(sum(len(s) for s, _ in row) for row in rows)
    decoder_length = decoder_length or max(sum(len(t) for _, t in row) for row in rows)
    batch = {
        f"{side}_{name}": np.zeros((len(rows), length), np.int32)
        for side, length in (("encoder", encoder_length), ("decoder", decoder_length))
        for name in ("input_tokens", "segment_ids", "positions")
    }
    batch["decoder_target_tokens"] = np.zeros((len(rows), decoder_length), np.int32)
    batch["decoder_loss_weights"] = np.zeros((len(rows), decoder_length), np.float32)
    for r, row in enumerate(rows):
        start = {"encoder": 0, "decoder": 0}
        for number, (inputs, targets) in enumerate(row, start=1):
            shifted = np.concatenate([[0], targets[:-1]])
            for side, tokens in (("encoder", inputs), ("decoder", shifted)):
                place = slice(start[side], start[side] + len(tokens))
                batch[f"{side}_input_tokens"][r, place] = tokens
                batch[f"{side}_segment_ids"][r, place] = number
                batch[f"{side}_positions"][r, place] = np.arange(len(tokens))
                start[side] = place.stop
            batch["decoder_target_tokens"][r, place] = targets
            batch["decoder_loss_weights"][r, place] = 1.0
    return batch


def transformers_model(config: T5Config, params: dict[str, Any], *, name: str = "") -> Any:
    """The same function as a model of transformers in float32, of the class for `name`."""
    import torch
    import transformers

    family = "MT5" if name == "mt5" else "T5" if config.shared_relative_bias else "UMT5"
    model = getattr(transformers, f"{family}ForConditionalGeneration")(
        getattr(transformers, f"{family}Config")(
            vocab_size=config.vocabulary_size,
            d_model=config.d_model,
            d_kv=config.head_size,
            d_ff=config.d_ff,
            num_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            num_heads=config.num_heads,
            relative_attention_num_buckets=config.relative_attention_buckets,
            relative_attention_max_distance=config.relative_attention_max_distance,
            dropout_rate=0.0,
            layer_norm_epsilon=config.layer_norm_epsilon,
            feed_forward_proj=_feed_forward_name(config),
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
    ).eval()
    # transformers 5 ties the head of every model that is made from a config, and its MT5 never
    # scales the decoder's states.
    if not config.tied_embeddings:
        model.lm_head = torch.nn.Linear(config.d_model, config.vocabulary_size, bias=False)
    assert family != "MT5" or not config.scale_decoder_output
    model.config.scale_decoder_outputs = config.scale_decoder_output
    tensors = {name: torch.from_numpy(np.array(a)) for name, a in torch_names(config, params)}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    shared = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    if config.tied_embeddings:
        shared.add("lm_head.weight")
    assert not unexpected and set(missing) <= shared, (missing, unexpected)
    return model


def _feed_forward_name(config: T5Config) -> str:
    # transformers reads "gated-gelu" as the tanh form and "gelu" as the exact one.
    activation = "gelu" if config.activation.startswith("gelu") else config.activation
    assert (config.activation == "gelu") <= config.gated_feed_forward
    return f"gated-{activation}" if config.gated_feed_forward else activation


def torch_names(config: T5Config, params: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    """Name and matrix [out, in] of every tensor that transformers knows."""
    tensors = [("shared.weight", params["token_embedder"]["embedding"])]
    if not config.tied_embeddings:
        tensors.append(("lm_head.weight", params["lm_head"]["kernel"].T))
    for side, depth in (
        ("encoder", config.num_encoder_layers),
        ("decoder", config.num_decoder_layers),
    ):
        stack = params[side]
        tensors.append((f"{side}.final_layer_norm.weight", stack["final_norm"]["scale"]))
        parts = [("self_attention", "SelfAttention")]
        parts += [("cross_attention", "EncDecAttention")] if side == "decoder" else []
        for number in range(depth):
            layer = jax.tree.map(lambda a, number=number: a[number], stack["layers"])
            block = f"{side}.block.{number}.layer"
            if number == 0 or not config.shared_relative_bias:
                bias = (stack if config.shared_relative_bias else layer)["relative_bias"]
                name = f"{block}.0.SelfAttention.relative_attention_bias.weight"
                tensors.append((name, bias["embedding"]))
            for place, (ours, theirs) in enumerate(parts):
                for kernel, letter in (("query", "q"), ("key", "k"), ("value", "v")):
                    matrix = layer[ours][kernel]["kernel"].reshape(config.d_model, -1).T
                    tensors.append((f"{block}.{place}.{theirs}.{letter}.weight", matrix))
                out = layer[ours]["out"]["kernel"].reshape(-1, config.d_model).T
                tensors.append((f"{block}.{place}.{theirs}.o.weight", out))
                norm = layer[f"{ours}_norm"]["scale"]
                tensors.append((f"{block}.{place}.layer_norm.weight", norm))
            last = len(parts)
            gated = (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo"))
            for kernel, name in gated if config.gated_feed_forward else (("up", "wi"), gated[-1]):
                matrix = layer["feed_forward"][kernel]["kernel"].T
                tensors.append((f"{block}.{last}.DenseReluDense.{name}.weight", matrix))
            norm = layer["feed_forward_norm"]["scale"]
            tensors.append((f"{block}.{last}.layer_norm.weight", norm))
    return tensors


def gradient_names(config: T5Config) -> dict[str, str]:
    """Gradients that are compared: path in our tree -> transformers' name (of layer 0)."""
    bias = "relative_bias" if config.shared_relative_bias else "layers/relative_bias"
    up = "wi_1" if config.gated_feed_forward else "wi"
    return {
        f"encoder/{bias}/embedding": (
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ),
        "decoder/layers/cross_attention/query/kernel": (
            "decoder.block.0.layer.1.EncDecAttention.q.weight"
        ),
        "encoder/layers/feed_forward/up/kernel": (
            f"encoder.block.0.layer.1.DenseReluDense.{up}.weight"
        ),
    }


def parameter_of(tree: dict[str, Any], path: str) -> Any:
    """The leaf at `path`, of layer 0 and laid out as transformers does."""
    leaf = tree
    for key in path.split("/"):
        leaf = leaf[key]
    leaf = leaf[0] if "/layers/" in path else leaf
    return leaf.T if path.endswith("/kernel") else leaf


def transformers_results(
    config: T5Config, params: dict[str, Any], batch: dict[str, np.ndarray], *, name: str = ""
) -> dict[str, np.ndarray]:
    """What transformers computes, for the places that are not padding.

    `encoded` [places, D], `logits` [places, V], summed `loss`, `gradient:PATH`, and the tokens
    after the start token: `greedy` [B, <= MAX_NEW_TOKENS]; `beam_tokens` [B, 2, <= MAX_NEW_TOKENS]
    and `beam_scores` [B, 2] of the two best of four beams.
    """
    import torch

    model = transformers_model(config, params, name=name)
    tensors = {name: torch.from_numpy(array.astype(np.int64)) for name, array in batch.items()}
    encoder_mask = (tensors["encoder_segment_ids"] > 0).long()
    output = model(
        input_ids=tensors["encoder_input_tokens"],
        attention_mask=encoder_mask,
        decoder_input_ids=tensors["decoder_input_tokens"],
        decoder_attention_mask=(tensors["decoder_segment_ids"] > 0).long(),
        use_cache=False,
    )
    real = tensors["decoder_segment_ids"] > 0
    loss = torch.nn.functional.cross_entropy(
        output.logits[real], tensors["decoder_target_tokens"][real], reduction="sum"
    )
    loss.backward()
    # transformers sizes its cache by the encoder's depth.
    options = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False, "use_cache": False}
    inputs = {"input_ids": tensors["encoder_input_tokens"], "attention_mask": encoder_mask}
    with torch.no_grad():
        greedy = model.generate(**inputs, **options, num_beams=1)
        beams = model.generate(
            **inputs,
            **options,
            num_beams=4,
            num_return_sequences=2,
            length_penalty=1.0,
            early_stopping=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
    named = dict(model.named_parameters())
    rows = len(encoder_mask)
    results = {
        "encoded": output.encoder_last_hidden_state[encoder_mask > 0].detach().numpy(),
        "logits": output.logits[real].detach().numpy(),
        "loss": loss.detach().numpy(),
        "greedy": greedy[:, 1:].numpy().astype(np.int32),
        "beam_tokens": beams.sequences[:, 1:].numpy().astype(np.int32).reshape(rows, 2, -1),
        "beam_scores": beams.sequences_scores.numpy().reshape(rows, 2),
    }
    for ours, theirs in gradient_names(config).items():
        results[f"gradient:{ours}"] = named[theirs].grad.numpy()
    return results
