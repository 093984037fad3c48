"""What was observed of one network's values, for variants of it that are only compared with each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lwgraph.calibrate.ranges import Observed

Key = tuple[str, str, int, int, int | None]  # name, form, feeds, elements counted, axis of channels


@dataclass
class KnownRanges:
    """Ranges of a network's values, observed once.

    A variant, in which forms stand for some layers, gives its values about the network's under the network's names. So
    only what it has besides is observed in it, and no run goes beyond the last of that. What lies inside a form hardly
    depends on the forms elsewhere: it is observed once, with that form alone in the network, so that what is known does
    not depend on the order in which variants are looked at.

    Attributes:
        names: of the network's values.
        floats: layers that stayed in float when the network was looked at.
        learning: whether what is observed is kept: while the network itself is looked at.
        alone: whether what is observed of values inside forms is kept: while one form stands alone in the network.
        asked: the layers and forms that were looked at alone.
    """

    names: frozenset[str]
    floats: tuple[str, ...] = ()
    learning: bool = True
    alone: bool = False
    asked: set[tuple[str, str]] = field(default_factory=set, repr=False)
    _found: dict[Key, Observed] = field(default_factory=dict, repr=False)

    def of_one_form(self) -> KnownRanges:
        """The same ranges, to which are added those inside the only form of a variant."""
        return replace(self, learning=False, alone=True)

    def observe(
        self,
        names: Sequence[str],
        feeds: int,
        samples: int,
        axes: Mapping[str, int],
        collect: Callable[[list[str]], dict[str, Observed]],
        forms: Mapping[str, str] = {},
    ) -> dict[str, Observed]:
        """What is known of values, and what `collect` finds out of the others; copies, which may be changed.

        Args:
            names: of the values.
            feeds, samples: on how many, and how many elements of each are counted.
            axes: of the channels, where these are observed, too.
            collect: observes values by name.
            forms: the form that computes a value, by the value's name, where one does; "" where that is not known,
                so that nothing may be kept of it.
        """
        inside = {name: forms[name] for name in names if forms.get(name) and name not in self.names}
        keys: dict[str, Key] = {n: (n, inside.get(n, ""), feeds, samples, axes.get(n)) for n in names}
        rest = [name for name in names if keys[name] not in self._found]
        found = collect(rest) if rest else {}
        kept = self.names if self.learning else inside.keys() if self.alone else ()
        self._found.update({keys[n]: copy.deepcopy(seen) for n, seen in found.items() if n in kept})
        return {name: found[name] if name in found else copy.deepcopy(self._found[keys[name]]) for name in names}


__all__ = ["KnownRanges"]
