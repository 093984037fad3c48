"""How samples are parted: fits take what they need, and the rest judges."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lwgraph import ir, registry
from lwgraph.optimizer import inputs
from lwgraph.optimizer.inputs import gather
from lwgraph.optimizer.request import Request

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[n,4] x) => (float[n,3] y)
<float[4,3] w = {1,0,0, 0,1,0, 0,0,1, 1,1,1}>
{ y = MatMul(x, w) }
"""


def parted(samples: int, **asked: object) -> inputs.Inputs:
    model = ir.load(onnx.parser.parse_model(TEXT).SerializeToString())
    data = np.random.default_rng(0).normal(size=(samples, 4)).astype(np.float32)
    return gather(model, Request(data={"x": data}, **asked), registry.executor("ort"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("samples", "judge"),
    [(12, 6), (16, 8), (24, 8), (32, 8), (64, 16), (80, 32), (128, 64), (200, 100), (640, 320), (2000, 1680)],
)
def test_what_fits_do_not_need_judges(samples: int, judge: int) -> None:
    found = parted(samples)
    assert found.judge is not None and found.judge.count == judge
    assert len(found.fit) + len(found.search) == samples - judge and len(found.search) > 0
    seen = {feed["x"].tobytes() for feed in [*found.fit, *found.search]}
    assert len(seen) == samples - judge and not seen & {feed["x"].tobytes() for feed in found.judge}
    assert found.notes == [f"{judge} of {samples} samples were set aside for judging"]


def test_a_network_that_takes_long_judges_on_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "JUDGED_MACS", 12.0 * 400)  # one sample takes 12
    assert parted(1000).judge.count == 400  # type: ignore[union-attr]
    monkeypatch.setattr(inputs, "JUDGED_MACS", 0.0)
    assert parted(1000).judge.count == 250  # type: ignore[union-attr]


def test_no_more_is_opened_than_is_used() -> None:
    found = parted(6000)
    assert found.judge is not None and found.judge.count == inputs.JUDGED_MOST
    assert len(found.fit) + len(found.search) == inputs.FITTED_MOST
