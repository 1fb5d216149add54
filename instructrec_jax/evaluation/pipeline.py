"""From a checkpoint and a dataset to metrics.json, predictions.jsonl and report.html."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from instructrec_jax.errors import ConfigError
from instructrec_jax.evaluation.data import EvaluationData, open_evaluation_data
from instructrec_jax.evaluation.files import finite, json_lines, json_text, write_whole
from instructrec_jax.evaluation.floors import most_frequent_targets
from instructrec_jax.evaluation.prediction import answer_examples
from instructrec_jax.evaluation.protocol import Answer, choose_examples, evaluate_answers
from instructrec_jax.evaluation.report import write_report
from instructrec_jax.evaluation.run_log import find_run_folder, read_run
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.writing import json_line
from instructrec_jax.model.t5 import parameter_count
from instructrec_jax.training.fingerprint import fingerprint
from instructrec_jax.training.model_folder import LoadedModel, ModelFolder, load_model, open_model

FORMAT_VERSION = 1


def evaluate_checkpoint(
    *,
    checkpoint: Path,
    dataset: Path,
    output: Path,
    split: str | None = None,
    max_examples_per_task: int = 0,
    batch_size: int = 32,
    max_new_tokens: int = 0,
    say: Callable[[str], None],
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a model, write the three files into the folder `output`, return metrics.json.

    Args:
        checkpoint: any folder that `open_model` takes.
        dataset: dataset folder, or file of instruction examples.
        output: folder, made where it is missing.
        split: None takes what training never saw, see `open_evaluation_data`.
        max_examples_per_task: bound for each task and hold-out, 0 = all.
        batch_size: examples decoded at once.
        max_new_tokens: 0 = the longest target that the model was trained on.
        say: told of each stage.
        progress: called with a stage, the number of examples done in it and of all.

    Raises:
        ConfigError, DataError, CheckpointError: something is wrong with what was given.
    """
    run_folder = find_run_folder(checkpoint)
    run = read_run(run_folder) if run_folder is not None else None
    data = open_evaluation_data(dataset, split=split, run=run)
    examples = choose_examples(data.examples, max_examples_per_task=max_examples_per_task)
    loaded = load_model(checkpoint)
    say(f"checkpoint: {loaded.description}")
    say(f"data: {_data_text(dataset, data, examples)}")
    _make_folder(output)
    limit = max_new_tokens or loaded.decoder_length
    answers = answer_examples(
        params=loaded.params,
        config=loaded.config,
        tokenizer=loaded.tokenizer,
        examples=examples,
        batch_size=batch_size,
        max_new_tokens=limit,
        encoder_length=loaded.encoder_length,
        progress=progress,
    )
    frequent = most_frequent_targets(examples, data.train_examples())
    evaluation = evaluate_answers(examples=examples, answers=answers, frequent=frequent)
    record = {
        "format_version": FORMAT_VERSION,
        "checkpoint": _checkpoint_record(checkpoint, loaded),
        "dataset": _dataset_record(dataset, data, limit=max_examples_per_task),
        "decoding": _decoding_record(loaded, answers, limit=limit),
        **evaluation.figures,
    }
    metrics = finite(record)
    _write_files(output, run_folder, metrics, evaluation.predictions)
    return metrics


def is_current(output: Path, *, checkpoint: Path, dataset: Path) -> bool:
    """Whether `output` holds an evaluation of just these parameters on just these examples.

    Raises:
        DataError, CheckpointError: the dataset or checkpoint cannot be read.
    """
    try:
        metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
        held = (metrics["checkpoint"]["fingerprint"], metrics["dataset"]["sha256"])
        split = metrics["dataset"]["split"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if not (output / "predictions.jsonl").is_file():
        return False
    model = open_model(checkpoint)
    if model.source is not None:
        return False  # Its weights have no checksums on disk.
    run_folder = find_run_folder(checkpoint)
    run = read_run(run_folder) if run_folder is not None else None
    data = open_evaluation_data(dataset, split=None, run=run)
    found = (_fingerprint(model), _examples_hash(data.examples))
    return held == found and split == data.split


def _fingerprint(model: ModelFolder) -> str:
    """Hash of the parameters' checksums, of adapters and of their base."""
    if isinstance(model, LoadedModel) and model.source is not None:
        checksums = fingerprint(model.params)
    else:
        checksums = dict(model.checksums)
    if model.adapters is not None:
        checksums |= model.adapters.record["fingerprints"]
    return hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()


def _examples_hash(examples: Sequence[InstructionExample]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json_line(example.to_record()).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _write_files(
    output: Path,
    run_folder: Path | None,
    metrics: dict[str, Any],
    predictions: list[dict[str, Any]],
) -> None:
    write_whole(output / "predictions.jsonl", json_lines(predictions))
    write_whole(output / "metrics.json", json_text(metrics))
    write_report(
        run_folder=run_folder,
        metrics=metrics,
        predictions=predictions,
        output=output / "report.html",
    )


def _checkpoint_record(path: Path, loaded: LoadedModel) -> dict[str, Any]:
    return {
        "path": str(path),
        "description": loaded.description,
        "step": loaded.step,
        "fingerprint": _fingerprint(loaded),
        "parameters": parameter_count(loaded.config),
        "tokenizer_sha256": loaded.tokenizer.sha256,
    }


def _dataset_record(path: Path, data: EvaluationData, *, limit: int) -> dict[str, Any]:
    return {
        "path": str(path),
        "split": data.split,
        "examples": len(data.examples),
        "sha256": _examples_hash(data.examples),
        "max_examples_per_task": limit,
        "note": data.note,
    }


def _data_text(path: Path, data: EvaluationData, chosen: Sequence[InstructionExample]) -> str:
    split = f", {data.split} split" if data.split else ""
    tasks = len({example.task for example in chosen})
    note = f"; {data.note}" if data.note else ""
    return (
        f"{len(chosen):,} of {len(data.examples):,} examples of {path}{split}, {tasks} tasks{note}"
    )


def _decoding_record(
    loaded: LoadedModel, answers: Sequence[Answer], *, limit: int
) -> dict[str, Any]:
    """How outputs were searched for, and how many examples the limits touch (eos counted)."""
    return {
        "search": "greedy",
        "max_new_tokens": limit,
        "encoder_length": loaded.encoder_length,
        "inputs_cut": sum(answer.input_cut for answer in answers),
        "demonstrations_left_out": sum(answer.demonstrations_left_out for answer in answers),
        "targets_longer_than_limit": sum(answer.target_tokens > limit for answer in answers),
        "outputs_stopped_by_limit": sum(answer.stop_reason == "length" for answer in answers),
    }


def _make_folder(output: Path) -> None:
    """Make the output folder and try it out, before the work and not after it."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(output / ".writable", "")
        (output / ".writable").unlink()
    except OSError as error:
        raise ConfigError(f"--output={output} cannot be written: {error.strerror}") from error
