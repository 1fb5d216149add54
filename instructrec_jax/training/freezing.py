"""Which parameters a run trains, and the two parts that a parameter tree falls into.

Trained parameters have gradients and optimizer state; frozen ones stay bit for bit as they began.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from instructrec_jax.errors import nearest
from instructrec_jax.model.lora import is_adapter
from instructrec_jax.training.sharding import path_name


@dataclass(frozen=True)
class Freezing:
    """What stays as it is. The defaults train everything.

    Attributes:
        patterns: regexes; a parameter whose whole path matches one of them is frozen.
        adapters_only: everything but the adapters of LoRA is frozen.
        dtype: frozen parameters are kept in it, "float32" or "bfloat16".
    """

    patterns: tuple[str, ...] = ()
    adapters_only: bool = False
    dtype: str = "float32"

    def freezes(self, path: str) -> bool:
        """Whether a parameter ("encoder/layers/feed_forward/up/kernel") is frozen."""
        if self.adapters_only:
            return not is_adapter(path)
        return any(re.fullmatch(pattern, path) for pattern in self.patterns)


ADAPTERS_ONLY = Freezing(adapters_only=True)


def freezing_problems(freezing: Freezing, parameters: Any) -> list[str]:
    """A line for each pattern that freezes nothing, and one if nothing is left to train.

    Args:
        freezing: of a run.
        parameters: the model's parameter tree, of arrays or ShapeDtypeStructs.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(parameters)]
    problems = pattern_problems("optimizer.freeze", freezing.patterns, paths)
    if not problems and all(map(freezing.freezes, paths)):
        problems.append("optimizer.freeze leaves no parameter to train")
    return problems


def pattern_problems(key: str, patterns: Iterable[str], paths: Sequence[str]) -> list[str]:
    """A line for each pattern that is no regex or matches no path.

    Args:
        key: of the config, that has the patterns.
        patterns: regexes, each to match whole paths.
        paths: of all parameters.
    """
    problems = []
    for pattern in patterns:
        try:
            matches = any(re.fullmatch(pattern, path) for path in paths)
        except (re.error, TypeError) as error:
            problems.append(f"{key}: '{pattern}' is not a regex: {error}")
            continue
        if not matches:
            problems.append(
                f"{key}: '{pattern}' matches no parameter{nearest(pattern, paths)}; a pattern "
                "matches a whole path, as encoder/.* does"
            )
    return problems


def split(parameters: Any, freezing: Freezing) -> tuple[Any, Any]:
    """The trained and the frozen parameters, nested dicts both; frozen ones in their dtype."""
    frozen = _filtered(parameters, freezing, frozen=True)
    frozen = jax.tree.map(lambda leaf: leaf.astype(freezing.dtype), frozen)
    return _filtered(parameters, freezing, frozen=False), frozen


def _filtered(
    parameters: Mapping[str, Any], freezing: Freezing, *, frozen: bool, prefix: str = ""
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in parameters.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            if part := _filtered(value, freezing, frozen=frozen, prefix=f"{path}/"):
                kept[name] = part
        elif freezing.freezes(path) == frozen:
            kept[name] = value
    return kept


def joined(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """The union of two nested dicts; a leaf that both have comes from the right one."""
    result = dict(left)
    for name, value in right.items():
        both = isinstance(value, Mapping) and name in result
        result[name] = joined(result[name], value) if both else value
    return result
