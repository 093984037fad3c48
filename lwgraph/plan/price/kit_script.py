"""Times the small models beside this file on this machine, and writes a table that `lwgraph measure --import` reads.

Needs Python 3.8 or later, numpy and onnxruntime, nothing else:

    python measure.py                       # one thread, table.json
    python measure.py --threads 4 --name pi5 -o pi5.json

The models of one layer are timed in turn, in rounds, so that a disturbance hits all of them alike; of each, the
shortest time counts. Interrupted, it goes on where it stopped when it is started again with the same options.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

FORMAT = 1
WARM_UP, LEAST_ROUNDS, SHORTEST = 3, 7, 2e-3
NOISE, LENDER = 0.05, 0  # size of the random weights; seed


def processor() -> str:
    """The processor's name, as precisely as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        names = {key.strip(): value.strip() for key, value in fields.items()}
        for key in ("model name", "Model", "Hardware"):
            if names.get(key):
                return names[key]
    except OSError:
        pass
    return platform.processor() or platform.machine()


def random_array(numpy: Any, dtype: str, shape: list[int], seed: int) -> Any:
    """Numbers of `dtype` and `shape`; what they are does not change the time."""
    random = numpy.random.default_rng(seed)
    kind = numpy.dtype(dtype)
    if kind.kind == "f":
        return (NOISE * random.standard_normal(shape)).astype(kind)
    if kind.kind == "b":
        return random.integers(0, 2, shape).astype(kind)
    low = 0 if kind.kind == "u" else -8
    return random.integers(low, 9, shape).astype(kind)


def session(runtime: Any, numpy: Any, folder: str, entry: dict[str, Any], threads: int) -> Callable[[], Any] | None:
    """A model ready to run; None where this runtime cannot."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    arrays = [random_array(numpy, dtype, shape, LENDER) for _, dtype, shape in entry["lent"]]
    values = [runtime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
    if values:
        options.add_external_initializers([name for name, _, _ in entry["lent"]], values)
    try:
        with open(os.path.join(folder, entry["file"]), "rb") as file:
            made = runtime.InferenceSession(file.read(), options, ["CPUExecutionProvider"])
        feed = {"x": random_array(numpy, entry["dtype"], entry["shape"], LENDER + 1)}
        made.run(None, feed)
    except Exception as error:  # whatever the runtime raises: the form does not run here, and that is a result
        print(f"  {entry['file']} does not run here: {' '.join(str(error).split())[:120]}", file=sys.stderr)
        return None
    return lambda: (made.run(None, feed), values)


def times(
    runs: list[Callable[[], Any] | None], seconds: float, clock: Callable[[], float]
) -> tuple[list[float | None], int]:
    """Milliseconds of each run (None where it is None), and the rounds."""
    present = {i: run for i, run in enumerate(runs) if run is not None}
    order = list(present)
    repeats: dict[int, int] = {}
    best = dict.fromkeys(present, math.inf)
    for i, run in present.items():
        shortest = math.inf
        for _ in range(WARM_UP):
            start = clock()
            run()
            shortest = min(shortest, clock() - start)
        repeats[i] = max(1, math.ceil(SHORTEST / max(shortest, 1e-7)))
    rounds, begin = 0, time.perf_counter()
    while present and (rounds < LEAST_ROUNDS or time.perf_counter() - begin < seconds * len(present)):
        for k in range(len(order)):
            i = order[(k + rounds) % len(order)]
            run, start = present[i], clock()
            for _ in range(repeats[i]):
                run()
            best[i] = min(best[i], (clock() - start) / repeats[i])
        rounds += 1
    return [1e3 * best[i] if i in best else None for i in range(len(runs))], rounds


def save(path: str, table: dict[str, Any]) -> None:
    """Write beside, then rename: an interruption leaves a whole file."""
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(table, file, indent=1)
    os.replace(path + ".part", path)


def main(arguments: list[str] | None = None) -> int:
    """Measure everything that the table does not have yet."""
    parser = argparse.ArgumentParser(description="Time small models for lwgraph, on the machine where they will run.")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime (default 1)")
    parser.add_argument("--seconds", type=float, default=0.1, help="time for each model (default 0.1)")
    parser.add_argument("--name", default=platform.node() or "device", help="what to call this machine")
    parser.add_argument("-o", "--output", default="table.json", help="where the table goes (default table.json)")
    options = parser.parse_args(arguments)
    if options.threads < 1 or not options.seconds > 0 or not options.name:
        parser.error("allowed: --threads of at least 1, --seconds over 0, a --name that is not empty")
    try:
        import numpy
        import onnxruntime as runtime
    except ImportError as error:
        print(f"{error}; install it here: pip install numpy onnxruntime", file=sys.stderr)
        return 1
    folder = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
        batches = json.load(file)["batches"]
    facts = {
        "lwgraph_prices": FORMAT,
        "device": options.name,
        "threads": options.threads,
        "runtime": "onnxruntime " + runtime.__version__,
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    table: dict[str, Any] = dict(facts, batches=[])
    if os.path.exists(options.output):
        with open(options.output, encoding="utf-8") as file:
            before = json.load(file)
        if {key: before.get(key) for key in facts} != facts:
            print(f"{options.output} is a table of something else; name another with -o", file=sys.stderr)
            return 1
        table["batches"] = before["batches"]
    done = {batch["id"] for batch in table["batches"]}
    clock = time.thread_time if options.threads == 1 and hasattr(time, "thread_time") else time.perf_counter
    begin = time.perf_counter()
    todo = [batch for batch in batches if batch["id"] not in done]
    gc.disable()
    for measured, batch in enumerate(todo, 1):
        runs = [session(runtime, numpy, folder, entry, options.threads) for entry in batch["models"]]
        ms, rounds = times(runs, options.seconds, clock)
        kept = {key: batch[key] for key in ("id", "kind", "keys", "what")}
        table["batches"].append(dict(kept, ms=ms, rounds=rounds))
        save(options.output, table)
        left = (time.perf_counter() - begin) / measured * (len(todo) - measured)
        shown = "does not run" if ms[0] is None else f"{ms[0]:.4f} ms"
        print(f"{len(done) + measured}/{len(batches)}  {batch['what']}: {shown}  ({left:.0f} s left)")
        del runs
        gc.collect()
    save(options.output, table)
    print(f"written: {options.output}; bring it in with: lwgraph measure --import {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
