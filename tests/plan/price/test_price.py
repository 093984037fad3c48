import math
import multiprocessing
import sqlite3
import time

import numpy as np
import pytest

from lwgraph import registry
from lwgraph.errors import ModelError
from lwgraph.layers.site import Site, find_sites
from lwgraph.layers.substitute import original
from lwgraph.passes.forms.low_rank import LowRank
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.price.price_table import PriceCache
from lwgraph.plan.price.timed_model import TimedModels
from lwgraph.testing.layers import make_layer


class Clockwork:
    """An executor whose time is the model's nodes of one kind, in units of 2 ms; counts what it prepares."""

    name = "clockwork"

    def __init__(self, threads=1, fails=False):
        self.threads, self.fails, self.prepared = threads, fails, 0

    def prepare(self, model, outputs=None):
        self.prepared += 1
        convs = [n for n in model.graph if n.op_type == "Conv"]
        if self.fails and len(convs) > 1:
            raise ModelError("no")
        work = sum(int(np.prod(n.inputs[1].const_value.shape.numpy())) for n in convs)

        def run(feeds):
            time.sleep(5e-4 + 2e-3 * work / (32 * 32 * 9))
            return {}

        return run


def site(size=24, **attributes):
    model = make_layer("Conv", (1, 32, size, size), (32, 32, 3, 3), pads=(1, 1, 1, 1), **attributes)
    return find_sites(model, {"x": (1, 32, size, size), "y": (1, 32, size, size)})[0]


@pytest.mark.parametrize("opset", [7, 10, 11, 17])
@pytest.mark.parametrize("activation", ["Clip", "Relu", "LeakyRelu", "Sigmoid", "Silu"])
def test_a_layer_is_timed_with_its_activation_as_its_opset_spells_it(opset, activation, monkeypatch):
    monkeypatch.setattr(Site, "activation", property(lambda self: activation))
    model = make_layer("Conv", (1, 32, 8, 8), (32, 32, 3, 3), pads=(1, 1, 1, 1))
    model.graph.opset_imports[""] = opset
    found = find_sites(model, {"x": (1, 32, 8, 8), "y": (1, 32, 8, 8)})[0]
    timed = TimedModels(registry.executor("ort"), found, (1, 32, 8, 8))
    assert timed.opset == opset and timed.floats(original(found))(timed.feeds)["y"].shape == (1, 32, 1, 1)


FORMS = [LowRank(16, split="vertical"), LowRank(32, split="vertical")]


def test_measures_once_and_remembers(tmp_path):
    executor = Clockwork()
    prices = Oracle(executor, PriceCache(tmp_path)).prices(site(), FORMS)
    assert executor.prepared == 4  # dense, empty, two forms
    # The neighbours' time is taken off, so what is left is in proportion to the work: 1/3 and 2/3.
    assert [p.ratio for p in prices] == pytest.approx([1 / 3, 2 / 3], rel=0.15)
    again = Clockwork()
    assert Oracle(again, PriceCache(tmp_path)).prices(site(), FORMS) == prices and again.prepared == 0


def test_what_a_price_depends_on(tmp_path):
    cache, executor = PriceCache(tmp_path), Clockwork()
    oracle = Oracle(executor, cache, budget=0.01)
    base = oracle.prices(site(64), FORMS[:1])[0]
    done = executor.prepared
    near = oracle.prices(site(65), FORMS[:1])[0]
    assert executor.prepared == done  # nearly the same size: the measurement is shared, scaled by the work
    assert near.ratio == pytest.approx(base.ratio) and near.ms / base.ms == pytest.approx(65**2 / 64**2)
    for other, target in (
        (site(96), oracle),
        (site(64, dilations=(2, 2)), oracle),
        (site(64, bias=False), oracle),
        (site(64), Oracle(Clockwork(threads=2), cache, budget=0.01)),
    ):
        before = target.executor.prepared
        target.prices(other, FORMS[:1])
        assert target.executor.prepared == before + 3


def test_a_form_that_the_runtime_cannot_run_costs_infinitely_much(tmp_path):
    (price,) = Oracle(Clockwork(fails=True), PriceCache(tmp_path)).prices(site(), FORMS[:1])
    assert price.ms == math.inf and price.ratio == math.inf


@pytest.mark.parametrize("kind", ["Conv", "Gemm", "MatMul", "ConvTranspose"])
def test_real_prices_of_each_kind(kind, tmp_path):
    shape, weight = {
        "Conv": ((1, 64, 28, 28), (64, 64, 3, 3)),
        "ConvTranspose": ((1, 64, 14, 14), (64, 64, 3, 3)),
        "Gemm": ((8, 512), (512, 512)),
        "MatMul": ((1, 64, 512), (512, 512)),
    }[kind]
    (layer,) = find_sites(make_layer(kind, shape, weight, dynamic=False))
    oracle = Oracle(registry.executor("ort"), PriceCache(tmp_path), budget=0.02)
    prices = oracle.prices(layer, [LowRank(16, split="output")])
    assert all(0 < p.ms < math.inf and p.dense_ms > 0 for p in prices)
    assert "ort" in oracle.target


def test_a_cache_that_cannot_be_used_says_so_and_works_in_memory(tmp_path):
    (tmp_path / "file").write_text("")
    broken = PriceCache(tmp_path / "file")
    assert "set LWGRAPH_CACHE" in broken.warning
    broken.put("k", 2.0, 1.0, 7)
    assert broken.get("k") == (2.0, 1.0, 7) and broken.get("other") is None
    good = PriceCache(tmp_path)
    good.path.write_bytes(b"this is not a database, and it is long enough to be seen as none" * 10)
    assert "cannot be used" in PriceCache(tmp_path).warning


def _write(folder, start):
    cache = PriceCache(folder)
    for index in range(25):
        cache.put(f"{start}-{index}", 2.0, 1.0, 7)
    if cache.warning:
        raise RuntimeError(cache.warning)


def test_processes_may_write_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(tmp_path, start)) for start in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    connection = sqlite3.connect(PriceCache(tmp_path).path)
    assert connection.execute("SELECT count(*) FROM prices").fetchone() == (75,)
    connection.close()
