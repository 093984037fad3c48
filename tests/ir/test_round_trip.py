"""Every model that onnx ships for its backend tests comes out of load and save as it went in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import pytest
from onnx.backend.test.case import model, node

from lwgraph import ir
from tests.ir.protos import normal

FILES = sorted((Path(onnx.backend.test.__file__).parent / "data").rglob("*.onnx"))


def explain(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    lines = [onnx.ModelProto.FromString(normal(proto)).__str__().splitlines() for proto in (before, after)]
    return next((f"{x!r} became {y!r}" for x, y in zip(*lines, strict=False) if x != y), "the ends differ")


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_files(path, tmp_path):
    ir.save(ir.load(path), tmp_path / "out.onnx")
    before, after = onnx.load(path), onnx.load(tmp_path / "out.onnx")
    assert normal(before) == normal(after), explain(before, after)


def operator_cases() -> Iterator[tuple[str, onnx.ModelProto]]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # onnx makes its expected outputs on the way, with overflows on purpose
        cases = [*model.collect_testcases(), *node.collect_testcases(None)]
    yield from ((case.name, case.model) for case in cases if case.model is not None)


def test_operator_models():
    seen = 0
    for name, before in operator_cases():
        after = ir.to_proto(ir.load(before))
        assert normal(before) == normal(after), f"{name}: {explain(before, after)}"
        if seen % 10 == 0:
            assert ir.fingerprint(ir.load(after.SerializeToString())) == ir.fingerprint(ir.load(before)), name
        seen += 1
    assert seen > 1500
