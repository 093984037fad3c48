"""Soap: steps along the eigenvectors of what enters a layer."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lwgraph.passes.recover import soap  # noqa: E402


def regression(optimizer: Any, rate: float, steps: int = 80) -> float:
    """The loss that a layer behind a Relu is left with: inputs are positive, so one direction has nearly all power."""
    draw = torch.Generator().manual_seed(0)
    target = torch.randn(16, 4, 3, 3, generator=draw) * 0.1
    weight = torch.nn.Parameter(target + torch.randn(16, 4, 3, 3, generator=draw) * 0.02)
    bias = torch.nn.Parameter(torch.zeros(16))
    optimizer = optimizer([weight, bias], lr=rate)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        x = torch.relu(torch.randn(8, 4, 8, 8, generator=draw) * 0.5 + 2)
        loss = (torch.nn.functional.conv2d(x, weight - target, bias) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return sum(losses[-5:]) / 5


def test_it_learns_what_adam_is_slow_at() -> None:
    rates = (1e-2, 3e-3, 1e-3, 3e-4)
    ours, adams = (min(regression(kind, rate) for rate in rates) for kind in (soap.Soap, torch.optim.AdamW))
    assert ours < 0.5 * adams


def test_sides_that_are_too_wide_keep_their_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap, "WIDEST", 20)
    weight = torch.nn.Parameter(torch.randn(16, 4, 3, 3))
    optimizer = soap.Soap([weight], 1e-3)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    assert {"left", "left basis"} <= set(optimizer.state[weight]) and "right" not in optimizer.state[weight]


def test_vectors_are_stepped_as_by_adam() -> None:
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(5, generator=draw)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in "ab")
    pair = (
        soap.Soap([ours], 1e-2, weight_decay=0.1),
        torch.optim.AdamW([theirs], 1e-2, betas=(0.95, 0.95), weight_decay=0.1),
    )
    for _ in range(10):
        ours.grad = torch.randn(5, generator=draw)
        theirs.grad = ours.grad.clone()
        for optimizer in pair:
            optimizer.step()
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
