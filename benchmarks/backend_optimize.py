"""onnx's backend tests through `lwgraph.optimize`: what ONNX Runtime gives before and after.

python -m benchmarks backend           counts, and each test that differs or is refused; goes on where it ended

No data is given but where no inputs can be generated: the test's own then, as the refusal advises.
"""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx

from benchmarks.generated.grow import session
from benchmarks.generated.run import build
from benchmarks.runtime_backend import cases, data_sets
from benchmarks.zoo import cache
from lwgraph import ir, optimize
from lwgraph.contract import Contract
from lwgraph.errors import LwgraphError
from lwgraph.measure.compare import compare
from lwgraph.optimizer import setting
from lwgraph.tasks.worker import DeathError, HangError, Worker

TIMEOUT = 60.0  # seconds for one test
AT_ONCE = 20
_CASES: list[Any] = []


def outcome(case: Any) -> str:
    """ "equal", "untouched", "not run" (by ONNX Runtime as it is), "refused: why" or "differs: how".

    The first two may say "with data".
    """
    try:
        before = _outputs(case.model, case)
    except Exception:  # operators and types that ONNX Runtime has not, or feeds that it does not take
        return "not run"
    try:
        model = ir.load(case.model)
        result, how = _optimized(model, case)
    except LwgraphError as error:
        return f"refused: {' '.join(str(error).split())[:160]}"
    except Exception as error:
        return f"differs: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if ir.fingerprint(result) == ir.fingerprint(model):
        return f"untouched{how}"
    try:
        after = _outputs(ir.to_proto(result), case)
    except Exception as error:
        return f"differs: ONNX Runtime: {' '.join(str(error).split())[:160]}"
    for old, new in zip(before, after, strict=True):
        told = compare(old, new, Contract.ROUNDING)
        if not told.ok:
            return f"differs: {told}"
    return f"equal{how}"


def _optimized(model: ir.Model, case: Any) -> tuple[ir.Model, str]:
    """The result, and " with data" where it needed the test's own inputs."""
    # This process may die or hang: it is itself a worker. One more for each run would double its time.
    with patch.object(setting, "FirstRuns", lambda executor, *_: executor):
        try:
            return optimize(model).model, ""
        except LwgraphError as error:
            if "generated input" not in str(error) and "nothing but NaN" not in str(error):
                raise
        names = [value.name or "" for value in model.graph.inputs if value.name not in model.graph.initializers]
        feeds = [dict(zip(names, inputs, strict=False)) for inputs, _ in data_sets(case)]
        return optimize(model, data=feeds * 2, preset="lossless").model, " with data"  # one sample is too few


def _outputs(proto: onnx.ModelProto, case: Any) -> list[dict[str, Any]]:
    run = session(proto)
    fed = [value.name for value in run.get_inputs()]
    names = [value.name for value in run.get_outputs()]
    return [
        dict(zip(names, run.run(None, dict(zip(fed, inputs, strict=False))), strict=True))
        for inputs, _ in data_sets(case)
    ]


def outcomes(start: int, count: int) -> dict[str, str]:
    """By the name of the test, some of all tests from a place on."""
    if not _CASES:
        _CASES.extend(cases())
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return {f"{case.kind}/{case.name}": outcome(case) for case in _CASES[start : start + count]}


def main(minutes: float) -> int:
    """Run the tests that are left of this build; how many differ."""
    path = cache.folder("results") / "backend_optimize" / f"{build()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, str] = json.loads(path.read_text("utf8")) if path.exists() else {}
    total, end = sum(1 for _ in cases()), time.monotonic() + 60 * minutes
    worker = Worker(main=False)
    for start in range(len(found) // AT_ONCE * AT_ONCE, total, AT_ONCE):
        if time.monotonic() > end:
            break
        try:
            found |= worker.call(outcomes, start, AT_ONCE, timeout=TIMEOUT * AT_ONCE)
        except (DeathError, HangError):
            for place in range(start, min(start + AT_ONCE, total)):
                try:
                    found |= worker.call(outcomes, place, 1, timeout=4 * TIMEOUT)
                except (DeathError, HangError) as error:
                    found[f"number {place}"] = f"differs: the process {error}"
        path.write_text(json.dumps(found, indent=1), "utf8")
    worker.close()
    counts = Counter(told.partition(":")[0] for told in found.values())
    print(f"{len(found)} of {total} tests: " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))
    for name, told in found.items():
        if told.startswith(("differs", "refused")):
            print(f"{name}: {told}")
    return counts["differs"]
