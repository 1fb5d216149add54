"""config.json of the T5 family: what it says of a model, and the one that we write."""

from collections.abc import Mapping
from typing import Any

from instructrec_jax.data.tokenizer import EOS_ID, PAD_ID
from instructrec_jax.errors import CheckpointError
from instructrec_jax.model.config import T5Config

# The class of each model type, and the feed-forward layer where config.json names none.
_MODEL_TYPES = {
    "t5": ("T5ForConditionalGeneration", "relu"),
    "mt5": ("MT5ForConditionalGeneration", "gated-gelu"),
    "umt5": ("UMT5ForConditionalGeneration", "gated-gelu"),
}
# Theirs and ours. The tanh form of gelu has several names, for several ways to compute it.
_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu_exact",
    "gelu_python": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_accurate": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_python_tanh": "gelu",
    "silu": "silu",
    "swish": "silu",
}
# Ours, gated or not, and the `feed_forward_proj` that we write. "gated-gelu" means the tanh form.
_FEED_FORWARDS = {
    ("relu", False): "relu",
    ("relu", True): "gated-relu",
    ("gelu", False): "gelu_new",
    ("gelu", True): "gated-gelu",
    ("gelu_exact", False): "gelu",
    ("gelu_exact", True): "gated-gelu_python",
    ("silu", False): "silu",
    ("silu", True): "gated-silu",
}
# Ours and theirs; the numbers that a config.json must state, and those with a default.
_SIZE_FIELDS = {
    "d_model": "d_model",
    "head_size": "d_kv",
    "num_heads": "num_heads",
    "d_ff": "d_ff",
    "num_encoder_layers": "num_layers",
}
_OPTIONAL_FIELDS: dict[str, tuple[str, int | float]] = {
    "relative_attention_buckets": ("relative_attention_num_buckets", 32),
    "relative_attention_max_distance": ("relative_attention_max_distance", 128),
    "layer_norm_epsilon": ("layer_norm_epsilon", 1e-6),
    "dropout_rate": ("dropout_rate", 0.1),
}
_TOKEN_FIELDS = {
    "pad_token_id": PAD_ID,
    "eos_token_id": EOS_ID,
    "decoder_start_token_id": PAD_ID,
}
# What a config says besides the fields above; they are not handed on as they were.
_DERIVED_FIELDS = ("transformers_version", "dense_act_fn", "is_gated_act")


def check_architecture(fields: Mapping[str, Any]) -> None:
    """Refuses a config.json that is not of the T5 family, or that differs in its conventions.

    Raises:
      CheckpointError: saying what is supported.
    """
    found = fields.get("model_type")
    if not isinstance(found, str) or found not in _MODEL_TYPES:
        raise CheckpointError(
            f"config.json: model_type {found!r} is not supported; t5, mt5 and umt5 are"
        )
    if fields.get("is_encoder_decoder", True) is not True:
        raise CheckpointError(
            "config.json: is_encoder_decoder is not true; a model needs an encoder and a decoder"
        )
    _feed_forward(fields)
    for name, ours in _TOKEN_FIELDS.items():
        if fields.get(name) not in (None, ours, [ours]):
            raise CheckpointError(f"config.json: {name} is {fields[name]!r}; T5's is {ours}")


def _feed_forward(fields: Mapping[str, Any]) -> tuple[str, bool]:
    """Our activation, and whether it is gated."""
    projection = fields.get("feed_forward_proj", _MODEL_TYPES[fields["model_type"]][1])
    gate, _, activation = str(projection).rpartition("-")
    if projection == "gated-gelu":
        activation = "gelu_new"
    # transformers writes both beside `feed_forward_proj`, and reads them before it.
    activation = fields.get("dense_act_fn", activation)
    gated = fields.get("is_gated_act", gate == "gated")
    known = isinstance(activation, str) and activation in _ACTIVATIONS
    if gate not in ("", "gated") or not known or not isinstance(gated, bool):
        raise CheckpointError(
            f"config.json: feed_forward_proj {projection!r} (activation {activation!r}) is not "
            f"supported; {', '.join(_ACTIVATIONS)} are, with gated- before them or not"
        )
    return _ACTIVATIONS[activation], gated


def scales_decoder_output(fields: Mapping[str, Any]) -> bool:
    """Whether the head's input is scaled by d_model^-0.5.

    transformers scales where `tie_word_embeddings` is not false, and mt5's default is false. For
    t5, version 5 writes true for any model, and beside it `scale_decoder_outputs`, as version 5.24
    does for umt5; for mt5, version 5 never scales.
    """
    asked = fields.get("scale_decoder_outputs")
    if isinstance(asked, bool):
        return asked
    if fields.get("model_type") == "mt5":
        return fields.get("tie_word_embeddings") is True and _major_version(fields) < 5
    return is_said_to_be_tied(fields)


def is_said_to_be_tied(fields: Mapping[str, Any]) -> bool:
    """Whether the head is the embedding; transformers 5 writes so of any model."""
    return fields.get("tie_word_embeddings") is not False


def _major_version(fields: Mapping[str, Any]) -> int:
    """Of the transformers that wrote the file; 0 where it says none."""
    number = str(fields.get("transformers_version", "")).partition(".")[0]
    return int(number) if number.isdecimal() else 0


def config_from_json(
    fields: Mapping[str, Any], *, vocabulary_size: int, tied: bool, activation_dtype: str
) -> T5Config:
    """The config of a config.json that `check_architecture` lets pass.

    Args:
      fields: the file's.
      vocabulary_size: rows of the embedding; config.json may say otherwise.
      tied: the head is the embedding, as the tensors show.
      activation_dtype: see `T5Config`.

    Raises:
      CheckpointError: a size is missing or impossible.
    """
    values: dict[str, Any] = {ours: fields.get(theirs) for ours, theirs in _SIZE_FIELDS.items()}
    decoder_layers = fields.get("num_decoder_layers")
    values["num_decoder_layers"] = (
        values["num_encoder_layers"] if decoder_layers is None else decoder_layers
    )
    for ours, value in values.items():
        if type(value) is not int:
            name = _SIZE_FIELDS.get(ours, ours)
            raise CheckpointError(f"config.json: {name} must be a whole number, not {value!r}")
    for ours, (theirs, default) in _OPTIONAL_FIELDS.items():
        values[ours] = fields.get(theirs, default)
        if type(values[ours]) not in (int, type(default)):
            raise CheckpointError(f"config.json: {theirs} is {values[ours]!r}")
    activation, gated = _feed_forward(fields)
    try:
        return T5Config(
            **values,
            vocabulary_size=vocabulary_size,
            shared_relative_bias=fields["model_type"] != "umt5",
            activation=activation,
            gated_feed_forward=gated,
            tied_embeddings=tied,
            scale_decoder_output=scales_decoder_output(fields),
            activation_dtype=activation_dtype,
        )
    except ValueError as error:
        raise CheckpointError(f"config.json: {error}") from None


def foreign_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json says besides what `config_to_json` makes from a model's config."""
    computed = _computed_fields()
    return {name: value for name, value in fields.items() if name not in computed}


def _computed_fields() -> set[str]:
    sizes = {*_SIZE_FIELDS.values(), *(theirs for theirs, _ in _OPTIONAL_FIELDS.values())}
    others = "is_encoder_decoder vocab_size num_decoder_layers feed_forward_proj"
    others += " tie_word_embeddings scale_decoder_outputs dtype torch_dtype"
    return {*sizes, *_TOKEN_FIELDS, *_DERIVED_FIELDS, *others.split()}


def config_to_json(
    config: T5Config, *, dtype: str = "float32", foreign: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields of config.json for transformers 4 and 5.

    Args:
      config: of a model without adapters.
      dtype: of the weights, "float32", "float16" or "bfloat16".
      foreign: of `foreign_fields`, where the model came with a config.json.
    """
    foreign = dict(foreign or {})
    came_as = foreign.pop("model_type", "t5")
    model_type = _model_type(config, came_as)
    architectures = foreign.pop("architectures", None)
    if architectures is None or model_type != came_as:
        architectures = [_MODEL_TYPES[model_type][0]]
    return {
        "architectures": architectures,
        "model_type": model_type,
        "is_encoder_decoder": True,
        "vocab_size": config.vocabulary_size,
        **{theirs: getattr(config, ours) for ours, theirs in _SIZE_FIELDS.items()},
        "num_decoder_layers": config.num_decoder_layers,
        **{theirs: getattr(config, ours) for ours, (theirs, _) in _OPTIONAL_FIELDS.items()},
        "feed_forward_proj": _FEED_FORWARDS[config.activation, config.gated_feed_forward],
        "tie_word_embeddings": config.tied_embeddings,
        "scale_decoder_outputs": config.scale_decoder_output,
        **_TOKEN_FIELDS,
        "dtype": dtype,
        "torch_dtype": dtype,
        **foreign,
    }


def generation_config(foreign: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of generation_config.json; `foreign` is the one that the model came with."""
    return {**_TOKEN_FIELDS, **foreign}


def umt5_remarks(config: T5Config, model_type: str) -> list[str]:
    """Where some transformers compute another model from the same config.json."""
    if model_type != "umt5" or config.scale_decoder_output:
        return []
    return [
        "transformers 5.0 to 5.23 scale the logits of every umt5, this model and transformers 5.24 "
        "do not: greedy answers are the same in all, probabilities are not"
    ]


def export_remarks(config: T5Config, foreign: Mapping[str, Any]) -> list[str]:
    """What a person should know of transformers and this model."""
    model_type = _model_type(config, foreign.get("model_type", "t5"))
    came_as = foreign.get("model_type", model_type)
    remarks = umt5_remarks(config, model_type)
    if model_type != came_as:
        remarks.append(
            f"exported as {model_type}, not {came_as}: transformers 5 computes it as this model"
        )
    return remarks


def _model_type(config: T5Config, came_as: str) -> str:
    """The model type whose class in transformers computes this model."""
    if not config.shared_relative_bias:
        return "umt5"
    # mT5 is T5 with another vocabulary, but transformers 5 never scales its decoder's output.
    return "mt5" if came_as == "mt5" and not config.scale_decoder_output else "t5"
