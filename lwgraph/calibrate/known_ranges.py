"""What was observed of one network's values, for variants of it that are only compared with each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lwgraph.calibrate.ranges import Observed

Key = tuple[str, int, int, int | None]  # name, feeds, elements counted, axis of channels


@dataclass
class KnownRanges:
    """Ranges of a network's values, observed once.

    A variant, in which forms stand for some layers, gives its values about the network's under the network's names. So
    only what it has besides is observed in it, and no run goes beyond the last of that.

    Attributes:
        names: of the network's values.
        learning: whether what is observed is kept: while the network itself is looked at.
    """

    names: frozenset[str]
    learning: bool = True
    _found: dict[Key, Observed] = field(default_factory=dict, repr=False)

    def observe(
        self,
        names: Sequence[str],
        feeds: int,
        samples: int,
        axes: Mapping[str, int],
        collect: Callable[[list[str]], dict[str, Observed]],
    ) -> dict[str, Observed]:
        """What is known of values, and what `collect` finds out of the others; copies, which may be changed.

        Args:
            names: of the values.
            feeds, samples: on how many, and how many elements of each are counted.
            axes: of the channels, where these are observed, too.
            collect: observes values by name.
        """
        keys: dict[str, Key] = {name: (name, feeds, samples, axes.get(name)) for name in names}
        rest = [name for name in names if keys[name] not in self._found]
        found = collect(rest) if rest else {}
        if self.learning:
            self._found.update({keys[n]: copy.deepcopy(seen) for n, seen in found.items() if n in self.names})
        return {name: found[name] if name in found else copy.deepcopy(self._found[keys[name]]) for name in names}


__all__ = ["KnownRanges"]
