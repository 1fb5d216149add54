"""A T5 as T5X stores it: T5 1.0 and 1.1, Flan-T5, mT5, ByT5, UL2, umT5.

The folder is a `checkpoint_STEP`, or one that holds several, of which the newest is taken. Read are
zarr arrays and msgpack, layers numbered or scanned, heads joined or apart: see t5x_arrays.py and
t5x_names.py. The optimizer's state is left alone. T5X keeps no configuration beside the weights but
a gin file: sizes are read off the shapes, and what shapes do not show is T5's own unless an
architecture is named. No tokenizer is there either. Without the msgpack file nothing but a named
architecture tells that the last layers were not copied.

The layout is that of T5X's code. The tests write it themselves; no published checkpoint was at
hand.
"""

import math
from pathlib import Path

import numpy as np

from instructrec_jax.errors import CheckpointError
from instructrec_jax.model.config import T5Config, t5_config
from instructrec_jax.model.t5x_arrays import T5XArrays
from instructrec_jax.model.t5x_names import EMBEDDING, HEAD, Entry, Stack, entries, find_stack

# Of these the decoder's last norm is reported to have no scale, which is a scale of ones: the plan
# says so.
_UNSCALED_DECODERS = ("ul2", "flan_ul2")
_DECODER_NORM = "decoder/decoder_norm/scale"


class T5XFolder:
    """The parameters of a T5X checkpoint, one at a time.

    Attributes:
      config: of the model.
      dtypes: the stored type of each parameter by path, "encoder/final_norm/scale": float32,
        float16 or bfloat16.
      plan: one line an array: its name, shape, type and the parameter that it becomes; then what
        was left out and what was assumed.
      description: what was found, for a person.
    """

    def __init__(self, folder: Path, *, architecture: str = "") -> None:
        """Reads what describes the arrays and checks all of it; reads no weights.

        Args:
          folder: `checkpoint_STEP`, or the folder that holds it.
          architecture: a name in families.ARCHITECTURES, whose activation, scaling and greatest
            relative distance hold; shapes must be its own. Without one they are T5's: gated GELU or
            plain ReLU, scaled where the head is tied, 128.

        Raises:
          CheckpointError: the checkpoint is damaged, incomplete or another model's.
          ConfigError: the architecture is unknown.
        """
        self._arrays = T5XArrays(folder)
        stacks = [self._stack(side) for side in ("encoder", "decoder")]
        sizes = self._sizes(stacks[0])
        depths = {stack.side: self._depth(stack) for stack in stacks}
        found = {
            "d_model": sizes["D"],
            "head_size": sizes["K"],
            "num_heads": sizes["H"],
            "d_ff": sizes["F"],
            "num_encoder_layers": depths["encoder"],
            "num_decoder_layers": depths["decoder"],
            "relative_attention_buckets": sizes["B"],
            "shared_relative_bias": stacks[0].shared_bias,
            "gated_feed_forward": stacks[0].first("mlp/wi_0/kernel") in self._arrays.shapes,
            "tied_embeddings": HEAD not in self._arrays.shapes,
        }
        self.config = self._config(found, sizes["V"], architecture)
        table = entries(
            stacks, gated=self.config.gated_feed_forward, tied=self.config.tied_embeddings
        )
        self._table = {entry.path: entry for entry in table}
        self._ones = architecture in _UNSCALED_DECODERS and (
            _DECODER_NORM not in self._arrays.shapes
        )
        if self._ones:
            del self._table["decoder/final_norm/scale"]
        for entry in self._table.values():
            self._check(entry, sizes | {"L": depths.get(entry.path.split("/")[0], 0)})
        known = {name for entry in self._table.values() for name in entry.names}
        for name in sorted(self._arrays.shapes.keys() - known):
            raise self._error(name, "belongs to no T5 of these layers")
        self.dtypes = {path: self._dtype(entry) for path, entry in self._table.items()}
        if self._ones:
            self.dtypes["decoder/final_norm/scale"] = np.dtype(np.float32)
        self.plan = self._plan(architecture)
        layers = f"{depths['encoder']} and {depths['decoder']} layers"
        kind = "scanned" if stacks[0].scanned else "numbered"
        types = ", ".join(sorted({dtype.name for dtype in self.dtypes.values()}))
        self.description = f"T5X checkpoint {self._arrays.folder}, {layers} ({kind}), {types}"

    def read(self, path: str) -> np.ndarray:
        """A parameter, of all layers, in its stored type and our layout.

        Holds it and one array. KeyError: the model has no such parameter.

        Raises:
          CheckpointError: a file of it is damaged.
        """
        if self._ones and path == "decoder/final_norm/scale":
            return np.ones(self.config.d_model, np.float32)
        entry, dtype = self._table[path], self.dtypes[path]
        if entry.scanned or not entry.stacked:
            array = entry.ours(self._arrays.read(entry.names[0]))
            return np.ascontiguousarray(array, dtype=dtype)
        parameter: np.ndarray | None = None
        for number, name in enumerate(entry.names):
            layer = entry.ours(self._arrays.read(name))
            if parameter is None:
                parameter = np.empty((len(entry.names), *layer.shape), dtype)
            parameter[number] = layer
        assert parameter is not None  # a stack has layers
        return parameter

    def _error(self, name: str, problem: str) -> CheckpointError:
        return CheckpointError(f"{self._arrays.folder}: array {self._arrays.label(name)} {problem}")

    def _stack(self, side: str) -> Stack:
        stack = find_stack(self._arrays.shapes, side)
        if stack is None:
            raise CheckpointError(
                f"{self._arrays.folder}: no T5, the {side} has no layers 0, 1, 2, ... (arrays "
                f"target.{side}.layers_0.* or, of all layers, target.{side}.layers.* or "
                f"target.{side}.{side}.*)"
            )
        return stack

    def _shape(self, name: str, *ranks: int) -> tuple[int, ...]:
        """The shape of an array whose sizes become the model's."""
        shape = self._arrays.shapes.get(name)
        if shape is None:
            raise self._error(name, "is missing")
        if len(shape) not in ranks or not all(shape):
            raise self._error(name, f"has shape {list(shape)}, which no T5 has")
        return shape

    def _sizes(self, encoder: Stack) -> dict[str, int]:
        """The sizes of the axes by letter."""
        vocabulary, d_model = self._shape(EMBEDDING, 2)
        scanned = int(encoder.scanned)
        bias = encoder.bias if encoder.shared_bias else encoder.first(encoder.bias)
        shape = self._shape(bias, 2 if encoder.shared_bias else 2 + scanned)
        heads, buckets = shape[0], shape[-1]
        query = encoder.first("attention/query/kernel")
        shape = self._shape(query, 2 + scanned, 3 + scanned)
        joined = math.prod(shape[1 + scanned :])
        if joined % heads:
            raise self._error(
                query,
                f"has shape {list(shape)}, which is no multiple of the {heads} heads of "
                f"{self._arrays.label(bias)}",
            )
        d_ff = self._shape(encoder.first("mlp/wo/kernel"), 2 + scanned)[0]
        return {
            "V": vocabulary,
            "D": d_model,
            "H": heads,
            "K": joined // heads,
            "F": d_ff,
            "B": buckets,
        }

    def _depth(self, stack: Stack) -> int:
        if not stack.scanned:
            return len(stack.layers)
        return self._shape(stack.first("pre_mlp_layer_norm/scale"), 2)[1]

    def _config(self, found: dict[str, int], vocabulary: int, architecture: str) -> T5Config:
        # Float32 files are computed in float32, so that the outputs stay those of the source.
        dtype = self._arrays.dtypes[EMBEDDING]
        computed = "float32" if dtype == np.float32 else "bfloat16"
        if not architecture:
            activation = "gelu" if found["gated_feed_forward"] else "relu"
            try:
                return T5Config.from_dict(
                    {
                        **found,
                        "vocabulary_size": vocabulary,
                        "activation": activation,
                        "activation_dtype": computed,
                    }
                )
            except ValueError as error:
                raise CheckpointError(f"{self._arrays.folder}: {error}") from None
        config = t5_config(architecture, vocabulary_size=vocabulary, activation_dtype=computed)
        wrong = [
            f"{name} {getattr(config, name)} (found {value})"
            for name, value in found.items()
            if getattr(config, name) != value
        ]
        if wrong:
            raise CheckpointError(
                f"{self._arrays.folder} is not of architecture {architecture}, which has "
                f"{', '.join(wrong)}"
            )
        return config

    def _check(self, entry: Entry, sizes: dict[str, int]) -> None:
        possible = entry.shapes(sizes)
        for name in entry.names:
            shape = self._arrays.shapes.get(name)
            if shape is None:
                raise self._error(name, "is missing")
            if shape not in possible:
                expected = " or ".join(str(list(one)) for one in possible)
                raise self._error(
                    name, f"has shape {list(shape)}; the other arrays make it {expected}"
                )

    def _dtype(self, entry: Entry) -> np.dtype:
        """The stored type; float32, which holds all of them, where layers differ."""
        types = {self._arrays.dtypes[name] for name in entry.names}
        return types.pop() if len(types) == 1 else np.dtype(np.float32)

    def _plan(self, architecture: str) -> list[str]:
        lines = []
        for path, entry in self._table.items():
            for number, name in enumerate(entry.names):
                layer = f"[{number}]" if entry.stacked and not entry.scanned else ""
                kind = f"{list(self._arrays.shapes[name])} {self._arrays.dtypes[name].name}"
                notes = ", layers first" if entry.scanned else ""
                notes += ", transposed" if entry.axes == "HB" else ""
                lines.append(f"{self._arrays.label(name)} {kind} -> {path}{layer}{notes}")
        if self._ones:
            lines.append(f"ones [{self.config.d_model}] -> decoder/final_norm/scale")
        if self._arrays.ignored:
            lines.append(f"left out: {self._arrays.ignored} arrays of the optimizer's state")
        config = self.config
        lines.append(
            f"not in the checkpoint, {architecture or 'T5'}'s own: "
            f"activation {config.activation}, "
            f"decoder output {'' if config.scale_decoder_output else 'not '}scaled, "
            f"greatest relative distance {config.relative_attention_max_distance}"
        )
        return lines
