"""From a checkpoint and a dataset to metrics.json, predictions.jsonl and report.html."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from instructrec_jax.decoding.choosing import ChooseBy
from instructrec_jax.decoding.loading import load_decode_model
from instructrec_jax.errors import ConfigError
from instructrec_jax.evaluation import breakdown
from instructrec_jax.evaluation.benchmarks import Benchmark, find_benchmark
from instructrec_jax.evaluation.code_checks import Check, checks_of, passes
from instructrec_jax.evaluation.data import EvaluationData, open_evaluation_data
from instructrec_jax.evaluation.files import finite, json_lines, json_text, write_whole
from instructrec_jax.evaluation.floors import UNTRAINED, most_frequent_targets
from instructrec_jax.evaluation.metrics import PRIMARY_METRIC
from instructrec_jax.evaluation.prediction import Respondent, answer_examples
from instructrec_jax.evaluation.protocol import (
    Answer,
    Evaluation,
    Passes,
    choose_examples,
    evaluate_answers,
    first_examples,
)
from instructrec_jax.evaluation.report import write_report
from instructrec_jax.evaluation.rewording import Wordings
from instructrec_jax.evaluation.run_log import RunLog, find_run_folder, read_run
from instructrec_jax.evaluation.sensitivity import Respond, Sensitivity, measure_sensitivity
from instructrec_jax.evaluation.shots import with_shots
from instructrec_jax.instructions.example import InstructionExample
from instructrec_jax.instructions.execution import Sandbox
from instructrec_jax.instructions.writing import json_line
from instructrec_jax.model.t5 import init_parameters, parameter_count
from instructrec_jax.training.fingerprint import fingerprint
from instructrec_jax.training.model_folder import LoadedModel, ModelFolder, open_model

FORMAT_VERSION = 3
PREDICTIONS, SENSITIVITY = "predictions.jsonl", "sensitivity.jsonl"
# What generated code may use of time (seconds, lines) and memory for all the tests of an example.
_CODE_SECONDS, _CODE_STEPS, _CODE_MEBIBYTES = 10.0, 1_000_000, 1_024


def evaluate_checkpoint(
    *,
    checkpoint: Path,
    dataset: Path,
    output: Path,
    split: str | None = None,
    benchmark: str = "",
    max_examples_per_task: int = 0,
    batch_size: int = 32,
    max_new_tokens: int = 0,
    shots: int | None = None,
    choose_by: ChooseBy | None = None,
    untrained_floor: bool = False,
    sensitivity_examples: int = 0,
    mesh: Mesh | None = None,
    dtype: str = "float32",
    say: Callable[[str], None],
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a model, write the files into the folder `output`, return metrics.json.

    Args:
        checkpoint: any folder that `open_model` takes.
        dataset: dataset folder, or file of instruction examples, or a benchmark's files.
        output: folder, made where it is missing.
        split: None takes what training never saw, see `open_evaluation_data`.
        benchmark: name of a benchmark that `dataset` holds; "" for instruction examples.
        max_examples_per_task: bound for each task and hold-out, 0 = all.
        batch_size: examples decoded at once.
        max_new_tokens: 0 = the longest target that the model was trained on.
        shots: solved questions shown to each; None = those of the records, or the benchmark's.
        choose_by: answer by the most probable option where there are options, by this number.
        untrained_floor: decode with initial parameters too.
        sensitivity_examples: of each task, answered under changed instructions; 0 = none.
        mesh: devices to split batch and weights over, set by the caller; None = one device.
        dtype: in which the weights are kept: "float32", "bfloat16" or "int8".
        say: told of each stage.
        progress: called with a stage, the number of examples done in it and of all.

    Raises:
        ConfigError, DataError, CheckpointError: something is wrong with what was given.
    """
    run_folder = find_run_folder(checkpoint)
    run = read_run(run_folder) if run_folder is not None else None
    protocol = find_benchmark(benchmark) if benchmark else None
    data = _open_data(dataset, protocol, split=split, run=run)
    examples = _chosen(data, protocol, most=max_examples_per_task)
    examples = _shown(examples, data, protocol, shots=shots)
    loaded = load_decode_model(str(checkpoint), mesh=mesh, dtype=dtype)
    say(f"checkpoint: {loaded.description}")
    say(f"data: {_data_text(dataset, data, examples)}")
    make_folder(output)
    respondent = _respondent(
        loaded,
        protocol,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens or loaded.decoder_length,
        choose_by=choose_by,
        parse_sentinels=run is not None and run.config.get("data.parse_sentinels") is True,
        progress=progress,
    )
    examples = _prepared(examples, data, protocol, _responding(respondent))
    answers = answer_examples(respondent, examples)
    evaluation, sensitivity, code = _judged(
        respondent,
        examples,
        answers,
        data,
        primary=protocol.primary if protocol else PRIMARY_METRIC,
        untrained_floor=untrained_floor,
        sensitivity_examples=sensitivity_examples,
    )
    metrics = finite(
        {
            "format_version": FORMAT_VERSION,
            "checkpoint": _checkpoint_record(checkpoint, loaded),
            "dataset": _dataset_record(dataset, data, limit=max_examples_per_task),
            "benchmark": {"name": protocol.name, "title": protocol.title} if protocol else None,
            "decoding": {
                **_decoding_record(respondent, examples, answers),
                "parameter_dtype": dtype,
                "shots_of_benchmark": protocol.shots if protocol and shots is None else None,
            },
            "code": code,
            **evaluation.figures,
            "breakdown": _breakdown(evaluation, protocol),
            "sensitivity": sensitivity.figures if sensitivity else None,
        }
    )
    records = sensitivity.records if sensitivity else []
    _write_files(output, run_folder, metrics, evaluation.predictions, records)
    return metrics


def _open_data(
    dataset: Path, protocol: Benchmark | None, *, split: str | None, run: RunLog | None
) -> EvaluationData:
    if protocol is None:
        return open_evaluation_data(dataset, split=split, run=run)
    if split:
        raise ConfigError(f"--split={split}: a benchmark has none, leave it out")
    held = protocol.read(dataset)
    return EvaluationData(
        examples=held.examples,
        train_examples=lambda: iter(held.shown),
        split="",
        checks=held.checks,
    )


def _chosen(
    data: EvaluationData, protocol: Benchmark | None, *, most: int
) -> list[InstructionExample]:
    if protocol is not None and protocol.first:
        data_examples = first_examples(data.examples, count=protocol.first)
    else:
        data_examples = data.examples
    return choose_examples(data_examples, max_examples_per_task=most)


def _shown(
    examples: list[InstructionExample],
    data: EvaluationData,
    protocol: Benchmark | None,
    *,
    shots: int | None,
) -> list[InstructionExample]:
    """The examples with what is shown first: as asked, as the benchmark has it, or as they are."""
    in_order = protocol is not None and protocol.in_order
    if shots is None and protocol is not None and protocol.shots is not None:
        # Of tasks that the files hold nothing to show of, nobody asked for it; it is said.
        held = {example.task for example in data.train_examples()}
        asked = [each for each in examples if each.demonstrations or each.task in held]
        shown = with_shots(asked, data.train_examples(), shots=protocol.shots, in_order=in_order)
        pairs = zip(asked, shown, strict=True)
        found = {id(example): changed for example, changed in pairs}
        return [found.get(id(example), example) for example in examples]
    if shots is None:
        return examples
    return with_shots(examples, data.train_examples(), shots=shots, in_order=in_order)


def _prepared(
    examples: list[InstructionExample],
    data: EvaluationData,
    protocol: Benchmark | None,
    respond: Respond,
) -> list[InstructionExample]:
    if protocol is None or protocol.prepare is None:
        return examples
    return protocol.prepare(examples, list(data.train_examples()), respond)


def _respondent(
    loaded: LoadedModel, protocol: Benchmark | None, *, choose_by: ChooseBy | None, **options: Any
) -> Respondent:
    if protocol is not None:
        options["assemble"] = protocol.assemble
        choose_by = choose_by or protocol.choose_by
    return Respondent(
        params=loaded.params,
        config=loaded.config,
        tokenizer=loaded.tokenizer,
        encoder_length=loaded.encoder_length,
        choose_by=choose_by,
        **options,
    )


def _responding(respondent: Respondent) -> Respond:
    def respond(examples: Sequence[InstructionExample], stage: str) -> list[str]:
        return [answer.output for answer in respondent.outputs(examples, stage=stage)]

    return respond


def _judged(
    respondent: Respondent,
    examples: Sequence[InstructionExample],
    answers: Sequence[Answer],
    data: EvaluationData,
    *,
    primary: str,
    untrained_floor: bool,
    sensitivity_examples: int,
) -> tuple[Evaluation, Sensitivity | None, dict[str, Any]]:
    """Figures, those under changed instructions, and what is to be said of code that was run."""
    with _sandbox() as sandbox:
        checks, failing = checks_of(examples, sandbox, data.checks)
        judge_code: Passes = partial(_passes, sandbox=sandbox, checks=checks)
        evaluation = evaluate_answers(
            examples=examples,
            answers=answers,
            frequent=most_frequent_targets(examples, data.train_examples()),
            untrained=_untrained_outputs(respondent, examples) if untrained_floor else None,
            passes=judge_code,
            primary=primary,
        )
        sensitivity = None
        if sensitivity_examples:
            sensitivity = measure_sensitivity(
                examples,
                [answer.output for answer in answers],
                _responding(respondent),
                primary=evaluation.figures["primary_metric"],
                wordings=Wordings(data.examples),
                examples_per_task=sensitivity_examples,
                passes=judge_code,
            )
        code = {
            "examples": len(checks),
            "not_judged": failing,
            "confined_by": sandbox.means_in_use,
        }
    return evaluation, sensitivity, code


def _untrained_outputs(respondent: Respondent, examples: Sequence[InstructionExample]) -> list[str]:
    params = init_parameters(respondent.config, jax.random.key(0))
    untrained = dataclasses.replace(respondent, params=params)
    return [answer.output for answer in untrained.outputs(examples, stage=UNTRAINED.title)]


def _passes(
    examples: Sequence[InstructionExample],
    outputs: Sequence[str],
    *,
    sandbox: Sandbox,
    checks: Mapping[str, Check],
) -> list[bool | None]:
    return passes(examples, outputs, sandbox, checks)


def _sandbox() -> Sandbox:
    return Sandbox(seconds=_CODE_SECONDS, mebibytes=_CODE_MEBIBYTES, steps=_CODE_STEPS)


def _breakdown(evaluation: Evaluation, protocol: Benchmark | None) -> dict[str, Any]:
    primary = evaluation.figures["primary_metric"]
    predictions = evaluation.predictions
    correct = primary if primary in ("accuracy", "pass_rate") else "exact_match"
    spread = protocol is not None and protocol.by_prompt
    return {
        "calibration": breakdown.calibration(predictions, correct=correct),
        "lengths": breakdown.length_effects(predictions, metric=primary),
        "errors": breakdown.errors_by_task(predictions),
        "choices": breakdown.choice_accuracy(predictions),
        "prompts": breakdown.prompt_spread(predictions, metric=primary) if spread else {},
    }


def is_current(output: Path, *, checkpoint: Path, dataset: Path) -> bool:
    """Whether `output` holds an evaluation of just these parameters on just these examples.

    With whatever settings, which stand in metrics.json: a user's own are not to be undone.

    Raises:
        DataError, CheckpointError: the dataset or checkpoint cannot be read.
    """
    try:
        metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
        held = (metrics["checkpoint"]["fingerprint"], metrics["dataset"]["sha256"])
        split, version = metrics["dataset"]["split"], metrics["format_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if version != FORMAT_VERSION or not (output / "predictions.jsonl").is_file():
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
    sensitivity: list[dict[str, Any]],
) -> None:
    write_whole(output / PREDICTIONS, json_lines(predictions))
    if sensitivity:
        write_whole(output / SENSITIVITY, json_lines(sensitivity))
    else:
        # One of an earlier evaluation would not belong to these figures.
        (output / SENSITIVITY).unlink(missing_ok=True)
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
    respondent: Respondent, examples: Sequence[InstructionExample], answers: Sequence[Answer]
) -> dict[str, Any]:
    """How outputs were searched for, and how many examples the limits touch (eos counted)."""
    limit = respondent.max_new_tokens
    written = [answer for answer in answers if answer.stop_reason != "choice"]
    return {
        "search": "greedy",
        "chosen_among_options": len(answers) - len(written),
        "choose_by": respondent.choose_by,
        "max_new_tokens": limit,
        "encoder_length": respondent.encoder_length,
        "parse_sentinels": respondent.parse_sentinels,
        "shots": max(len(example.demonstrations) for example in examples),
        "examples_without_shots": sum(not example.demonstrations for example in examples),
        "inputs_cut": sum(answer.input_cut for answer in answers),
        "demonstrations_left_out": sum(answer.demonstrations_left_out for answer in answers),
        "targets_longer_than_limit": sum(answer.target_tokens > limit for answer in written),
        "outputs_stopped_by_limit": sum(answer.stop_reason == "length" for answer in written),
    }


def make_folder(output: Path) -> None:
    """Make the output folder and try it out, before the work and not after it.

    Raises:
        ConfigError: nothing can be written there.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(output / ".writable", "")
        (output / ".writable").unlink()
    except OSError as error:
        raise ConfigError(f"--output={output} cannot be written: {error.strerror}") from error
