"""The outputs of a run as plain arrays: sequences, maps and optionals by their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lwgraph.arrays import Array


def flat(outputs: Mapping[str, Any]) -> dict[str, Array]:
    """Each output as an array.

    A sequence of maps with numbers, as classifiers of tables end in, is one array (maps, keys), the keys sorted and 0
    where one is missing; a single map is such an array of one row. Any other sequence is `name[0]`, `name[1]`, ...; an
    optional that holds nothing is left out.

    Args:
        outputs: by name: arrays, numbers, lists (sequences), dictionaries (maps), None (an empty optional).
    """
    found: dict[str, Array] = {}
    for name, value in outputs.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            found[name] = _table([value])
        elif not isinstance(value, (list, tuple)):
            found[name] = np.asarray(value)
        elif value and all(isinstance(item, Mapping) for item in value):
            found[name] = _table(list(value))
        else:
            found.update(flat({f"{name}[{at}]": item for at, item in enumerate(value)}))
    return found


def _table(maps: list[Mapping[Any, Any]]) -> Array:
    keys = sorted({key for each in maps for key in each}, key=lambda key: (str(type(key)), key))
    return np.array([[each.get(key, 0) for key in keys] for each in maps])


__all__ = ["flat"]
