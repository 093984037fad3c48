"""SOAP: Adam in the eigenbasis of what Shampoo keeps of the gradients (Vyas et al. 2024, arXiv 2409.11321)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import torch

Tensor: TypeAlias = "torch.Tensor"
WIDEST = 2048  # sides of a weight over this keep their own basis: a basis takes O(side^3)
EVERY = 16  # steps between two bases; at first after 1, 2, 4 and 8


class Soap(torch.optim.Optimizer):  # type: ignore[misc]
    """Adam, with each weight (o, ...) seen as a matrix (o, d) in the eigenbases of E[G G'] and E[G' G].

    What enters a layer behind a Relu is positive, so nearly all of a gradient lies in one direction of the d, and
    Adam, which steps equally far along every coordinate, goes far too far along that one. Along the eigenvectors the
    directions are apart, and each gets its own step. Vectors and scalars are stepped as by Adam with decoupled decay.
    The first step only looks. O(o d (o + d)) per step, O(o^3 + d^3) for a new basis.

    Args:
        parameters: what to train, in float32.
        lr: length of a step along each eigenvector.
        betas: of the moments of the gradient; the second one also of the bases.
        weight_decay: decoupled.
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> None:
        """One step along the gradients that the parameters hold."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad.reshape(parameter.shape[0], -1) if parameter.ndim > 1 else parameter.grad[None]
        state, (fast, slow) = self.state[parameter], group["betas"]
        if not state:
            state.update(step=0, first=torch.zeros_like(gradient), second=torch.zeros_like(gradient))
            if parameter.ndim > 1:
                for name, side in zip(("left", "right"), gradient.shape, strict=True):
                    if 1 < side <= WIDEST:
                        state[name] = torch.zeros(side, side)
        state["step"] += 1
        for name, side in (("left", gradient), ("right", gradient.T)):
            if name in state:
                state[name].lerp_(side @ side.T, 1 - slow)
        turned = _turn(gradient, state)
        if state["step"] > 1 or parameter.ndim < 2:
            count = state["step"] - (parameter.ndim > 1)
            state["first"].lerp_(gradient, 1 - fast)
            state["second"].mul_(slow).addcmul_(turned, turned, value=1 - slow)
            scale = (state["second"] / (1 - slow**count)).sqrt_().add_(group["eps"])
            change = _turn(_turn(state["first"] / (1 - fast**count), state) / scale, state, back=True)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(change.reshape(parameter.shape), alpha=group["lr"])
        if state["step"] % EVERY == 0 or state["step"] in (1, 2, 4, 8):
            _renew(state)


def _turn(matrix: Tensor, state: dict[str, Any], back: bool = False) -> Tensor:
    """Into the eigenbases, or back."""
    left, right = state.get("left basis"), state.get("right basis")
    if left is not None:
        matrix = (left if back else left.T) @ matrix
    if right is not None:
        matrix = matrix @ (right.T if back else right)
    return matrix


def _renew(state: dict[str, Any]) -> None:
    """One step of orthogonal iteration towards the eigenvectors, from the basis before; the first are exact.

    The second moments go on in the order of the new basis.
    """
    for axis, name in enumerate(("left", "right")):
        if name not in state:
            continue
        square, basis = state[name], state.get(f"{name} basis")
        if basis is None:
            state[f"{name} basis"] = torch.linalg.eigh(square).eigenvectors.flip(1)
            continue
        order = torch.einsum("ij,ij->j", basis, square @ basis).argsort(descending=True, stable=True)
        state["second"] = state["second"].index_select(axis, order)
        state[f"{name} basis"] = torch.linalg.qr(square @ basis[:, order]).Q


__all__ = ["WIDEST", "Soap"]
