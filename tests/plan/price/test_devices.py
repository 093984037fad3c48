"""Prices of another machine: the kit, its script, the table, and planning with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.errors import UsageError
from lwgraph.layers.site import Site, find_sites
from lwgraph.plan.precision import FLOAT, INT8
from lwgraph.plan.price.devices import DeviceOracle, Table, devices, find_device
from lwgraph.plan.price.kit import Recorder, write_kit
from lwgraph.plan.price.oracle import Oracle
from lwgraph.plan.price.prefetch import ask_all
from lwgraph.plan.price.price_table import PriceCache
from lwgraph.registry import form_class
from lwgraph.rewrite.base import Context
from tests.layers.chain import FEEDS, ORT, chain


def sites() -> list[Site]:
    model = chain()
    return find_sites(model, layer_shapes(model, FEEDS, ORT))


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = chain()
    recorder = Recorder(ORT)
    context = Context(executor=ORT)
    assert ask_all(model, recorder, context, forms=["low-rank"], shapes=layer_shapes(model, FEEDS, ORT)) == 2
    folder = tmp_path_factory.mktemp("kit") / "kit"
    assert write_kit(recorder.batches, folder) == len(list((folder / "models").iterdir())) > 4
    return folder


@pytest.fixture(scope="module")
def table(kit: Path) -> Path:
    path = kit.parent / "table.json"
    words = [sys.executable, "-I", str(kit / "measure.py"), "--seconds", "0.001", "--name", "far", "-o", str(path)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "written:" in ended.stdout and not ended.stderr
    return path


def test_bringing_the_input_into_integers_is_a_part_of_the_first_layers_price() -> None:
    recorder = Recorder(ORT)
    for site in sites():
        recorder.prices(site, [None], INT8)
    first, second = [batch for batch in recorder.batches if batch.kind in ("first", "integers")]
    assert (first.kind, second.kind) == ("first", "integers") and len(second.models) == len(first.models) + 1

    assert [node.op_type for node in first.models[-1][0].graph].count("Conv") == 2
    assert [node.op_type for node in second.models[-1][0].graph].count("Conv") == 3


def test_the_kit_needs_no_lwgraph_and_holds_no_large_weights(kit: Path) -> None:
    script = (kit / "measure.py").read_text("utf8")
    assert "import lwgraph" not in script and "from lwgraph" not in script
    sizes = [path.stat().st_size for path in (kit / "models").iterdir()]
    assert max(sizes) < 4 * 32 * 32 * 9  # a dense weight alone has as many bytes


def test_the_table_has_what_planning_asks_for(table: Path, tmp_path: Path) -> None:
    cache = PriceCache(tmp_path)
    loaded = Table.load(table)
    loaded.put(cache)
    assert devices(PriceCache(tmp_path)) == {"far": loaded.device} and loaded.device.threads == 1
    oracle = DeviceOracle(ORT, *find_device("far", 1, cache))
    for site in sites():
        menu = [None, *form_class("low-rank").menu(site)]
        for precision in (FLOAT, INT8):
            prices = oracle.prices(site, menu, precision)
            assert all(price.dense_ms > 0 and price.ms > 0 for price in prices)
            assert all(np.isfinite(price.ms) for price in prices)
        assert oracle.switch(site) >= 0
    assert not oracle.note() and not oracle.measures and "far" in oracle.target


def test_keys_are_those_of_prices_measured_here(kit: Path, tmp_path: Path) -> None:
    """A kit's keys, with the target of this machine, are exactly what measuring here would store."""
    manifest = json.loads((kit / "manifest.json").read_text("utf8"))
    listed = {json.dumps(key) for batch in manifest["batches"] for key in batch["keys"]}
    oracle = Oracle(ORT, PriceCache(tmp_path), budget=0.0)
    site = sites()[0]
    forms = [None, next(iter(form_class("low-rank").menu(site)))]
    for precision in (FLOAT, INT8):
        keys, _ = oracle._keys(site, forms, precision)
        assert {json.dumps(json.loads(key)[1:]) for key in keys} <= listed


def test_gaps_are_not_chosen_and_told(table: Path, tmp_path: Path) -> None:
    data = json.loads(table.read_text("utf8"))
    data["batches"] = [batch for batch in data["batches"] if batch["kind"] not in ("integers", "first")]
    path = tmp_path / "gaps.json"
    path.write_text(json.dumps(data))
    oracle = DeviceOracle(ORT, *find_device(str(path), 1))
    site = sites()[0]
    assert np.isfinite(oracle.prices(site, [None])[0].ms)
    assert np.isinf(oracle.prices(site, [None], INT8)[0].ms)
    assert "far has no prices for some forms of 1 layers ('a')" in oracle.note()


def test_measuring_goes_on_where_it_stopped(kit: Path, table: Path, tmp_path: Path) -> None:
    half = json.loads(table.read_text("utf8"))
    kept = half["batches"][:1]
    half["batches"] = kept
    path = tmp_path / "half.json"
    path.write_text(json.dumps(half))
    words = [sys.executable, "-I", str(kit / "measure.py"), "--seconds", "0.001", "--name", "far", "-o", str(path)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    assert ended.stdout.startswith("2/")
    done = json.loads(path.read_text("utf8"))["batches"]
    assert done[:1] == kept and len(done) == len(json.loads(table.read_text("utf8"))["batches"])
    other = subprocess.run([*words[:-3], "near", "-o", str(path)], capture_output=True, text=True, check=False)
    assert other.returncode == 1 and "is a table of something else" in other.stderr


def test_a_model_that_the_device_cannot_run_is_a_result(kit: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "kit"
    shutil.copytree(kit, broken)
    manifest = json.loads((broken / "manifest.json").read_text("utf8"))
    floats = next(b for b in manifest["batches"] if b["kind"] == "floats")
    (broken / floats["models"][-1]["file"]).write_bytes(b"nonsense")
    manifest["batches"] = [floats]
    (broken / "manifest.json").write_text(json.dumps(manifest))
    words = [sys.executable, "-I", str(broken / "measure.py"), "--seconds", "0.001", "-o", str(tmp_path / "t.json")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    assert "does not run here" in ended.stderr
    rows = Table.load(tmp_path / "t.json").rows
    assert np.isinf(rows[-1][1][1]) and np.isfinite(rows[0][1][1])


def damage(**changes: Any) -> str:
    batch = {"id": "0", "kind": "switch", "keys": [["switch"]], "ms": [1.5, 0.5], "rounds": 7, "what": ""}
    whole = {"lwgraph_prices": 1, "device": "far", "threads": 1, "batches": [{**batch, **changes.pop("batch", {})}]}
    return json.dumps({**whole, **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a table of prices"),
        (damage(lwgraph_prices=9), "is not a table of prices"),
        (damage(device=3), "3 where str belongs"),
        (damage(threads=True), "True where int belongs"),
        (damage(batches=[]), "no prices yet"),
        (damage(batches=[{}]), "'kind' is missing"),
        (damage(batch={"kind": "double"}), "batch of kind 'double'"),
        (damage(batch={"ms": [1.0]}), "1 times where 2 belong"),
        (damage(batch={"ms": [1.0, -1.0]}), "-1.0 is not a time"),
        (damage(batch={"ms": [1.0, "x"]}), "'x' is not a time"),
    ],
)
def test_a_wrong_table_is_told_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        Table.load(path)
    assert "\n" not in str(caught.value) and "table.json" in str(caught.value)


def test_unknown_devices_and_other_threads(tmp_path: Path) -> None:
    cache = PriceCache(tmp_path)
    path = tmp_path / "table.json"
    path.write_text(damage())
    Table.load(path).put(cache)
    with pytest.raises(UsageError, match=r"'fra'; did you mean 'far'"):
        find_device("fra", 1, cache)
    for target in ("far", str(path)):
        with pytest.raises(UsageError, match=r"measured with 1 threads, --threads is 2; give --threads 1"):
            find_device(target, 2, cache)


def test_the_kit_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_kit([], tmp_path)


def test_the_original_is_not_changed() -> None:
    model = chain()
    text = ir.fingerprint(model)
    ask_all(model, Recorder(ORT), Context(executor=ORT), forms=["low-rank"])
    assert ir.fingerprint(model) == text
