"""Fixed weights, a fixed padded batch, and the same weights in transformers' T5.

Weights come from `RandomState`, whose stream NumPy guarantees for ever, so that the golden files
beside this one stay right.
"""

from typing import Any

import jax
import numpy as np

from instructrec_jax.model.config import T5Config
from instructrec_jax.model.t5 import init_parameters

# Odd head count, decoder deeper than encoder, lengths beyond the greatest relative distance.
CONFIGS = {
    "v1_1": T5Config(
        vocabulary_size=128,
        d_model=48,
        head_size=8,
        num_heads=3,
        d_ff=40,
        num_encoder_layers=2,
        num_decoder_layers=3,
        activation_dtype="float32",
    ),
    "tied_silu": T5Config(
        vocabulary_size=128,
        d_model=32,
        head_size=16,
        num_heads=5,
        d_ff=64,
        num_encoder_layers=3,
        num_decoder_layers=2,
        relative_attention_buckets=16,
        relative_attention_max_distance=20,
        activation="silu",
        tied_embeddings=True,
        activation_dtype="float32",
    ),
}
ENCODER_LENGTHS = (40, 17, 1)
DECODER_LENGTHS = (9, 24, 3)
MAX_NEW_TOKENS = 12


def fixed_parameters(config: T5Config, *, seed: int = 0) -> dict[str, Any]:
    """float32 NumPy parameters of a size at which attention and bias matter."""
    shapes = jax.eval_shape(lambda key: init_parameters(config, key), jax.random.key(0))
    random = np.random.RandomState(seed)
    scales = {"norm": (1.0, 0.1), "token_embedder": (0.0, 0.3), "relative_bias": (0.0, 1.0)}

    def leaf(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> np.ndarray:
        module = path[-2].key.rpartition("_norm")[1].strip("_") or path[-2].key
        mean, deviation = scales.get(module, (0.0, 0.15))
        return (mean + deviation * random.standard_normal(shape.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def padded_batch(config: T5Config, *, seed: int = 1) -> dict[str, np.ndarray]:
    """One example a row, of the lengths above; the features that training reads."""
    random = np.random.RandomState(seed)
    examples = [
        (random.randint(0, config.vocabulary_size, s), random.randint(2, config.vocabulary_size, t))
        for s, t in zip(ENCODER_LENGTHS, DECODER_LENGTHS, strict=True)
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


def transformers_model(config: T5Config, params: dict[str, Any]) -> Any:
    """The same function as a `T5ForConditionalGeneration` in float32."""
    import torch
    import transformers

    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
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
            feed_forward_proj=f"gated-{config.activation}",
            tie_word_embeddings=config.tied_embeddings,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
    ).eval()
    if not config.tied_embeddings:
        # transformers 5 ties the head of every model that is made from a config.
        model.lm_head = torch.nn.Linear(config.d_model, config.vocabulary_size, bias=False)
    tensors = {name: torch.from_numpy(np.array(a)) for name, a in torch_names(config, params)}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    shared = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    if config.tied_embeddings:
        shared.add("lm_head.weight")
    assert not unexpected and set(missing) <= shared, (missing, unexpected)
    return model


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
        tensors.append(
            (
                f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                stack["relative_bias"]["embedding"],
            )
        )
        parts = [("self_attention", "SelfAttention")]
        parts += [("cross_attention", "EncDecAttention")] if side == "decoder" else []
        for number in range(depth):
            layer = jax.tree.map(lambda a, number=number: a[number], stack["layers"])
            block = f"{side}.block.{number}.layer"
            for place, (ours, theirs) in enumerate(parts):
                for kernel, letter in (("query", "q"), ("key", "k"), ("value", "v")):
                    matrix = layer[ours][kernel]["kernel"].reshape(config.d_model, -1).T
                    tensors.append((f"{block}.{place}.{theirs}.{letter}.weight", matrix))
                out = layer[ours]["out"]["kernel"].reshape(-1, config.d_model).T
                tensors.append((f"{block}.{place}.{theirs}.o.weight", out))
                norm = layer[f"{ours}_norm"]["scale"]
                tensors.append((f"{block}.{place}.layer_norm.weight", norm))
            last = len(parts)
            for kernel, name in (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")):
                matrix = layer["feed_forward"][kernel]["kernel"].T
                tensors.append((f"{block}.{last}.DenseReluDense.{name}.weight", matrix))
            norm = layer["feed_forward_norm"]["scale"]
            tensors.append((f"{block}.{last}.layer_norm.weight", norm))
    return tensors


# Gradients that are compared: (path in our tree, transformers' name of layer 0's part).
GRADIENTS = {
    "token_embedder/embedding": "shared.weight",
    "encoder/relative_bias/embedding": (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ),
    "decoder/layers/cross_attention/query/kernel": (
        "decoder.block.0.layer.1.EncDecAttention.q.weight"
    ),
    "encoder/layers/feed_forward/gate/kernel": (
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
    ),
}


def transformers_results(
    config: T5Config, params: dict[str, Any], batch: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Encoder states, logits, summed loss, gradients and greedy output, all from transformers."""
    import torch

    model = transformers_model(config, params)
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
    with torch.no_grad():
        greedy = model.generate(
            input_ids=tensors["encoder_input_tokens"],
            attention_mask=encoder_mask,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            num_beams=1,
            use_cache=False,
        )
    named = dict(model.named_parameters())
    results = {
        "encoded": output.encoder_last_hidden_state.detach().numpy(),
        "logits": output.logits.detach().numpy(),
        "loss": loss.detach().numpy(),
        "greedy": greedy[:, 1:].numpy().astype(np.int32),
    }
    for ours, theirs in GRADIENTS.items():
        results[f"gradient:{ours}"] = named[theirs].grad.numpy()
    return results
