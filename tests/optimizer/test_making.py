"""Candidates are carried out as they would be delivered, once; what was made is kept for the next run."""

from dataclasses import replace

import pytest

from lwgraph import ir
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.layers.site import find_sites
from lwgraph.optimizer import making
from lwgraph.optimizer.making import Making
from lwgraph.plan.carry_out import Carried, Samples, carry_out
from lwgraph.plan.plan import Choice, Plan, Precision, Removed, Width
from lwgraph.plan.precision import spelling
from lwgraph.plan.roles import BLOCKS, GROUPS
from lwgraph.plan.search.front import Candidate
from lwgraph.rewrite.base import Context, Log


def test_what_was_made_is_kept_for_the_next_run(found, tmp_path, monkeypatch):
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    model, ctx, offers, feeds = found
    shapes = layer_shapes(model, feeds[0], ctx.executor)
    group = next(o for o in offers if o.role == GROUPS).sizes[-1]
    plan = Plan(groups={group.item: Width(group.kept, group.width)}, precision=Precision((spelling(quick=True),)))

    def make():
        made_by = Making(model, ctx.beside(log=Log()), shapes, feeds[0], Samples.in_earnest(1.0))
        made = made_by.stated(Candidate((), 1.0, 0.0, plan=replace(plan, error=0.5), stated=True))
        return made_by, made, made_by.trunk(plan)

    _, first, trunk = make()
    assert len(list(tmp_path.glob("models-*/*/*.onnx"))) == 2  # the trunk, and what was made on it
    monkeypatch.setattr(making, "carry_out", lambda *a, **k: pytest.fail("made again"))
    _, again, same = make()
    assert ir.fingerprint(again.model) == ir.fingerprint(first.model) != ir.fingerprint(trunk.model)
    assert ir.fingerprint(same.model) == ir.fingerprint(trunk.model) and same.shapes == trunk.shapes
    assert again.details == first.details
    monkeypatch.undo()
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    for path in tmp_path.glob("models-*/*/*.onnx"):
        path.write_bytes(path.read_bytes()[:100])  # a run that was killed left this: it is made again
    _, again, _ = make()
    assert ir.fingerprint(again.model) == ir.fingerprint(first.model)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path / "file"))
    made_by, again, _ = make()
    assert ir.fingerprint(again.model) == ir.fingerprint(first.model)
    assert any("models are not kept" in warning for warning in made_by.context.warnings)


def test_what_passes_said_is_kept_with_the_model(found, tmp_path, monkeypatch):
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path))
    model, ctx, _, feeds = found

    def carry_out(made, plan, context, **_):
        context.warn("take care")
        context.skip("quantize", "a", "why not")
        context.details["quantization"] = {"loss": 0.5}
        return Carried(ir.clone(made), [])

    monkeypatch.setattr(making, "carry_out", carry_out)
    told = []
    for _ in range(2):
        context = Context(executor=ctx.executor, data=ctx.data, details={})
        made = Making(model, context, {}, feeds[0], Samples.in_earnest(1.0)).stated(
            Candidate((), 1.0, 0.0, plan=Plan(), stated=True)
        )
        told.append((context.warnings, context.skipped, made.details, context.details))
        monkeypatch.setattr(making, "carry_out", lambda *a, **k: pytest.fail("made again"))
    assert told[0] == told[1] and told[0][0] == ["take care"] and told[0][2] == {"quantization": {"loss": 0.5}}


def test_a_delivered_plan_is_the_same_from_the_network_and_from_its_trunk(found):
    model, ctx, offers, feeds = found
    shapes = layer_shapes(model, feeds[0], ctx.executor)
    group = next(o for o in offers if o.role == GROUPS).sizes[-1]
    block = next(o for o in offers if o.role == BLOCKS).item
    plan = Plan(groups={group.item: Width(group.kept, group.width)}, blocks={block: Removed()})
    made_by = Making(model, ctx, shapes, feeds[0], Samples.in_earnest(1.0))
    # Layers see fewer channels, and other values, than in the network: forms are fitted to what is left of these.
    layers = [site for site in find_sites(made_by.trunk(plan).model) if site.kind == "conv" and site.fan_in > 64]
    forms = {site.name: Choice("low-rank{rank=4}") for site in layers}
    plan = replace(plan, sites=forms)
    whole = carry_out(model, plan, ctx, shapes=shapes, samples=Samples.in_earnest())
    made = made_by.stated(Candidate((), 1.0, 0.0, plan=plan, stated=True))
    assert forms and len(whole.records) == 2 + len(forms) and all(record.done for record in whole.records)
    assert ir.fingerprint(whole.model) == ir.fingerprint(made.model) != ir.fingerprint(model)


def test_the_report_hears_of_the_plan_that_was_made_and_of_no_other(found):
    model, ctx, _, feeds = found
    ctx = ctx.beside(details={"kept": 1})
    shapes = layer_shapes(model, feeds[0], ctx.executor)
    made_by = Making(model, ctx, shapes, feeds[0], Samples.in_earnest(1.0))
    plan = Plan(precision=Precision(('quantize{calibration_method=minmax,keep="none"}',)))
    made = made_by.stated(Candidate((), 1.0, 0.0, plan=plan, stated=True))
    assert "quantization" in made.details and ctx.details == {"kept": 1}


def test_trunks_that_do_not_fit_the_allowance_are_read_from_the_cache_again(found, tmp_path, monkeypatch):
    model, ctx, _, feeds = found
    plans = [Plan(groups={"Conv_0": Width(kept, 48)}) for kept in (16, 24, 32)]
    cut = []

    def carry_out(made, plan, context, **_):
        cut.append(plan)
        return Carried(ir.clone(made), [])

    monkeypatch.setattr(making, "carry_out", carry_out)

    def trunks(room):
        made_by = Making(model, ctx.beside(log=Log(), memory_bytes=room), {}, feeds[0], Samples.in_earnest(1.0))
        for plan in [*plans, plans[0]]:
            made_by.trunk(plan)
        return len(made_by._trunks)

    size = ir.size(model)
    for room, alive in ((None, 3), (8 * (2 * size + size // 2), 2), (1, 1)):
        monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path / str(alive)))
        cut.clear()
        assert trunks(room) == alive and len(cut) == 3
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path / "file"))
    cut.clear()
    assert trunks(1) == 3 and len(cut) == 3  # there is no cache to read them from
