"""python -m benchmarks.forms [CASE]...: what each form costs and gains on the real layers of the public models.

On each case the largest layers of different shapes are taken. Each form is fitted at about 40 % of the layer's work,
with and without calibration data, and judged on images that the fit has not seen: ||Y - Yhat||^2 / ||Y - mean Y||^2 of
the layer alone, the bias re-centred in both. Speeds are those of the layer in a small model at its real size, one
thread, interleaved with the dense layer: float against float, and 8 bits against 8 bits.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import tables, zoo
from lwgraph import ir, registry
from lwgraph.calibrate.capture import capture
from lwgraph.calibrate.statistics import Statistics
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor
from lwgraph.measure.latency import paired_latency
from lwgraph.plan.fit import Moments
from lwgraph.plan.form import Fitted, Form, parse_form
from lwgraph.plan.probe import Probe
from lwgraph.plan.shapes import layer_shapes
from lwgraph.plan.site import Site, find_sites
from lwgraph.plan.substitute import formed, original, small_model
from lwgraph.rewrite import Context, Pipeline

PAGE = Path(__file__).with_name("FORMS.md")
WORK = 0.4  # of the layer: the size at which forms are compared
LAYERS = 3  # with a spatial kernel, per case; and one without
WIDEST = 2304  # longer patches take minutes to fit
FAMILIES = {  # what is compared: family -> a form's name and options that all its sizes have
    "low-rank (spatial)": "low-rank{split=spatial}", "low-rank (output)": "low-rank{split=output}",
    "low-rank (input)": "low-rank{split=input}", "depthwise (dw-pw)": "depthwise{order=dw-pw}",
    "depthwise (pw-dw)": "depthwise{order=pw-dw}", "shift (per-channel)": "shift{kind=per-channel}",
    "shift (free)": "shift{kind=free}", "shift (joint)": "shift{kind=joint}",
    "ghost (depthwise)": "ghost{cheap=depthwise}",
}  # fmt: skip
ASKED = ("octave{inputs=0.5}", f"ghost{{ratio={WORK},cheap=depthwise}}")  # on no menu
STATED = {
    "low-rank{ratio=0.5,split=spatial}": 0.003, "depthwise{terms=2,order=dw-pw}": 0.015,
    "shift{kind=free,ratio=1.0}": 0.05,
}  # fmt: skip


def chosen_layers(sites: Sequence[Site]) -> list[Site]:
    """The layers with most work, of different shapes: LAYERS dense ones with a spatial kernel, and one without."""
    found: list[Site] = []
    for spatial, count in ((True, LAYERS), (False, 1)):
        seen: set[object] = set()
        for site in sorted(sites, key=lambda s: -s.macs()):
            fits = site.group == 1 and site.fan_in <= WIDEST and min(site.inputs, site.outputs) >= 32
            if fits and (site.taps > 1) == spatial and site.shape not in seen and len(seen) < count:
                seen.add(site.shape)
                found.append(site)
    return found


def options(site: Site) -> dict[str, Form]:
    """By family, the form of its menu whose work is nearest to WORK of the layer's."""
    found: dict[str, list[Form]] = {}
    for name in registry.names("forms"):
        kind = registry.form_class(name)
        asked = [parse_form(text).at(site) for text in ASKED if text.startswith(f"{name}{{")]
        for form in () if kind.refusal(site) else (*kind.menu(site), *asked):
            if form.seen(site).fan_in <= WIDEST:
                found.setdefault(family(form), []).append(form)
    share = {name: [abs(math.log(f.macs(site) / site.macs() / WORK)) for f in forms] for name, forms in found.items()}
    return {name: forms[int(np.argmin(share[name]))] for name, forms in found.items()}


def family(form: Form) -> str:
    """The family of a form; forms of several structures have one for each."""
    for name, text in FAMILIES.items():
        kind, _, wanted = text.removesuffix("}").partition("{")
        field, _, value = wanted.partition("=")
        if form.name == kind and str(getattr(form, field)) == value:
            return name
    return form.name


def held_out_error(fitted: Fitted, seen: Site | Probe, rows: Any, mean: Any) -> float:
    """The relative error on held-out rows (r, G, D) of what the form looks at, the bias re-centred by the mean row of
    the others (G, D)."""
    weight, kernel = (w.reshape(seen.group, -1, seen.fan_in) for w in (seen.weight, fitted.kernel))
    y = np.einsum("rgd,god->rgo", rows, weight, optimize=True)
    off = np.einsum("rgd,god->rgo", rows - mean, weight - kernel, optimize=True)
    return float(np.square(off).sum() / np.square(y - y.mean(0)).sum())


def speeds(site: Site, fits: dict[str, Fitted], x: Any, ort: Executor) -> dict[str, dict[str, float]]:
    """By family the speed-up over the dense layer in float32 and, both quantized, in 8 bits."""
    builds = {"dense": original(site)} | {name: formed(fit) for name, fit in fits.items()}
    models = {name: small_model(site, build, x.shape, 17) for name, build in builds.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in models}
    for precision in ("fp32", "int8"):
        if precision == "int8":
            for name in list(models):
                context = Context(executor=ort, reference=registry.executor("reference"), data=[{"x": x}])
                try:
                    Pipeline.parse("quantize{keep=none,calibration_method=minmax,equalize=false}").run(
                        models[name], context
                    )
                except LwgraphError as error:
                    click.echo(f"    {name} in 8 bits: {error}", err=True)
                    del models[name]
        if "dense" not in models:
            return found
        runs = {name: ort.prepare(model) for name, model in models.items()}
        times = paired_latency(runs, [{"x": x}], threads=1, seconds=4.0)
        for name in models:
            found[name][precision] = times.speedup(name).median
    return found


def measure(case: zoo.Case) -> dict[str, Any]:
    """All layers of one case."""
    model, data = ir.load(case.model()), list(case.calibration())
    Pipeline.parse("default").run(model, Context())
    ort = registry.executor("ort")
    sites = find_sites(model, layer_shapes(model, data[0], ort))
    layers = chosen_layers([site for site in sites if site.graph is model.graph])
    moments = Statistics(model, data, ort, held_out=0.25)
    moments.prefetch([*layers, *(form.seen(site) for site in layers for form in options(site).values())])
    (values,) = [found for _, found in capture(model, [s.input.name or "" for s in layers], data[:1], ort)]
    result: dict[str, Any] = {}
    for site in layers:
        gram = moments.gram(site)
        aware, free = Moments(site, gram, lambda look: moments.gram(look(site))), Moments(site)  # noqa: B023
        records: dict[str, Any] = {}
        fits: dict[str, Fitted] = {}
        for name, form in options(site).items():
            fits[name], plain = form.fit(site, aware), form.fit(site, free)
            seen = form.seen(site)
            errors = [held_out_error(f, seen, moments.held_out(seen), moments.gram(seen).mean)
                      for f in (plain, fits[name])]  # fmt: skip
            records[name] = {"form": str(fits[name].form), "free": errors[0], "fitted": errors[1],
                             "parameters": fits[name].parameters, "work": form.macs(site) / site.macs()}  # fmt: skip
        for name, found in speeds(site, fits, values[site.input.name or ""], ort).items():
            records.setdefault(name, {}).update(found)
        stated = {}
        for text in STATED:
            form = parse_form(text)
            if site.kernel == (3, 3) and min(site.inputs, site.outputs) >= 128 and not form.refusal(site):
                stated[text] = held_out_error(form.fit(site, aware), site, moments.held_out(site), gram.mean)
        shape = "x".join(map(str, site.shape))
        result[site.name] = {"shape": shape, "samples": gram.count, "unknowns": site.fan_in, "forms": records,
                             "dense": site.weight.size + (0 if site.bias is None else site.bias.size),
                             "stated": stated}  # fmt: skip
        click.echo(f"  {site.name} {shape}: {len(records) - 1} forms")
    return result


# ---------------------------------------------------------------- the page


def dominated(name: str, records: dict[str, Any], precision: str) -> bool:
    """Whether another form at the layer errs no more and is no slower, one of both clearly."""
    mine = records[name]
    for other, theirs in records.items():
        if other in (name, "dense") or precision not in theirs or precision not in mine:
            continue
        faster, better = theirs[precision] / mine[precision], mine["fitted"] / max(theirs["fitted"], 1e-12)
        if faster >= 1 and better >= 1 and max(faster, better) > 1.05:
            return True
    return False


def summary(results: dict[str, Any]) -> str:
    """One row per family over all layers."""
    by_family: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for case in results.values():
        for layer in case.values():
            for name, record in layer["forms"].items():
                if name != "dense":
                    by_family.setdefault(name, []).append((record, layer))
    rows, everything = [], []
    for name, found in sorted(by_family.items()):
        ratios = [r["fitted"] / max(r["free"], 1e-12) for r, _ in found if r["free"] > 1e-6]
        everything += ratios
        row = [name, str(len(found)), _percent(statistics.median(r["free"] for r, _ in found)),
               _percent(statistics.median(r["fitted"] for r, _ in found))]  # fmt: skip
        row += [f"{statistics.median(ratios):.2f}", f"{max(ratios):.2f}"] if ratios else ["", ""]
        row.append(f"{statistics.median(r['parameters'] / layer['dense'] for r, layer in found):.2f}")
        for precision in ("fp32", "int8"):
            timed = [r[precision] for r, _ in found if precision in r]
            row.append(f"{statistics.median(timed):.2f}" if timed else "")
        for precision in ("fp32", "int8"):
            timed = [dominated(name, layer["forms"], precision) for r, layer in found if precision in r]
            row.append(f"{sum(timed)} of {len(timed)}")
        rows.append(row)
    header = ["form", "layers", "error without data", "refitted", "ratio, median", "ratio, worst", "parameters",
              "speed-up fp32", "speed-up int8", "dominated fp32", "dominated int8"]  # fmt: skip
    text = tables.table(header, rows)
    return f"{text}\n\nOver all {len(everything)} pairs: median ratio {statistics.median(everything):.2f}, " \
           f"worst {max(everything):.2f}."  # fmt: skip


def details(results: dict[str, Any]) -> str:
    """One table per layer."""
    parts = []
    for case, layers in results.items():
        for name, layer in layers.items():
            enough = "" if layer["samples"] >= 5 * layer["unknowns"] else ", fewer samples than five per unknown"
            rows = []
            for r in (r for key, r in layer["forms"].items() if key != "dense"):
                timed = [f"{r[p]:.2f}" if p in r else "" for p in ("fp32", "int8")]
                ratio = f"{r['fitted'] / max(r['free'], 1e-12):.2f}"
                rows.append([f"`{r['form']}`", _percent(r["free"]), _percent(r["fitted"]), ratio,
                             f"{r['parameters']:,}", *timed])  # fmt: skip
            title = f"**{case}**, `{name}`, {layer['shape']}, {layer['dense']:,} parameters, "
            title += f"{layer['samples']:,} samples"
            header = ["form", "error without data", "refitted", "ratio", "parameters", "fp32", "int8"]
            parts.append(f"{title}{enough}\n\n{tables.table(header, rows)}")
    return "\n\n".join(parts)


def stated(results: dict[str, Any]) -> str:
    """The stated bounds on 3 x 3 layers of 128 channels and more."""
    rows = []
    for case, layers in results.items():
        for name, layer in layers.items():
            if layer["stated"]:
                cells = [f"{_percent(layer['stated'][t])}{'' if layer['stated'][t] <= bound else ' *'}"
                         if t in layer["stated"] else "" for t, bound in STATED.items()]  # fmt: skip
                rows.append([f"{case} `{name}`", layer["shape"], *cells])
    header = ["layer", "shape", *(f"`{text}` under {_percent(bound)}" for text, bound in STATED.items())]
    return tables.table(header, rows) + "\n\n\\* misses the bound."


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES), metavar="[CASE]...")
@click.option("--write", is_flag=True, help="Write the kept results into FORMS.md, measuring only what is named.")
def main(cases: tuple[str, ...], write: bool) -> None:
    """Measure the forms on the layers of the public models."""
    for name in cases or (() if write else tuple(zoo.NAMES)):
        click.echo(name)
        tables.keep("forms", name, measure(zoo.case(name)))
    results = {name: kept for name in zoo.NAMES if (kept := tables.kept("forms", name)) is not None}
    click.echo(summary(results))
    if write:
        tables.write("conditions", tables.conditions(), PAGE)
        for marker, text in (("summary", summary(results)), ("stated", stated(results)), ("details", details(results))):
            tables.write(marker, text, PAGE)


if __name__ == "__main__":
    main()
