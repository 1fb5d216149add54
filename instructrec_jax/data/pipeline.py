"""Packed batches: rows of a plan, gathered and concatenated by tf.data.

One row of encoder length 8 and decoder length 6 that holds two examples, of the encoder tokens
[7, 8, 1] and [9, 1] and the target tokens [5, 1] and [6, 4, 1] (1 is eos, 0 padding):

    encoder_input_tokens    7 8 1 9 1 0 0 0
    encoder_segment_ids     1 1 1 2 2 0 0 0
    encoder_positions       0 1 2 0 1 0 0 0
    decoder_input_tokens    0 5 0 6 4 0        targets shifted right within each segment
    decoder_target_tokens   5 1 6 4 1 0
    decoder_segment_ids     1 1 2 2 2 0
    decoder_positions       0 1 0 1 2 0
    decoder_loss_weights    1 1 1 1 1 0
    decoder_task_ids        2 2 4 4 4 0        places in the cache's list of tasks

A segment id is the place of the example in its row, from 1, on both sides, also where an example
has no encoder tokens. Padding is known by its segment id 0: token id 0 may occur in an example.

The pipeline is a range of steps and a function of the step, without state: no shuffle buffer, no
generator, no Python in between. The token arrays stay where they are, memory-mapped; TensorFlow
reads them in place.
"""

from collections.abc import Iterator

import numpy as np

from instructrec_jax.data.packing import Rows
from instructrec_jax.data.plan import PackingPlan
from instructrec_jax.data.tensorflow_cpu import tf
from instructrec_jax.errors import ConfigError

FEATURES = (
    "encoder_input_tokens",
    "encoder_segment_ids",
    "encoder_positions",
    "decoder_input_tokens",
    "decoder_target_tokens",
    "decoder_segment_ids",
    "decoder_positions",
    "decoder_loss_weights",
    "decoder_task_ids",
)
# One tf.data pipeline serves the steps of a block of the plan, but no fewer than this, for
# TensorFlow keeps about 0.25 MiB of every pipeline that was ever built: the first is short, so that
# training starts soon, each one after it twice as long up to the second figure ...
_MINIMUM_STEPS = (64, 1_024)
# ... and no more rows than this, so that the rows of a pipeline take little memory.
_MAXIMUM_ROWS = 2**18
_PREFETCHED_BATCHES = 4
_PARALLEL_BATCHES = 2


def training_batches(
    plan: PackingPlan,
    *,
    start_step: int,
    stop_step: int,
    process_index: int,
    process_count: int,
) -> Iterator[dict[str, np.ndarray]]:
    """This host's part of the global batches `start_step` to `stop_step - 1`.

    Global batch s is the same for every number of hosts; host i has its i-th contiguous part. So a
    run that stopped before step s goes on exactly with `start_step=s`.

    Yields:
        FEATURES, each [batch_size / process_count, encoder or decoder length], int32 and the loss
        weights float32.

    Raises:
        ConfigError: the batch size is not a multiple of the number of hosts.
    """
    _check_hosts(plan, process_index, process_count)
    return _training_batches(plan, start_step, stop_step, process_index, process_count)


def _training_batches(
    plan: PackingPlan, start_step: int, stop_step: int, process_index: int, process_count: int
) -> Iterator[dict[str, np.ndarray]]:
    step = start_step
    minimum, longest_minimum = _MINIMUM_STEPS
    while step < stop_step:
        rows_of_block = len(plan.block_rows(*plan.block_of_step(step)))
        steps = max(rows_of_block // plan.config.batch_size, minimum)
        steps = max(min(steps, _MAXIMUM_ROWS // plan.config.batch_size), 1)
        end = min(step + steps, stop_step)
        rows = plan.rows_for_steps(step, end)
        yield from _batches(plan, rows, process_index, process_count)
        step, minimum = end, min(2 * minimum, longest_minimum)


def evaluation_batches(
    plan: PackingPlan, *, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """This host's part of the batches of one epoch (epoch 0), each example once.

    The last batch is filled up with empty rows, whose weights and segment ids are 0: every host
    gets equally many batches of equal shapes.

    Raises:
        ConfigError: the batch size is not a multiple of the number of hosts.
    """
    _check_hosts(plan, process_index, process_count)
    rows = plan.epoch_rows(0)
    missing = -len(rows) % plan.config.batch_size
    offsets = np.concatenate([rows.offsets, np.full(missing, rows.offsets[-1])])
    return _batches(plan, Rows(rows.examples, offsets), process_index, process_count)


def _check_hosts(plan: PackingPlan, process_index: int, process_count: int) -> None:
    if plan.config.batch_size % process_count:
        raise ConfigError(
            f"train.batch_size is {plan.config.batch_size} rows, not a multiple of the "
            f"{process_count} processes"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"no process {process_index} of {process_count}")


def _batches(
    plan: PackingPlan, rows: Rows, process_index: int, process_count: int
) -> Iterator[dict[str, np.ndarray]]:
    """This host's part of consecutive batches of `rows`, which are a multiple of the batch size."""
    cache, config = plan.cache, plan.config
    host_rows = config.batch_size // process_count
    encoder = (_in_place(cache.encoder_tokens), _in_place(cache.encoder_offsets))
    decoder = (_in_place(cache.decoder_tokens), _in_place(cache.decoder_offsets))
    examples, offsets = tf.constant(rows.examples), tf.constant(rows.offsets)
    tasks = _in_place(cache.task_ids)

    def features(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        first = batch * config.batch_size + process_index * host_rows
        splits = offsets[first : first + host_rows + 1]
        chosen = examples[splits[0] : splits[-1]]
        splits -= splits[0]
        inputs = _concatenate(*encoder, chosen, splits, (host_rows, config.encoder_length))
        targets = _concatenate(*decoder, chosen, splits, (host_rows, config.decoder_length))
        values = (
            *inputs,
            _shift_right(targets[0], targets[2]),
            *targets,
            _weights(targets[1]),
            _task_ids(tf.gather(tasks, chosen), splits, targets[1]),
        )
        return dict(zip(FEATURES, values, strict=True))

    dataset = tf.data.Dataset.range(len(rows) // config.batch_size)
    dataset = dataset.map(features, num_parallel_calls=_PARALLEL_BATCHES)
    options = tf.data.Options()
    options.deterministic = True
    # An iterator that is freed waits for the thread that tunes it, which sleeps up to a minute
    # between two looks (TensorFlow 2.21): training would stand still at each change of blocks.
    options.autotune.enabled = False
    # Rewriting the graph would copy the token arrays, gigabytes perhaps, into it.
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.prefetch(_PREFETCHED_BATCHES).with_options(options).as_numpy_iterator()


def _concatenate(
    tokens: tf.Tensor,
    offsets: tf.Tensor,
    examples: tf.Tensor,
    row_splits: tf.Tensor,
    shape: tuple[int, int],
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One side of some rows: token ids, segment ids and positions, each int32 of `shape`.

    `examples`, int64 [examples], are those of row 0, then those of row 1, and so on; row r has
    those from `row_splits[r]` to `row_splits[r + 1]`.
    """
    starts = tf.gather(offsets, examples)
    lengths = tf.gather(offsets, examples + 1) - starts
    token_splits = tf.concat([[0], tf.cumsum(lengths)], axis=0)
    number = tf.range(tf.size(examples, out_type=tf.int64))
    place = number - tf.gather(row_splits, _part_of(number, row_splits))
    example_of_token = _part_of(tf.range(token_splits[-1]), token_splits)
    row_token_splits = tf.gather(token_splits, row_splits)

    def rows(values: tf.Tensor) -> tf.Tensor:
        ragged = tf.RaggedTensor.from_row_splits(
            tf.cast(values, tf.int32), row_token_splits, validate=False
        )
        return ragged.to_tensor(shape=shape)

    ids = tf.gather(tokens, _ranges(starts, lengths))
    segment_ids = tf.gather(place + 1, example_of_token)
    positions = _ranges(tf.zeros_like(lengths), lengths)
    return rows(ids), rows(segment_ids), rows(positions)


def _ranges(starts: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """start, start + 1, ... of each range, one after another."""
    ranges = tf.raw_ops.RaggedRange(
        starts=starts, limits=starts + lengths, deltas=tf.ones_like(starts)
    )
    return ranges.rt_dense_values


def _part_of(index: tf.Tensor, splits: tf.Tensor) -> tf.Tensor:
    """The part that each index lies in, where part p reaches from splits[p] to splits[p + 1]."""
    ends = splits[1:]
    part = tf.raw_ops.UpperBound(
        sorted_inputs=ends[tf.newaxis], values=index[tf.newaxis], out_type=tf.int64
    )
    return part[0]


def _shift_right(targets: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Decoder inputs: the target before, and 0 (pad) where a segment starts."""
    shifted = tf.pad(targets[:, :-1], [[0, 0], [1, 0]])
    return tf.where(positions > 0, shifted, 0)


def _weights(segment_ids: tf.Tensor) -> tf.Tensor:
    """Weight 1.0 for each target token, 0.0 for padding."""
    return tf.cast(segment_ids > 0, tf.float32)


def _task_ids(tasks: tf.Tensor, row_splits: tf.Tensor, segment_ids: tf.Tensor) -> tf.Tensor:
    """The task of each target token's example, 0 on padding; `tasks` are those of the examples."""
    place = row_splits[:-1, tf.newaxis] + tf.cast(segment_ids, tf.int64)
    return tf.gather(tf.pad(tasks, [[1, 0]]), tf.where(segment_ids > 0, place, 0))


def _in_place(array: np.ndarray) -> tf.Tensor:
    """A tensor on the array's own memory, where its layout allows that.

    A memory-mapped array stays on disk until it is read; tf.constant would copy all of it.
    """
    if array.size and array.flags.writeable and array.ctypes.data % 64 == 0:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.constant(array)
