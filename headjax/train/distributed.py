"""Several processes as one run: how they find each other, wait for each other and end together.

JAX's runtime connects them; this module adds what a person needs: the processes decide alike, and
when one dies or stops, each of the others says which one, and ends, instead of waiting for ever.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from headjax.errors import UserError
from headjax.train import exchange
from headjax.train.watch import Watch

MODES = ("auto", "on", "off")
BY_HAND = ("HEADJAX_COORDINATOR", "HEADJAX_PROCESSES", "HEADJAX_PROCESS")
# The runtime's own limit for a silent process; `Watch` is quicker and says more.
HEARTBEAT_TIMEOUT = 50


@dataclasses.dataclass
class Group:
    """The processes of a run; alone by default.

    Attributes:
      index, count: this process' number, and how many there are.
    """

    index: int = 0
    count: int = 1
    watch: Watch | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes the artefacts and the log."""
        return self.index == 0

    def decide(self, answer: Callable[[], Any]) -> Any:
        """The leading process' answer (anything JSON can hold), or its UserError, for all."""
        return exchange.on_first(answer)

    def wait_for_all(self) -> None:
        """Returns when every process has come here."""
        exchange.gather("")

    def leave(self) -> None:
        """The end of a run that all processes reach together."""
        if self.count == 1:
            return
        import jax

        self.wait_for_all()
        self.watch.stop()
        jax.distributed.shutdown()

    def fail(self, code: int, reason: str) -> None:
        """The end of a run on this process alone: tells the others, who end too. No return."""
        if self.count == 1:
            return
        self.watch.announce(code, reason)
        os._exit(code)

    def explain(self, error: BaseException) -> None:
        """Gives the watch time to find out whether `error` comes from another process' death.

        It ends this process if that is so, and this returns if it is not.
        """
        import jax

        if self.watch is not None:
            broken = isinstance(error, jax.errors.JaxRuntimeError)
            self.watch.settle(thoroughly=broken)


def join(mode: str) -> Group:
    """Joins the processes of this run; must come before JAX is asked for anything.

    Args:
      mode: 'on' joins; 'off' does not; 'auto' joins where the environment describes more than one
        process: HEADJAX_PROCESSES (with HEADJAX_COORDINATOR=host:port and HEADJAX_PROCESS=0…),
        JAX_NUM_PROCESSES, a SLURM step, Open MPI, or several TPU workers. Without HEADJAX_… the
        runtime finds the processes by itself.

    Raises:
      UserError: an unknown mode, an environment that is incomplete, or no group to be found.
    """
    if mode not in MODES:
        raise UserError(f"--distributed={mode} is none of {', '.join(MODES)}")
    if mode == "off" or (mode == "auto" and not is_described(os.environ)):
        return Group()
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its handler would replace ours; the loop agrees on a step by itself (`Agreement`).
    jax.config.update("jax_enable_preemption_service", False)
    described = by_hand(os.environ)
    try:
        jax.distributed.initialize(**described, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed={mode}: the processes did not find each other "
            f"({' '.join(str(error).split())[:200]}); set HEADJAX_COORDINATOR, HEADJAX_PROCESSES "
            "and HEADJAX_PROCESS, or start them through SLURM, GKE or on all workers of a TPU VM"
        ) from error
    group = Group(jax.process_index(), jax.process_count())
    if group.count > 1:
        from jax._src import distributed

        state = distributed.global_state
        group.watch = Watch(state.client, group.index, group.count, state.coordinator_address)
        group.watch.start()
    return group


def is_described(environment: Mapping[str, str]) -> bool:
    """Whether the environment tells of more than one process."""

    def number(name: str) -> int:
        text = environment.get(name, "")
        return int(text) if text.isdigit() else 0

    in_slurm_step = "SLURM_PROCID" in environment and "SLURM_STEP_NODELIST" in environment
    return (
        any(name in environment for name in BY_HAND)
        or number("JAX_NUM_PROCESSES") > 1
        or (in_slurm_step and number("SLURM_NTASKS") > 1)
        or number("OMPI_COMM_WORLD_SIZE") > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
    )


def by_hand(environment: Mapping[str, str]) -> dict[str, Any]:
    """What HEADJAX_COORDINATOR, _PROCESSES and _PROCESS say, for `jax.distributed.initialize`.

    Raises:
      UserError: one of them is missing or makes no sense.
    """
    names, values = BY_HAND, [environment.get(name, "") for name in BY_HAND]
    if not any(values):
        return {}
    if missing := [name for name, value in zip(names, values, strict=True) if not value]:
        raise UserError(
            f"{missing[0]} is not set; a group of processes needs {', '.join(names)} in each"
        )
    address, count, index = values
    if not address.rpartition(":")[2].isdigit() or not address.rpartition(":")[0]:
        raise UserError(f"HEADJAX_COORDINATOR={address!r} must be host:port of process 0")
    if not count.isdigit() or not index.isdigit() or not 0 <= int(index) < int(count):
        raise UserError(
            f"HEADJAX_PROCESS={index} and HEADJAX_PROCESSES={count} must be whole numbers, "
            "the first from 0 on and below the second"
        )
    return dict(coordinator_address=address, num_processes=int(count), process_id=int(index))
