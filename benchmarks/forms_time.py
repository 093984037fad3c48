"""python -m benchmarks.forms_time [CHANNELS]: how long the fits of all options of one wide layer take, and its Gram.

The layer is a 3 x 3 convolution of so many channels with a decaying spectrum, its inputs are rectified mixtures of
smooth images: what counts is the size. All options of all menus are fitted as two tasks side by side, each with one
thread (start it with OMP_NUM_THREADS=1), or with `--apart` one after the other; forms that share factorizations are in
the same task. The Gram is timed against its matrix products alone (with as many threads as you start it with).
"""

from __future__ import annotations

import resource
import time
from concurrent.futures import ThreadPoolExecutor

import click
import numpy as np
import numpy.typing as npt

from lwgraph import registry
from lwgraph.calibrate.gram import GramAccumulator
from lwgraph.calibrate.patches import Patches
from lwgraph.calibrate.statistics import ROWS_PER_UNKNOWN
from lwgraph.layers.form import Form
from lwgraph.layers.moments import Moments, Pooled
from lwgraph.layers.site import Site, find_sites
from lwgraph.testing.layers import make_layer

SIDE = 14
FIRST = ("cp", "depthwise", "grouped", "shift", "shuffle")  # in the first task; the others are about as much work


def layer(channels: int) -> Site:
    """A 3 x 3 convolution whose singular values fall to a fiftieth."""
    shape = (1, channels, SIDE, SIDE)
    model = make_layer("Conv", shape, (channels, channels, 3, 3), pads=(1, 1, 1, 1), dynamic=False)
    (site,) = find_sites(model, {"x": shape, "y": shape})
    random = np.random.default_rng(0)
    mix = random.standard_normal((channels, channels)) * np.exp(-np.arange(channels) * 4 / channels)
    site.__dict__["weight"] = np.einsum("oc,cikl->oikl", mix, site.weight, optimize=True)
    return site


def image(channels: int, seed: int) -> npt.NDArray[np.float32]:
    """(1, c, SIDE, SIDE) rectified mixtures of smooth noise."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((channels, SIDE, SIDE))
    x = x + 0.8 * np.roll(x, 1, 1) + 0.8 * np.roll(x, 1, 2)
    mix = np.random.default_rng(1).standard_normal((channels, channels)) * np.exp(-np.arange(channels) * 6 / channels)
    return np.asarray(np.maximum(np.tensordot(mix, x, 1), 0)[None], np.float32)


def gram(site: Site) -> tuple[Pooled, float, float]:
    """The moments of ROWS_PER_UNKNOWN patches per unknown, the seconds they took, and those of the products alone."""
    patches, width = Patches.of(site), site.fan_in
    images = [image(site.inputs, seed) for seed in range(-(-ROWS_PER_UNKNOWN * width // SIDE**2))]
    every = np.arange(SIDE**2)
    start = time.perf_counter()
    sums = GramAccumulator(1, width)
    for x in images:
        sums.add(patches.rows(x, every))
    found = sums.result()
    taken = time.perf_counter() - start
    rows = np.concatenate([patches.rows(x, every)[:, 0] for x in images[: -(-width // SIDE**2)]])[:width]
    start, products = time.perf_counter(), len(images) * SIDE**2 / width
    for _ in range(round(products)):
        rows.T @ rows
    alone = (time.perf_counter() - start) * products / round(products)
    return Pooled(found.matrix, found.mean, found.count), taken, alone


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("channels", default=256)
@click.option("--apart", is_flag=True, help="One task after the other, for a single core.")
@click.option("--gram", "gram_only", is_flag=True, help="Only time the Gram.")
def main(channels: int, gram_only: bool, apart: bool) -> None:
    """Time the fits of all options of one layer."""
    site = layer(channels)
    moments, taken, alone = gram(site)
    click.echo(
        f"D = {site.fan_in:,}: Gram of {moments.count:,} patches {taken:.1f} s, its products {alone:.1f} s, "
        f"ratio {taken / alone:.2f}"
    )
    if gram_only:
        return
    halves: tuple[list[Form], list[Form]] = ([], [])
    for name in registry.names("forms"):
        kind = registry.form_class(name)
        if not kind.refusal(site):
            halves[name not in FIRST].extend(kind.menu(site))

    def fit(half: list[Form]) -> int:
        known = Moments(site, moments)
        return len([form.fit(site, known) for form in half])

    start, ends = time.perf_counter(), []
    with ThreadPoolExecutor(1 if apart else 2) as pool:
        fits = 0
        for count in pool.map(fit, halves):
            fits += count
            ends.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    parts = f" ({ends[0]:.1f} and {ends[1] - ends[0]:.1f} s, one after the other)" if apart else ""
    click.echo(f"{fits} options fitted in {ends[-1]:.1f} s{parts}, at most {peak:.2f} GB")


if __name__ == "__main__":
    main()
