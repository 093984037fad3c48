"""Runs a peer's script on a case, with a limit on its time and memory, and tells what came of it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.zoo import cache
from benchmarks.zoo.case import Feeds

HERE = Path(__file__).resolve().parent
SECONDS, GIGABYTES = 1800, 12


@dataclass(frozen=True)
class Peer:
    """A tool in one configuration. `packages` of an empty tuple: the script runs with the packages that lwgraph has."""

    name: str
    script: str
    options: dict[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()


AIMET = ("torch==2.13.0", "aimet-onnx==2.42.0")
NNCF = ("nncf==3.4.0", "onnx==1.21.0", "onnxruntime==1.31.1")
QUARK = ("torch==2.13.0", "amd-quark==0.13", "onnx==1.21.0", "onnxruntime==1.31.1")
PEERS = {
    peer.name: peer
    for peer in (
        Peer("onnxsim", "simplify_onnxsim.py"),
        Peer("onnxslim", "simplify_onnxslim.py"),
        Peer("ort_minmax", "quantize_ort.py", {"per_channel": True}),
        Peer("ort_minmax_pertensor", "quantize_ort.py", {"per_channel": False}),
        Peer("ort_minmax_convonly", "quantize_ort.py", {"per_channel": True, "op_types": ["Conv"]}),
        Peer("ort_entropy", "quantize_ort.py", {"per_channel": True, "method": "Entropy"}),
        Peer("ort_percentile", "quantize_ort.py", {"per_channel": True, "method": "Percentile"}),
        Peer("ort_entropy_pertensor", "quantize_ort.py", {"per_channel": False, "method": "Entropy"}),
        Peer("ort_percentile_pertensor", "quantize_ort.py", {"per_channel": False, "method": "Percentile"}),
        Peer("onnx_int4", "int4_onnx.py", {"block": 32}),
        Peer("ort_float16", "float16_ort.py"),
        Peer("nncf_int8", "quantize_nncf.py", {}, NNCF),
        Peer("nncf_int8_mixed", "quantize_nncf.py", {"preset": "mixed"}, NNCF),
        Peer("aimet_int8", "quantize_aimet.py", {}, AIMET),
        Peer("quark_int8", "quantize_quark.py", {}, QUARK),
        Peer("lwgraph_int8", "quantize_lwgraph.py", {"passes": "default,quantize"}),
        Peer("onnxsim_prune_25", "prune_onnxsim.py", {"sparsity": 0.25}),
        Peer("onnxsim_prune_50", "prune_onnxsim.py", {"sparsity": 0.5}),
    )
}


@dataclass(frozen=True)
class Outcome:
    """What a peer's process did: `model` is None when it failed, and `error` says how.

    `cpu_seconds` is the time that its threads computed: on one core with nothing else running, about `seconds`.
    """

    model: Path | None
    seconds: float
    peak_gigabytes: float
    error: str = ""
    cpu_seconds: float = 0.0


def python(packages: tuple[str, ...]) -> Path:
    """The interpreter of the environment with these packages, made once per set; ours when there are none."""
    if not packages:
        return Path(sys.executable)
    name = "-".join(package.split("==")[0] for package in packages)
    folder = cache.folder("venvs") / name
    ready, interpreter = folder / "ready", folder / "bin" / "python"
    wanted = "\n".join(packages)
    if not ready.exists() or ready.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        command = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *packages]
        subprocess.run(command, check=True)
        ready.write_text(wanted)
    return interpreter


def write_feeds(feeds: Iterable[Feeds], folder: Path) -> None:
    """One .npz per sample, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, feed in enumerate(feeds):
        np.savez(folder / f"{i:04d}.npz", **feed)


def _limit() -> None:
    size = GIGABYTES << 30
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _limit_to_one_core() -> None:
    _limit()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _error(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:160] if lines else "no message"


def run(peer: Peer, model: Path, feeds: Path, out: Path, *, one_core: bool = False, limit: float = SECONDS) -> Outcome:
    """Let the peer write `out` from `model` within `limit` seconds; its packages are installed first, outside the
    clock."""
    command = [str(python(peer.packages)), str(HERE / peer.script), str(model), str(feeds), str(out)]
    out.unlink(missing_ok=True)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, json.dumps(peer.options)],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=scratch,  # some leave files where they run
            preexec_fn=_limit_to_one_core if one_core else _limit,
        )
        error = ""
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:  # unlike Popen.wait, it tells the peak memory
            if time.perf_counter() - started > limit and not error:
                error = f"stopped after {limit:.0f} s"
                os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.02)
        _, status, usage = ended
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode and not error:
            output.seek(0)
            error = f"ended with {process.returncode}: {_error(output.read())}"
    if not error and not out.exists():
        error = "wrote no model"
    return Outcome(None if error else out, seconds, usage.ru_maxrss / (1 << 20), error, usage.ru_utime + usage.ru_stime)
