"""Writes goldens/*.npz: what transformers computes with the fixed weights of reference.py.

    python tests/model/make_goldens.py

Needs the `dev` extra. The tests read the files without torch.
"""

from pathlib import Path

import numpy as np
from reference import CONFIGS, fixed_parameters, padded_batch, transformers_results


def main() -> None:
    """One file a config, at most 40 kB each."""
    folder = Path(__file__).parent / "goldens"
    folder.mkdir(exist_ok=True)
    for name, config in CONFIGS.items():
        params, batch = fixed_parameters(config), padded_batch(config)
        results = transformers_results(config, params, batch, name=name)
        np.savez_compressed(folder / f"{name}.npz", **results)


if __name__ == "__main__":
    main()
