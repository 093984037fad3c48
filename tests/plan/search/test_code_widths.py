"""Bits for each layer: what is measured of it, and which mixtures are left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.plan.roles import CODES, CodesLayers
from lwgraph.plan.search import code_widths
from lwgraph.plan.search.code_widths import mixtures, uniform
from lwgraph.rewrite import Context
from tests.passes.quantize.quantize_models import Net

ORT = registry.executor("ort")


def network() -> ir.Model:
    """Two layers of the same size of which the second hardly matters, and a large one."""
    n = Net(17)
    rng = np.random.default_rng(0)

    def layer(x: str, width: int, to: int, gain: float, name: str) -> str:
        return n.op("MatMul", x, n.constant((gain * rng.normal(size=(width, to))).astype(np.float32)), name=name)

    x = n.input("x", ["batch", 64])
    both = n.op("Add", layer(x, 64, 64, 1.0, "much"), layer(x, 64, 64, 0.01, "little"))
    return n.model(layer(both, 64, 256, 1.0, "large"))


def coder() -> CodesLayers:
    return registry.role(CODES, CodesLayers)


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    data = feeds(12)
    plain = Context(executor=ORT, data=data)
    return plain.beside(statistics=plain.statistics_of(network()))


def feeds(count: int, seed: int = 1) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((16, 64)).astype(np.float32)} for _ in range(count)]


def size(bits: dict[str, int], others: int, context: Context) -> int:
    model = network()
    coder().mixed(bits, others).run(model, context.beside(data=None))
    return ir.size(model)


def test_the_layer_that_matters_least_gets_the_fewest_bits(context: Context) -> None:
    found = mixtures(network(), coder(), 4, context, feeds(4, 2))
    assert found is not None and found.reference.others == 4 and not found.reference.bits
    losses, saved = [each.loss for each in found.front], [each.saved for each in found.front]
    assert losses == sorted(losses, reverse=True) and saved == sorted(saved, reverse=True) and len(losses) > 8
    assert all(each.others in coder().bits for each in found.front)
    for each in found.front:
        assert each.bits.get("little", each.others) <= each.bits.get("much", each.others)
    assert {each.others for each in (found.front[0], found.front[-1])} == {2, 8}
    assert not found.front[0].bits and not found.front[-1].bits
    better = [each for each in found.front if each.saved >= 0 and each.loss <= found.reference.loss]
    assert better  # than one width for all


def test_bytes_are_those_of_the_file(context: Context) -> None:
    found = mixtures(network(), coder(), 4, context, feeds(4, 2))
    assert found is not None
    reference = size({}, 4, context)
    for each in found.front[:: len(found.front) // 4]:
        assert reference - each.saved == pytest.approx(size(dict(each.bits), each.others, context), abs=2500)


def test_layers_beyond_those_that_are_measured_are_taken_as_the_others(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_widths, "MEASURED", 2)
    found = mixtures(network(), coder(), 4, context, feeds(4, 2))
    assert found is not None
    assert any(len({each.bits.get(n, each.others) for n in ("much", "little")}) == 2 for each in found.front)
    losses = [each.loss for each in found.front]
    assert losses == sorted(losses, reverse=True) and np.isfinite(losses).all()


def test_nothing_to_choose(context: Context) -> None:
    n = Net(17)
    assert mixtures(n.model(n.op("Relu", n.input("x", ["batch", 64]))), coder(), 4, context, feeds(2)) is None


def test_one_width_for_all() -> None:
    found = uniform(coder(), 4, 1000)
    assert [each.others for each in found.front] == [2, 3, 4, 5, 6, 8] and found.reference.saved == 0
    assert [each.saved for each in found.front][:2] == [500, 250] and found.front[0].loss > found.front[1].loss
