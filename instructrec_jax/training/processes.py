"""`--distributed` of train, decode and evaluate: one of several processes that work as one."""

import os
from collections.abc import Callable

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from instructrec_jax.errors import ConfigError, UserError

DISTRIBUTED = flags.DEFINE_boolean(
    "distributed",
    False,
    "This is one of several processes: of a TPU pod, of SLURM, or of those that the variables "
    "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID describe.",
)


def join_processes() -> None:
    """Makes this process one of a run's; call it before any other use of JAX.

    JAX finds the others by itself on Cloud TPU, SLURM and Kubernetes; elsewhere three environment
    variables name them: JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID.

    Raises:
      ConfigError: no other process was found.
    """
    count, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    try:
        if count is None and index is None:
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(num_processes=int(count or ""), process_id=int(index or ""))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--distributed: the processes of the run cannot be found ({error}); set "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from error


def check_all_processes(look: Callable[[], object]) -> None:
    """Calls `look` in every process of a run: where one finds something wrong, none goes on.

    `look` waits for no other process: one that failed before would leave the others in it.

    Raises:
      UserError: what this process finds.
      ConfigError: another one does.
    """
    problem: UserError | None = None
    try:
        look()
    except UserError as error:
        problem = error
    if jax.process_count() > 1:
        found = multihost_utils.process_allgather(np.asarray(problem is not None))
        if found.any() and problem is None:
            which = ", ".join(map(str, np.flatnonzero(found)))
            raise ConfigError(
                f"process {which} of this run cannot begin and says why; all processes must see "
                "the same dataset, model and tokenizer"
            )
    if problem is not None:
        raise problem
