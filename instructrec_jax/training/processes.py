"""`--distributed` of train, decode and evaluate: one of several processes that work as one."""

import os

import jax
from absl import flags

from instructrec_jax.errors import ConfigError

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
