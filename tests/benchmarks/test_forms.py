"""The table of forms: families, the size that is compared, errors on unseen rows, dominated forms."""

from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import forms_time
from benchmarks.forms import chosen_layers, family, held_out_error, options
from benchmarks.forms_page import dominated, summary, timed
from lwgraph import registry
from lwgraph.layers.form import parse_form
from lwgraph.layers.moments import Moments
from lwgraph.testing.layers import layers


def site_of(name: str) -> Any:
    return next(layer.site for layer in layers() if layer.name == name)


def test_each_structure_of_a_form_is_a_family() -> None:
    assert family(parse_form("low-rank{rank=4,split=output}")) == "low-rank (output)"
    assert family(parse_form("shift{kind=joint}")) == "shift (joint)"
    assert family(parse_form("tucker{}")) == "tucker"


def test_the_size_nearest_to_the_stated_work_is_taken() -> None:
    site = site_of("grouped")
    for name, form in options(site).items():
        others = [f for f in type(form).menu(site) if family(f) == name]
        nearest = min(abs(np.log(f.macs(site) / site.macs() / 0.4)) for f in others)
        assert abs(np.log(form.macs(site) / site.macs() / 0.4)) == nearest


def test_the_largest_layers_of_different_shapes() -> None:
    sites = [site_of(name) for name in ("pointwise", "gemm", "plain")]
    assert [s.shape for s in chosen_layers(sites)] == [(48, 40, 1, 1)]  # too small, or less work


def test_the_error_is_that_of_the_outputs_with_the_bias_recentred() -> None:
    site = site_of("grouped")
    fitted = parse_form("low-rank{rank=4,split=output}").fit(site, Moments(site))
    rng = np.random.default_rng(0)
    rows, mean = rng.standard_normal((50, site.group, site.fan_in)) + 1, np.ones((site.group, site.fan_in))
    weight, kernel = (w.reshape(site.group, -1, site.fan_in) for w in (site.weight, fitted.kernel))
    y = np.concatenate([rows[:, g] @ weight[g].T for g in range(site.group)], 1)
    hat = np.concatenate([rows[:, g] @ kernel[g].T + (weight - kernel)[g] @ mean[g] for g in range(site.group)], 1)
    expected = np.square(y - hat).sum() / np.square(y - y.mean(0)).sum()
    assert held_out_error(fitted, site, rows, mean) == pytest.approx(expected)


def test_what_another_form_beats_is_dominated() -> None:
    def record(error: float, speed: float) -> dict[str, float]:
        return {"free": 0.5, "fitted": error, "fp32": speed, "parameters": 10, "form": "f"}

    records = {"a": record(0.02, 2.0), "b": record(0.03, 1.9), "c": record(0.01, 1.5), "d": record(0.02, 2.02)}
    marks = {name: dominated(name, records, "fp32") for name in "abcd"}
    assert marks == {"a": False, "b": True, "c": False, "d": False}  # a and d are the same, but for the noise
    assert not dominated("a", records, "int8")
    text = summary({"case": {"layer": {"forms": records, "dense": 100}}})
    row = next(line for line in text.splitlines() if line.startswith("| b "))
    assert row.split(" | ")[2:6] == ["50.00 %", "3.00 %", "0.06", "0.06"] and "1 of 1" in row
    assert "median ratio 0.04, worst 0.06" in text


def test_a_speed_counts_only_for_the_form_it_was_taken_of() -> None:
    layer = {
        "forms": {"a": {"form": "x{rank=1}", "fitted": 0.1}, "b": {"form": "x{rank=2}", "fitted": 0.1}},
        "speeds": {
            "dense": {"fp32": 1.0},
            "a": {"form": "x{rank=1}", "fp32": 2.0},
            "b": {"form": "x{rank=3}", "fp32": 3.0},
        },
    }
    found = timed(layer)
    assert found["a"]["fp32"] == 2.0 and "fp32" not in found["b"] and set(found) == {"a", "b"}


def test_the_octave_form_is_compared_on_both_sides_and_on_one() -> None:
    names = options(site_of("grouped")) | options(site_of("plain"))
    assert family(parse_form("octave{inputs=0.5}")) == "octave (inputs)"
    assert family(parse_form("octave{inputs=0.5,outputs=0.5}")) == "octave (both)"
    assert {"octave (inputs)", "octave (both)", "ghost (depthwise)"} <= set(names)


def test_the_time_of_all_options_of_a_layer_is_told() -> None:
    result = CliRunner().invoke(forms_time.main, ["32"], catch_exceptions=False)
    gram, fits = result.output.splitlines()
    assert gram.startswith("D = 288: Gram of 1,764 patches") and "ratio" in gram
    site = forms_time.layer(32)
    kinds = [registry.form_class(name) for name in registry.names("forms")]
    menus = [kind.menu(site) for kind in kinds if not kind.refusal(site)]
    assert fits.startswith(f"{sum(map(len, menus))} options fitted in ")
