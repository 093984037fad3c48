"""Runs a model in both runtimes."""

from __future__ import annotations

from typing import Any

import numpy as np

from lwgraph import ir
from lwgraph.runtime.ort import OrtExecutor
from lwgraph.runtime.reference import ReferenceExecutor


def both(model: ir.Model, feeds: dict[str, Any]) -> dict[str, Any]:
    """The outputs by the reference, equal to those by ONNX Runtime."""
    ours, theirs = (executor.prepare(model)(feeds) for executor in (ReferenceExecutor(), OrtExecutor()))
    for name, value in theirs.items():
        assert ours[name].shape == value.shape, name
        assert value.dtype.kind in "OU" or ours[name].dtype == value.dtype, name
        if value.dtype.kind in "OU":
            assert ours[name].tolist() == value.tolist()
        else:
            np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6)
    return ours
