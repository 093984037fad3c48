"""The memory benchmark does what it says, on a small model."""

import pytest

from benchmarks import memory
from lwgraph import ir


@pytest.mark.parametrize("job", list(memory.JOBS))
def test_jobs(job, tmp_path):
    path = memory.generate(tmp_path, 0.03)
    before = ir.fingerprint(ir.load(path))
    memory.JOBS[job](path)
    assert ir.fingerprint(ir.load(path)) == before
    names = {"copy": "copy", "rewrite-half": "half", "clean": "clean", "optimize": "lw"}
    if job in names:
        written = f"chain.{names[job]}.onnx"
        after = ir.load(tmp_path / written)
        assert len(after.graph) == len(ir.load(path).graph)
        if job in ("copy", "rewrite-half"):
            assert (ir.fingerprint(after) == before) is (job == "copy")
        assert (tmp_path / f"{written}.data").stat().st_size == (tmp_path / "chain.onnx.data").stat().st_size
