"""The parameters of a model folder on the host, one at a time: for conversion."""

import jax.numpy as jnp
import numpy as np

from instructrec_jax.errors import CheckpointError
from instructrec_jax.model.lora import ADAPTER_NAMES, merge_adapters
from instructrec_jax.training.checkpoint import restore_array
from instructrec_jax.training.fingerprint import fingerprint
from instructrec_jax.training.model_folder import Adapters, ModelFolder


def parameter_types(model: ModelFolder) -> dict[str, np.dtype]:
    """The type of each parameter by path: the stored one, float32 where adapters are merged."""
    if model.adapters is not None:
        return dict.fromkeys(parameter_types(model.adapters.base), np.dtype(np.float32))
    if model.source is not None:
        return dict(model.source.dtypes)
    types = model.stored_types
    return {name: jnp.dtype(types.get(name, "float32")) for name in model.checksums}


def read_parameter(model: ModelFolder, path: str) -> np.ndarray:
    """A parameter of all layers in the type that `parameter_types` says.

    Args:
      model: of `open_model`.
      path: such as "encoder/final_norm/scale".

    Raises:
      CheckpointError: the files are damaged, or the base of adapters is another one.
    """
    if model.adapters is not None:
        return _merged(model, model.adapters, path)
    if model.source is not None:
        return model.source.read(path)
    return restore_array(model.folder / model.item, path, model.checksums[path])


def _merged(model: ModelFolder, adapters: Adapters, path: str) -> np.ndarray:
    """A parameter of the base as the run kept it, with its adapters, if any, added in float32."""
    kept = read_parameter(adapters.base, path).astype(jnp.dtype(adapters.record["dtype"]))
    if fingerprint({path: kept})[path] != adapters.record["fingerprints"].get(path):
        raise CheckpointError(
            f"{adapters.base.folder} is not the base of the adapters in {model.folder}: {path} "
            "has other weights than when they were trained"
        )
    projection, _, name = path.rpartition("/")
    base, sums = kept.astype(np.float32), model.checksums
    if name != "kernel" or f"{projection}/{ADAPTER_NAMES[0]}" not in sums:
        return base
    low_rank = {
        adapter: restore_array(model.folder / model.item, name, sums[name])
        for adapter in ADAPTER_NAMES
        for name in [f"{projection}/{adapter}"]
    }
    return np.asarray(merge_adapters({"kernel": base, **low_rank}, adapters.lora)["kernel"])
