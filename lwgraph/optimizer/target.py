"""What a result must be fast on: the runtime here, or a machine whose prices were brought here."""

from __future__ import annotations

from lwgraph.executor import Executor
from lwgraph.plan.price.devices import DeviceOracle, find_device
from lwgraph.plan.price.oracle import Oracle, WorkOracle

MACS = "macs"  # the target that is not timed: work stands for time
TARGETS = {"ort-cpu": "ort", MACS: "ort"}  # target: the executor that stands for it
STAND_IN = "ort"  # runs models here when the target is elsewhere


def check_target(target: str, threads: int) -> None:
    """UsageError, with a near miss, when there is no such target."""
    if target not in TARGETS:
        find_device(target, threads, others=tuple(TARGETS))


def open_oracle(target: str, threads: int, executor: Executor) -> Oracle:
    """Where prices for the target come from.

    Args:
        target: as it was asked for; see `check_target`.
        threads: of the target's runtime.
        executor: what runs models here.
    """
    if target == MACS:
        return WorkOracle(executor)
    if target in TARGETS:
        return Oracle(executor)
    return DeviceOracle(executor, *find_device(target, threads, others=tuple(TARGETS)))


__all__ = ["MACS", "STAND_IN", "TARGETS", "check_target", "open_oracle"]
