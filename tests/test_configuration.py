from pathlib import Path

import pytest

from instructrec_jax.command_line import split_overrides
from instructrec_jax.configuration import config_record, load_config
from instructrec_jax.errors import ConfigError, nearest

BASE = "configs/base.py"


def write_config(tmp_path: Path, body: str) -> str:
    file = tmp_path / "own.py"
    file.write_text(
        "from configs import base\ndef get_config(argument=''):\n"
        f"    config = base.get_config()\n    {body}\n    return config\n"
    )
    return str(file)


def test_values_and_origins_of_base_file_and_command_line(tmp_path):
    file = write_config(tmp_path, "config.train.steps = 7")
    config, origins = load_config(file, {"train.batch_size": "4", "seed": "3"})
    assert (config.train.steps, config.train.batch_size, config.seed) == (7, 4, 3)
    assert origins["train.steps"] == file
    assert origins["train.batch_size"] == "command line"
    assert origins["train.objective"] == BASE
    assert config_record(config, origins)["config"]["train"]["steps"] == 7


def test_argument_after_the_colon_reaches_get_config(tmp_path):
    file = write_config(tmp_path, "config.model.name = argument or 'none'")
    assert load_config(f"{file}:tiny", {})[0].model.name == "tiny"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("build.languages", "zh,de", ("zh", "de")),
        ("build.languages", "('zh', 'de')", ("zh", "de")),
        ("build.languages", "zh", ("zh",)),
        ("build.languages", "()", ()),
        ("build.languages", "", ()),
        ("train.hung_step_exit", "false", False),
        ("optimizer.learning_rate", "1e-2", 0.01),
        ("mesh.data", "-1", -1),
        ("workdir", "runs/7", "runs/7"),
    ],
)
def test_override_takes_the_type_of_the_default(key, text, value):
    config, _ = load_config(BASE, {key: text})
    section, _, name = key.rpartition(".")
    found = config[section][name] if section else config[name]
    assert found == value
    assert type(found) is type(value)


def test_free_sections_take_new_keys():
    config, _ = load_config(BASE, {"optimizer.options.b1": "0.8", "data.mixture_rates.sum": "2"})
    assert config.optimizer.options.b1 == 0.8
    assert config.data.mixture_rates["sum"] == 2


def test_all_problems_stand_in_one_message():
    with pytest.raises(ConfigError) as caught:
        load_config(
            BASE,
            {
                "train.stps": "7",
                "train.steps": "1.5",
                "checkpoint.every": "1e3",
                "train.learning_rate": "1",
                "train": "3",
            },
        )
    message = str(caught.value)
    assert "did you mean 'train.steps'" in message
    assert "takes a whole number" in message
    assert "did you mean 'optimizer.learning_rate'" in message
    assert "--config.checkpoint.every=1e3: takes a whole number; write 1000" in message
    assert "'train' is a section" in message
    assert caught.value.exit_code == 2


def test_a_config_file_cannot_add_or_retype_keys(tmp_path):
    file = tmp_path / "partial.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'train': {'stesp': 7, 'steps': 'many'}})\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(str(file), {})
    assert "unknown key 'train.stesp'; did you mean 'train.steps'" in str(caught.value)
    assert "'train.steps' takes a whole number, not 'many'" in str(caught.value)
    with pytest.raises(ConfigError, match="batch_size"):
        load_config(write_config(tmp_path, "config.train.batch_size = 'many'"), {})


def test_a_config_file_that_fails_is_named(tmp_path):
    with pytest.raises(ConfigError, match="own.py fails: ZeroDivisionError"):
        load_config(write_config(tmp_path, "1 / 0"), {})
    with pytest.raises(ConfigError, match="did you mean 'configs/t5_base.py'"):
        load_config("configs/t5_bse.py", {})


def test_the_loaded_config_is_locked():
    config, _ = load_config(BASE, {})
    with pytest.raises(AttributeError):
        config.train.stesp = 1


def test_overrides_are_separated_from_flags():
    rest, overrides = split_overrides(
        ["train", "--config=a.py", "--config.train.steps=3", "--config.mesh.data", "-1", "--debug"]
    )
    assert rest == ["train", "--config=a.py", "--debug"]
    assert overrides == {"train.steps": "3", "mesh.data": "-1"}
    with pytest.raises(ConfigError, match="has no value"):
        split_overrides(["train", "--config.train.steps"])


def test_nearest_prefers_close_spelling_then_the_same_last_part():
    known = ("train.steps", "optimizer.learning_rate")
    assert "train.steps" in nearest("train.step", known)
    assert "optimizer.learning_rate" in nearest("x.learning_rate", known)
    assert nearest("zzz", known) == ""


@pytest.mark.parametrize("file", sorted(Path("configs").glob("*.py")), ids=str)
def test_every_shipped_config_loads_and_names_its_own_command(file):
    load_config(str(file), {})
    if file.name != "base.py":
        assert f"--config={file}" in file.read_text().split('"""')[1]
