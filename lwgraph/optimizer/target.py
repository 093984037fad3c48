"""What a result must be fast on: a runtime here, all that are here, or a machine whose prices were brought here."""

from __future__ import annotations

from lwgraph import registry
from lwgraph.errors import UsageError, did_you_mean
from lwgraph.executor import Executor, Precisions, offered
from lwgraph.plan.price.devices import DeviceOracle, find_device
from lwgraph.plan.price.oracle import Oracle, WorkOracle

ORT = "ort-cpu"
MACS = "macs"  # the target that is not timed: work stands for time
OPENVINO = "openvino"
# Target: the executor that stands for it.
TARGETS = {ORT: "ort", **{name: name for name in ("openvino:f32", "openvino:bf16", "openvino:f16")}, MACS: "ort"}
ANY = "any"
SEVERAL = (OPENVINO, ANY)  # names that stand for all precisions of a runtime, and for all runtimes
STAND_IN = "ort"  # runs models here when the target is elsewhere


def check_target(target: str, threads: int) -> None:
    """UsageError, with a near miss, when there is no such target, or its runtime is not installed."""
    if target in SEVERAL:
        expanded(target)
    elif target.startswith(f"{OPENVINO}:"):
        registry.executor(target, threads=threads)
    elif target not in TARGETS:
        find_device(target, threads, others=(*TARGETS, *SEVERAL))


def expanded(target: str) -> list[str]:
    """The targets that a name stands for here; a target stands for itself.

    `openvino`: one for each precision that OpenVINO computes floats in on this processor. `any`: those, and ONNX
    Runtime; without OpenVINO, that alone.

    Raises:
        UsageError: `openvino`, and it is not installed.
    """
    if target not in SEVERAL:
        return [target]
    found = [ORT] if target == ANY else []
    try:
        able = offered(registry.executor(OPENVINO), Precisions)
    except UsageError:
        if target == OPENVINO:
            raise
        return found
    return found + [f"{OPENVINO}:{precision}" for precision in (able.precisions if able is not None else ())]


def executors_here(target: str, threads: int) -> dict[str, Executor]:
    """The executors of all that a target stands for, by its name.

    Raises:
        UsageError: it is no runtime of this machine.
    """
    if target not in (*TARGETS, *SEVERAL) or target == MACS:
        known = [name for name in (*TARGETS, *SEVERAL) if name != MACS]
        raise UsageError(f"--target '{target}' is no runtime of this machine{did_you_mean(target, known)}")
    return {name: registry.executor(TARGETS[name], threads=threads) for name in expanded(target)}


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
    return DeviceOracle(executor, *find_device(target, threads, others=(*TARGETS, *SEVERAL)))


__all__ = [
    "ANY",
    "MACS",
    "OPENVINO",
    "ORT",
    "SEVERAL",
    "STAND_IN",
    "TARGETS",
    "check_target",
    "executors_here",
    "expanded",
    "open_oracle",
]
