"""python -m benchmarks.forms [CASE]...: what each form costs and gains on the real layers of the public models.

On each case the largest layers of different shapes are taken. Each form is fitted at about 40 % of the layer's work,
with and without calibration data, and judged on images that the fit has not seen: ||Y - Yhat||^2 / ||Y - mean Y||^2 of
the layer alone, the bias re-centred in both. Speeds are those of the layer in a small model at its real size, one
thread, interleaved with the dense layer: float against float, and 8 bits against 8 bits.

Errors and speeds are measured apart (`--only`), and kept layer by layer: what is kept is not measured again without
`--again`, so a run that was stopped goes on where it was. Speeds need a quiet core, errors do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import click
import numpy as np

from benchmarks import forms_page, tables, zoo
from lwgraph import ir, registry
from lwgraph.calibrate.capture import capture
from lwgraph.calibrate.layer_shapes import layer_shapes
from lwgraph.calibrate.statistics import Statistics
from lwgraph.errors import LwgraphError
from lwgraph.executor import Executor
from lwgraph.layers.form import Fitted, Form, parse_form
from lwgraph.layers.moments import Moments
from lwgraph.layers.probe import Probe
from lwgraph.layers.site import Site, find_sites
from lwgraph.layers.substitute import Build, formed, original, small_model
from lwgraph.measure.latency import paired_latency
from lwgraph.rewrite import Context, Pipeline

WORK = 0.4  # of the layer: the size at which forms are compared
LAYERS = 3  # with a spatial kernel, per case; and one without
WIDEST = 2304  # longer patches take minutes to fit
SECONDS = 8.0  # of interleaved timing for all forms of a layer in one precision, unless 1 % is reached before
FAMILIES = {  # what is compared: family -> a form's name and options that all its sizes have
    "low-rank (spatial)": "low-rank{split=spatial}",
    "low-rank (output)": "low-rank{split=output}",
    "low-rank (input)": "low-rank{split=input}",
    "depthwise (dw-pw)": "depthwise{order=dw-pw}",
    "depthwise (pw-dw)": "depthwise{order=pw-dw}",
    "shift (per-channel)": "shift{kind=per-channel}",
    "shift (free)": "shift{kind=free}",
    "shift (joint)": "shift{kind=joint}",
    "ghost (depthwise)": "ghost{cheap=depthwise}",
    "octave (inputs)": "octave{outputs=0.0}",
    "octave (both)": "octave{outputs=0.5}",
}
ASKED = ("octave{inputs=0.5}", "octave{inputs=0.5,outputs=0.5}", f"ghost{{ratio={WORK},cheap=depthwise}}")  # on no menu


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


def errors(site: Site, forms: dict[str, Form], moments: Statistics) -> dict[str, Any]:
    """One layer: for each family the fitted form, its parameters, and its errors with and without samples."""
    gram = moments.gram(site)
    aware, free = Moments(site, gram, lambda look: moments.gram(look(site))), Moments(site)
    records: dict[str, Any] = {}
    for name, form in forms.items():
        fit, plain = form.fit(site, aware), form.fit(site, free)
        seen = form.seen(site)
        off = [held_out_error(f, seen, moments.held_out(seen), moments.gram(seen).mean) for f in (plain, fit)]
        records[name] = {
            "form": str(fit.form),
            "free": off[0],
            "fitted": off[1],
            "parameters": fit.parameters,
            "work": form.macs(site) / site.macs(),
        }
    stated = {}
    for text in forms_page.STATED:
        form = parse_form(text)
        if site.kernel == (3, 3) and min(site.inputs, site.outputs) >= 128 and not form.refusal(site):
            stated[text] = held_out_error(form.fit(site, aware), site, moments.held_out(site), gram.mean)
    return {
        "shape": "x".join(map(str, site.shape)),
        "samples": gram.count,
        "unknowns": site.fan_in,
        "forms": records,
        "dense": site.weight.size + (0 if site.bias is None else site.bias.size),
        "stated": stated,
    }


def speeds(site: Site, forms: dict[str, Form], x: Any, ort: Executor) -> dict[str, dict[str, float]]:
    """By family the speed-up over the dense layer in float32 and, both quantized, in 8 bits; with any weights, since
    these do not change the time."""
    builds: dict[str, Build] = {"dense": original(site)}
    builds |= {name: formed(form.blank(site)) for name, form in forms.items()}
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
        times = paired_latency(runs, [{"x": x}], threads=1, seconds=SECONDS)
        for name in models:
            speedup = times.speedup(name)
            found[name] |= {precision: speedup.median, f"{precision} shortest": speedup.ratio}
        found["dense"][f"{precision} seconds"] = times.timing("dense").median
    return found


def measure(name: str, only: str, again: bool) -> dict[str, Any]:
    """All layers of one case: what is not kept, or everything again; kept after each layer."""
    case, ort = zoo.case(name), registry.executor("ort")
    model, data = ir.load(case.model()), list(case.calibration())
    Pipeline.parse("default").run(model, Context())
    sites = find_sites(model, layer_shapes(model, data[0], ort))
    layers = {site.name: site for site in chosen_layers([site for site in sites if site.graph is model.graph])}
    asked = {key: options(site) for key, site in layers.items()}
    results = {key: layer for key, layer in (tables.kept("forms", name) or {}).items() if key in layers}
    if only in ("", "errors"):
        due = [key for key in layers if again or set(results.get(key, {}).get("forms", ())) != set(asked[key])]
        moments = Statistics(model, data, ort, held_out=0.25)
        moments.prefetch([form.seen(layers[key]) for key in due for form in asked[key].values()])
        for key in due:
            results[key] = results.get(key, {}) | errors(layers[key], asked[key], moments)
            tables.keep("forms", name, {k: results[k] for k in layers if k in results})
            click.echo(f"  {key} {results[key]['shape']}: {len(asked[key])} forms fitted")
    if only in ("", "speeds"):
        _speeds(name, layers, asked, results, again, lambda value: _first(model, value, data, ort), ort)
    return results


def _speeds(
    name: str,
    layers: dict[str, Site],
    asked: dict[str, dict[str, Form]],
    results: dict[str, Any],
    again: bool,
    values: Callable[[str], Any],
    ort: Executor,
) -> None:
    """Time what is fitted and not timed yet."""
    for key, site in layers.items():
        if key not in results:
            raise click.ClickException(f"layer '{key}' of {name} has no errors yet; measure them first")
        records = results[key]["forms"]
        forms = {family: parse_form(record["form"]) for family, record in records.items()}
        timed = results[key].get("speeds", {})
        if not again and all(timed.get(family, {}).get("form") == str(form) for family, form in forms.items()):
            continue
        found = speeds(site, forms, values(site.input.name or ""), ort)
        for family, form in forms.items():
            found[family]["form"] = str(form)  # type: ignore[assignment]
        results[key]["speeds"] = found
        tables.keep("forms", name, results)
        click.echo(f"  {key} {results[key]['shape']}: {len(found) - 1} forms timed")


def _first(model: ir.Model, value: str, data: Sequence[Any], ort: Executor) -> Any:
    ((_, found),) = capture(model, [value], data[:1], ort)
    return found[value]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("cases", nargs=-1, type=click.Choice(zoo.NAMES), metavar="[CASE]...")
@click.option("--only", type=click.Choice(["errors", "speeds"]), default=None, help="Measure one of both.")
@click.option("--again", is_flag=True, help="Measure what is kept, too.")
@click.option("--write", is_flag=True, help="Write the kept results into FORMS.md, measuring only what is named.")
def main(cases: tuple[str, ...], only: str | None, again: bool, write: bool) -> None:
    """Measure the forms on the layers of the public models."""
    for name in cases or (() if write else tuple(zoo.NAMES)):
        click.echo(name)
        measure(name, only or "", again)
    results = {name: kept for name in zoo.NAMES if (kept := tables.kept("forms", name))}
    if results:
        click.echo(forms_page.summary(results))
    if write:
        forms_page.write(results)


if __name__ == "__main__":
    main()
