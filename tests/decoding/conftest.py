"""Fixed weights for the tests of decoding; the helpers of the model's tests are used here too."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "model"))

from character_model import CONFIG
from reference import fixed_parameters


@pytest.fixture(scope="session")
def params():
    return fixed_parameters(CONFIG)
