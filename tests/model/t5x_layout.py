"""A model in the layout of T5X's checkpoints, written out on its own."""

import jax
import numpy as np
import tensorstore
from flax.serialization import msgpack_serialize


def published_arrays(config, params, *, layers="numbered", joined=True, bias="relpos_bias"):
    """The model in T5X's names: written out here again, on its own."""
    encoder, decoder = params["encoder"], params["decoder"]
    arrays = {"token_embedder/embedding": params["token_embedder"]["embedding"]}
    if not config.tied_embeddings:
        arrays["decoder/logits_dense/kernel"] = params["lm_head"]["kernel"]
    arrays["encoder/encoder_norm/scale"] = encoder["final_norm"]["scale"]
    arrays["decoder/decoder_norm/scale"] = decoder["final_norm"]["scale"]
    heads = (config.num_heads, config.head_size)

    def attention(name, kernels):
        for projection in ("query", "key", "value"):
            kernel = kernels[projection]["kernel"]
            shape = kernel.shape if joined else (kernel.shape[0], *heads)
            yield f"{name}/{projection}/kernel", kernel.reshape(shape)
        kernel = kernels["out"]["kernel"]
        yield f"{name}/out/kernel", kernel if joined else kernel.reshape(*heads, -1)

    def layer(stack, is_decoder):
        own = "self_attention" if is_decoder else "attention"
        yield f"pre_{own}_layer_norm/scale", stack["self_attention_norm"]["scale"]
        yield from attention(own, stack["self_attention"])
        if is_decoder:
            yield "pre_cross_attention_layer_norm/scale", stack["cross_attention_norm"]["scale"]
            yield from attention("encoder_decoder_attention", stack["cross_attention"])
        yield "pre_mlp_layer_norm/scale", stack["feed_forward_norm"]["scale"]
        if config.gated_feed_forward:
            yield "mlp/wi_0/kernel", stack["feed_forward"]["gate"]["kernel"]
            yield "mlp/wi_1/kernel", stack["feed_forward"]["up"]["kernel"]
        else:
            yield "mlp/wi/kernel", stack["feed_forward"]["up"]["kernel"]
        yield "mlp/wo/kernel", stack["feed_forward"]["down"]["kernel"]
        if "relative_bias" in stack:
            yield f"{bias}/rel_embedding", stack["relative_bias"]["embedding"].T

    for side, stack in (("encoder", encoder), ("decoder", decoder)):
        depth = len(stack["layers"]["feed_forward_norm"]["scale"])
        each = [
            dict(layer(jax.tree.map(lambda leaf, n=n: leaf[n], stack["layers"]), side == "decoder"))
            for n in range(depth)
        ]
        if config.shared_relative_bias:
            arrays[f"{side}/{bias}/rel_embedding"] = stack["relative_bias"]["embedding"].T
        if layers == "numbered":
            for n in range(depth):
                arrays |= {f"{side}/layers_{n}/{name}": array for name, array in each[n].items()}
        else:
            within = side if layers == "doubled" else "layers"
            for name in each[0]:
                stacked = np.stack([one[name] for one in each], axis=1)
                arrays[f"{side}/{within}/{name}"] = stacked
    return arrays


def write_zarr(path, array):
    chunks = [-(-size // 2) if size > 4 else size for size in array.shape]
    spec = {
        "driver": "zarr",
        "dtype": array.dtype.name,
        "kvstore": {"driver": "file", "path": str(path)},
        "metadata": {"compressor": {"id": "gzip"}, "shape": list(array.shape), "chunks": chunks},
    }
    tensorstore.open(spec, create=True).result().write(array).result()
    # As T5X has it in the msgpack file: the path is that of the bucket it was written to.
    return spec | {"kvstore": {"driver": "gfile", "path": f"/elsewhere/{path.name}"}}


def nested(arrays):
    tree = {}
    for name, leaf in arrays.items():
        *modules, last = name.split("/")
        place = tree
        for module in modules:
            place = place.setdefault(module, {})
        place[last] = leaf
    return tree


def write_checkpoint(folder, arrays, *, tree="specs", inline=""):
    """`tree`: what the msgpack file holds, "specs", "placeholders", or None for no file."""
    folder.mkdir(parents=True)
    prefix = "optimizer.target." if tree == "placeholders" else "target."
    leaves = {}
    for name, array in arrays.items():
        if inline and name.endswith(inline):
            leaves[name] = np.asarray(array)
            continue
        path = folder / (prefix + name.replace("/", "."))
        spec = write_zarr(path, array)
        leaves[name] = f"PLACEHOLDER://{path.name}" if tree == "placeholders" else spec
    if tree:
        # The state's folders are not there: nobody reads them.
        moments = {"driver": "zarr", "kvstore": {"driver": "file", "path": "state.param_states.a"}}
        state = {"step": np.int32(7), "param_states": {"a": {"v": moments, "m": None}}}
        contents = {"version": 3, "optimizer": {"target": nested(leaves), "state": state}}
        (folder / "checkpoint").write_bytes(msgpack_serialize(contents))
    return folder
