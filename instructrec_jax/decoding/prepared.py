"""A model's parameters as cached decoding reads them, made once for many calls."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from instructrec_jax.model.config import T5Config
from instructrec_jax.model.lora import merge_adapters
from instructrec_jax.model.t5 import decoder_layers


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PreparedModel:
    """What `T5.encode` and `T5.decode_step` read."""

    params: Any  # all but the decoder's layers
    layers: tuple[Any, ...]  # the parameters of each decoder layer


def inference_config(config: T5Config) -> T5Config:
    """`config` as decoding computes it: without dropout and remat, on CPUs in float32.

    A bfloat16 product of a matrix and few vectors is far slower than a float32 one there.
    """
    dtype = "float32" if jax.default_backend() == "cpu" else config.activation_dtype
    return dataclasses.replace(config, dropout_rate=0.0, remat="none", activation_dtype=dtype)


def prepared_model(params: Any, config: T5Config) -> tuple[PreparedModel, T5Config]:
    """The model and its config for decoding: adapters merged, kernels in the activation dtype.

    `params` may be prepared already. Norms and relative biases compute in float32 and stay so, and
    what has 8 bits keeps them.
    """
    config = inference_config(config)
    if not isinstance(params, PreparedModel):
        params = _prepared(params, config=config)
    return params, dataclasses.replace(config, lora=None)


@partial(jax.jit, static_argnames="config")
def _prepared(params: Any, *, config: T5Config) -> PreparedModel:
    if config.lora is not None:
        params = merge_adapters(params, config.lora)
    dtype = jnp.dtype(config.activation_dtype)

    def cast(path: tuple[Any, ...], leaf: Any) -> Any:
        names = [key.key for key in path]
        in_dtype = names[-1] in ("kernel", "embedding") and "relative_bias" not in names
        return leaf.astype(dtype) if in_dtype and leaf.dtype != jnp.int8 else leaf

    params = jax.tree_util.tree_map_with_path(cast, params)
    rest = {name: part for name, part in params["decoder"].items() if name != "layers"}
    return PreparedModel({**params, "decoder": rest}, decoder_layers(params))
