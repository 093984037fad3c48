"""Synthesizes inputs: noise, moved until the layers see the means and variances that were recorded.

ZeroQ (Cai et al. 2020, arXiv 2001.00281): every BatchNormalization remembers the mean and variance of what it saw in
training. For models without one, `record` writes those of the layers' outputs on data that need not leave their owner.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lwgraph import ir, registry
from lwgraph.arrays import Array
from lwgraph.calibrate.generate import generate
from lwgraph.errors import DataError
from lwgraph.executor import Executor, Feeds
from lwgraph.passes.recover.matching import is_linear

NormMoments = Mapping[
    str, tuple[Array, Array]
]  # value name -> (mean, variance) of each channel (axis 1, or the only one)
STEPS = 300
RATE = 0.05
BATCH = 32


def batch_norm_moments(model: ir.Model) -> dict[str, tuple[Array, Array]]:
    """The means and variances that the BatchNormalizations of the main graph hold of their inputs."""
    found = {}
    for node in model.graph:
        if node.op_type != "BatchNormalization" or node.domain != "" or node.inputs[0] is None:
            continue
        mean, variance = (ir.constant(node.inputs[i]) for i in (3, 4))
        if mean is not None and variance is not None and node.inputs[0].name:
            found[node.inputs[0].name] = (np.array(mean, np.float64), np.array(variance, np.float64))
    return found


def record(model: ir.Model, feeds: Iterable[Feeds], executor: Executor) -> dict[str, tuple[Array, Array]]:
    """The mean and variance per channel of every linear layer's output over the feeds. One streaming run."""
    names = [n.outputs[0].name or "" for n in model.graph if is_linear(n)]
    run = executor.prepare(model, names)
    sums: dict[str, tuple[int, Any, Any]] = {}
    for feed in feeds:
        for name, value in run(feed).items():
            rows = np.moveaxis(value, 1, -1).reshape(-1, value.shape[1]) if value.ndim > 1 else value[:, None]
            rows = rows.astype(np.float64)
            count, total, squares = sums.get(name, (0, 0.0, 0.0))
            sums[name] = (count + len(rows), total + rows.sum(0), squares + (rows * rows).sum(0))
    return {name: (t / n, np.maximum(s / n - (t / n) ** 2, 0.0)) for name, (n, t, s) in sums.items()}


def save(moments: NormMoments, path: str | os.PathLike[str]) -> None:
    """Write recorded moments as .npz."""
    arrays = {f"{kind}:{name}": array for name, pair in moments.items() for kind, array in zip("mv", pair, strict=True)}
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type,unused-ignore]


def load(path: str | os.PathLike[str]) -> dict[str, tuple[Array, Array]]:
    """Read what `save` wrote; DataError when it is something else."""
    try:
        with np.load(Path(path), allow_pickle=False) as file:
            names = [key[2:] for key in file.files if key.startswith("m:")]
            return {name: (file[f"m:{name}"], file[f"v:{name}"]) for name in names}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"'{path}' holds no recorded moments: {' '.join(str(error).split())[:200]}") from error


def synthesize(
    model: ir.Model,
    moments: NormMoments,
    count: int,
    seed: int = 0,
    *,
    threads: int = 1,
    steps: int = STEPS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[dict[str, Array]], float, float]:
    """`count` samples on which the model's values have the recorded moments, as nearly as `steps` steps bring them.

    Each batch of 32 minimises the mean over values of (mean - mean_r)² / variance_r + (log(variance / variance_r))²
    over the float inputs, with Adam from generated noise. Other inputs stay as generated.

    Returns:
        the feeds (one per batch), and the mean loss of the noise and of the result.

    Raises:
        DataError: none of the values is in the model, or the model has no float input.
        UsageError: PyTorch is not installed.
    """
    executor: Any = registry.executor("torch", threads=threads)
    import torch

    known = {v.name for n in model.graph for v in n.outputs} | {v.name for v in model.graph.inputs}
    names = [name for name in moments if name in known]
    if not names:
        raise DataError("the model has none of the values whose moments were recorded, so no input can be synthesized")
    targets = {n: tuple(torch.from_numpy(np.asarray(a, np.float32)) for a in moments[n]) for n in names}
    module = executor.module(model, names)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    noise = generate(model, count, seed)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        feeds, losses = [], []
        starts = range(0, count, BATCH)
        for done, start in enumerate(starts):
            part = _together(noise[start : start + BATCH])
            for group in part:
                made, first, last = _match(torch, module, targets, group, steps)
                feeds.append(made)
                losses.append((first, last))
            progress(done + 1, len(starts))
    finally:
        torch.set_num_threads(before)
    first, last = (float(v) for v in np.mean(losses, axis=0))
    return feeds, first, last


def _together(noise: list[dict[str, Array]]) -> list[dict[str, Array]]:
    """The feeds as one where their shapes allow it and the model's batch is free, else each alone."""
    shapes = {tuple(a.shape for a in feed.values()) for feed in noise}
    if len(noise) == 1 or len(shapes) > 1 or any(a.ndim < 2 or a.shape[0] != 1 for a in noise[0].values()):
        return noise
    return [{name: np.concatenate([feed[name] for feed in noise]) for name in noise[0]}]


def _match(torch: Any, module: Any, targets: Any, noise: dict[str, Array], steps: int) -> tuple[Any, float, float]:
    feeds = {name: torch.from_numpy(array.copy()) for name, array in noise.items()}
    free = [t.requires_grad_(True) for t in feeds.values() if t.is_floating_point()]
    if not free:
        raise DataError("the model has no floating-point input to synthesize")
    optimizer = torch.optim.Adam(free, RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        loss = _distance(torch, module(feeds), targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        losses.append(_distance(torch, module(feeds), targets).item())
    return {name: t.detach().numpy() for name, t in feeds.items()}, losses[0], losses[-1]


def _distance(torch: Any, values: Mapping[str, Any], targets: Mapping[str, Any]) -> Any:
    parts = []
    for name, (mean, variance) in targets.items():
        value = values[name]
        axes = [a for a in range(value.ndim) if a != 1]
        found_variance, found_mean = torch.var_mean(value, axes, correction=0)
        floor = variance.mean() * 1e-3 + 1e-12
        parts.append(
            ((found_mean - mean) ** 2 / (variance + floor)).mean()
            + (torch.log((found_variance + floor) / (variance + floor)) ** 2).mean()
        )
    return torch.stack(parts).mean()
