"""From prices of layers to milliseconds of whole networks: anchored at measured ones, and fitted to measured plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lwgraph.arrays import Floats
from lwgraph.plan.precision import DYNAMIC, FLOAT, INT8
from lwgraph.plan.search.items import Item, Option

BESIDE = 0.05  # share of a network's time that is not in its layers, at least
PRECISIONS = (FLOAT, INT8, DYNAMIC)
NOISE, TRUST = 0.05, 0.3  # relative errors, about: of measured times, and of factors before any
WIDEST = 4.0  # of a fitted factor, either way


@dataclass(frozen=True, eq=False)
class TimeModel:
    """What each option takes in its network.

    An option takes s p + b: its price p, scaled, and its item's part b of what the network takes beyond its layers
    (pools, sums, what lies between). s and b are set by the whole network in floats and in integers, with all layers
    dense; of forms both have factors of their own for each precision, 1 until `fitted` sets them, as have the ways into
    integers and back.

    Attributes:
        items: of the network.
        scale: s by precision.
        beside: b (items,) by precision.
        factors: (7,): of layer and rest for forms in each precision, and of switching.
    """

    items: tuple[Item, ...]
    scale: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(PRECISIONS, 1.0))
    beside: Mapping[str, Floats] = field(default_factory=dict)
    factors: Floats = field(default_factory=lambda: np.ones(2 * len(PRECISIONS) + 1))

    def ms(self, index: int, option: Option) -> float:
        """Milliseconds of an option at the item of this number."""
        layer, beside = self._parts(index, option)
        if option.form is None:
            return layer + beside
        at = 2 * PRECISIONS.index(option.precision)
        return float(self.factors[at] * layer + self.factors[at + 1] * beside)

    def switch_ms(self, item: Item) -> float:
        """Milliseconds of the way of an item's input into integers and back."""
        return float(self.factors[-1] * item.switch_ms)

    def anchored_floats(self, milliseconds: float) -> TimeModel | None:
        """The model by which all layers dense and in floats take `milliseconds`; None where the layers have no times.

        What the network takes beyond its layers is laid on the items in proportion to their time; it is at least
        BESIDE of the whole. Where the layers were timed to take more than that leaves them, they are scaled down.
        """
        dense = self._dense()
        if not dense.sum() > 0:
            return None
        rest = max(milliseconds - float(dense.sum()), BESIDE * milliseconds)
        return replace(
            self,
            scale={**self.scale, FLOAT: (milliseconds - rest) / float(dense.sum())},
            beside={**self.beside, FLOAT: rest * dense / dense.sum()},
        )

    def anchored_integers(self, milliseconds: float, whole: Sequence[int], precision: str = INT8) -> TimeModel:
        """The model by which `whole`, all layers dense and in integers where that can be, take `milliseconds`.

        Layers without an integer kernel, and the ways there and back, take what they take in floats.
        """
        dense = self._dense()
        inside = np.array([self.items[i].options[o].precision == precision for i, o in enumerate(whole)])
        prices = np.array([self.items[i].options[o].price.ms for i, o in enumerate(whole)])
        if not prices[inside].sum() > 0 or not dense[inside].sum() > 0:
            return self
        nothing = np.zeros(len(dense))
        bare = replace(self, scale={**self.scale, precision: 0.0}, beside={**self.beside, precision: nothing})
        left = max(milliseconds - bare.total(whole), BESIDE * milliseconds)
        most = max(float(self._beside(FLOAT)[inside].sum()), BESIDE * left)
        rest = min(max(left - float(prices[inside].sum()), BESIDE * left), most)
        return replace(
            self,
            scale={**self.scale, precision: (left - rest) / float(prices[inside].sum())},
            beside={**self.beside, precision: rest * np.where(inside, dense, 0.0) / float(dense[inside].sum())},
        )

    def fitted(self, plans: Sequence[tuple[Sequence[int], float]]) -> TimeModel:
        """The model whose factors let plans take what was measured of them: least squares of relative errors, ridged.

        Args:
            plans: choices, one option per item, and their measured milliseconds.
        """
        if not plans:
            return self
        rows, wanted = [], []
        for choice, milliseconds in plans:
            fixed, parts = self._features(choice)
            rows.append(parts / milliseconds)
            wanted.append((milliseconds - fixed) / milliseconds)
        count = len(self.factors)
        left = np.concatenate([np.array(rows) / NOISE, np.eye(count) / TRUST])
        right = np.concatenate([np.array(wanted) / NOISE, np.ones(count) / TRUST])
        found = np.linalg.lstsq(left, right, rcond=None)[0]
        return replace(self, factors=np.clip(found, 1 / WIDEST, WIDEST))

    def total(self, choice: Sequence[int]) -> float:
        """Milliseconds of the layers of a plan, what lies between them included."""
        fixed, parts = self._features(choice)
        return float(fixed + parts @ self.factors)

    def _features(self, choice: Sequence[int]) -> tuple[float, Floats]:
        """What no factor changes, and what each factor is of."""
        fixed, parts = 0.0, np.zeros(len(self.factors))
        before: bool | None = None
        for index, o in enumerate(choice):
            option = self.items[index].options[o]
            layer, beside = self._parts(index, option)
            if option.form is None:
                fixed += layer + beside
            else:
                at = 2 * PRECISIONS.index(option.precision)
                parts[at : at + 2] += layer, beside
            inside = option.precision == INT8  # what is read and given is in integers there alone
            if before not in (None, inside):
                parts[-1] += self.items[index].switch_ms
            before = inside
        return fixed, parts

    def _parts(self, index: int, option: Option) -> tuple[float, float]:
        return self.scale[option.precision] * option.price.ms, float(self._beside(option.precision)[index])

    def _beside(self, precision: str) -> Floats:
        found = self.beside.get(precision)
        return np.zeros(len(self.items)) if found is None else found

    def _dense(self) -> Floats:
        return np.array([item.dense.price.ms for item in self.items])


__all__ = ["BESIDE", "TimeModel"]
