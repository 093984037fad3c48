"""Objectives: losses between the values of student and teacher on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.nn import functional as F  # noqa: N812

from lwgraph import ir
from lwgraph.errors import UsageError
from lwgraph.passes.recover.matching import is_probability
from lwgraph.passes.recover.objective_terms import terms

Tensor: TypeAlias = "torch.Tensor"
Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms.

    kl: temperature² KL(teacher || student) of the softmax of the outputs (Hinton et al. 2015, arXiv 1503.02531).
    mse: squared error of the outputs, relative to the variance of the teacher's.
    cosine: 1 - cosine of each row of the outputs.
    features: squared error of intermediate values, relative to the variance of the teacher's, the mean over values.
    labels: cross entropy with the labels.
    """

    weights: Mapping[str, float]
    outputs: tuple[str, ...]
    features: tuple[str, ...]
    temperature: float
    probabilities: frozenset[str]  # outputs that went through a softmax already

    @property
    def values(self) -> list[str]:
        """The names of all values that it compares."""
        wanted = [n for n in self.outputs if set(self.weights) - {"features"}]
        return list(dict.fromkeys([*wanted, *(self.features if "features" in self.weights else ())]))

    def __call__(self, student: Values, teacher: Values, labels: Tensor | None = None) -> Tensor:
        """The loss, a scalar in float32."""
        total = torch.zeros(())
        for term, weight in self.weights.items():
            total = total + weight * self._term(term, student, teacher, labels)
        return total

    def _term(self, term: str, student: Values, teacher: Values, labels: Tensor | None) -> Tensor:
        if term == "labels":
            assert labels is not None
            return F.nll_loss(_log_softmax(student[self.outputs[0]].float(), 1.0, self._flat(0)), labels)
        names = self.features if term == "features" else self.outputs
        parts = []
        for i, name in enumerate(names):
            s, t = student[name].float(), teacher[name].float()
            if term == "kl":
                parts.append(self._kl(s, t, self._flat(i)))
            elif term == "cosine":
                parts.append((1 - F.cosine_similarity(s.flatten(1), t.flatten(1), dim=1)).mean())
            else:
                parts.append(relative_error(s, t))
        return torch.stack(parts).mean()

    def _flat(self, index: int) -> bool:
        return self.outputs[index] in self.probabilities

    def _kl(self, s: Tensor, t: Tensor, probabilities: bool) -> Tensor:
        s, t = (_log_softmax(_classes_last(v), self.temperature, probabilities) for v in (s, t))
        s, t = s.flatten(0, -2), t.flatten(0, -2)
        return self.temperature**2 * F.kl_div(s, t, reduction="batchmean", log_target=True)


def relative_error(s: Tensor, t: Tensor) -> Tensor:
    """Mean squared error over the variance of `t` over everything but its own mean."""
    return F.mse_loss(s, t) / t.var(correction=0).clamp(min=1e-12)


def _classes_last(v: Tensor) -> Tensor:
    """(n, c) and (t, n, c) as they are; (n, c, 1, 1) and maps (n, c, h, w) with the classes moved to the end."""
    return v.movedim(1, -1) if v.ndim > 3 else v


def _log_softmax(v: Tensor, temperature: float, probabilities: bool) -> Tensor:
    if probabilities:
        v = v.clamp(min=1e-9).log()
    return F.log_softmax(v / temperature, -1)


def build(
    spec: str, student: ir.Model, sample: Values, features: Sequence[str], temperature: float, has_labels: bool
) -> Objective:
    """An Objective from its text, such as "kl+features:0.5".

    Args:
        spec: terms joined by +, each with an optional weight; "auto": kl where the first output is a row of class
            scores or a softmax, and features where there are any; else mse alone: outputs in which there is much to
            compare need nothing beside them, and features err so much more than they do that little else is learned.
        student: the model; says which outputs are probabilities.
        sample: the teacher's outputs on one batch.
        features: names of intermediate values for the term "features".
        temperature: of the term "kl".
        has_labels: whether the data have labels.

    Raises:
        UsageError: an unknown term, a bad weight, or something that a term needs is missing.
    """
    outputs = tuple(v.name or "" for v in student.graph.outputs if sample[v.name or ""].is_floating_point())
    soft = frozenset(name for name in outputs if is_probability(student, name))
    if not outputs:
        raise UsageError("the model has no floating-point output to distill; name intermediate values in 'features'")
    weights: dict[str, float] = {}
    if spec == "auto":
        first = sample[outputs[0]]
        scores = (first.ndim == 2 and first.shape[1] > 1) or outputs[0] in soft
        weights["kl" if scores else "mse"] = 1.0
        if features and scores:
            weights["features"] = 1.0
    else:
        weights = terms(spec)
    if "features" in weights and not features:
        raise UsageError("objective term 'features' needs intermediate values that both models compute; there are none")
    if "labels" in weights and not has_labels:
        raise UsageError("objective term 'labels' needs data with labels; these have none")
    return Objective(weights, outputs, tuple(features), temperature, soft)


def blocks(objective: Objective, cuts: Sequence[str]) -> Objective:
    """The same objective with every block boundary among the features."""
    features = tuple(dict.fromkeys([*cuts, *objective.features]))
    weights = dict(objective.weights)
    weights.setdefault("features", 1.0)
    return Objective(weights, objective.outputs, features, objective.temperature, objective.probabilities)


def tensors(feeds: Mapping[str, Any], dtype: Any = None) -> dict[str, Tensor]:
    """Feeds as tensors; images in the memory layout in which convolutions are fast."""
    found = {}
    for name, array in feeds.items():
        tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(array)
        if tensor.ndim == 4 and tensor.is_floating_point():
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        found[name] = tensor
    return found
