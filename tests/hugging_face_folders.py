"""Tiny models and Hugging Face folders, for tests of the conversion."""

import dataclasses
import json

from model.reference import CONFIGS, fixed_parameters
from safetensors.numpy import load_file, save_file

from instructrec_jax.data.tokenizer_training import train_tokenizer
from instructrec_jax.training.checkpoint import save_model
from instructrec_jax.training.conversion import open_source, write_hugging_face, write_orbax


def config_of(name="v1_1", **changes):
    return dataclasses.replace(CONFIGS[name], vocabulary_size=384, **changes)


def write_model(folder, config, tokenizer, **options):
    save_model(
        folder,
        params=fixed_parameters(config),
        config=config,
        tokenizer=tokenizer,
        encoder_length=32,
        decoder_length=8,
        **options,
    )
    return folder


def to_hugging_face(source, target, **options):
    lines = []
    write_hugging_face(open_source(source), target, tell=lines.append, **options)
    return lines


def to_orbax(source, target, **options):
    lines = []
    write_orbax(open_source(source), target, tell=lines.append, **options)
    return lines


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def add_tokenizer(folder, tokenizer):
    for name, content in tokenizer.hugging_face_files().items():
        (folder / name).write_bytes(content)


def all_tensors(folder):
    files = [load_file(path) for path in folder.glob("*.safetensors")]
    return {name: tensor for file in files for name, tensor in file.items()}


def small_tokenizer():
    texts = [f"line {n}: count {n * n} words\n" for n in range(300)]
    return train_tokenizer(texts, vocabulary_size=360, sentinels=4, seed=0)


def write_both(folder):
    """A model folder and what `--to=hf` makes of it: `folder/model` and `folder/hf`."""
    write_model(folder / "model", config_of(), small_tokenizer())
    to_hugging_face(folder / "model", folder / "hf")
    return folder
