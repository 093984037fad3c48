"""Connected components of many small integers, in NumPy."""

from __future__ import annotations

import numpy as np

from lwgraph.arrays import Ints


def components(count: int, a: Ints, b: Ints) -> Ints:
    """Labels (count,) of the numbers below `count` when a[k] and b[k] are the same for every k.

    A label is the smallest number of its component. Hooking and pointer jumping (Shiloach and Vishkin 1982): O(log
    count) rounds of O(count + links).
    """
    label = np.arange(count, dtype=np.int64)
    while True:
        roots_a, roots_b = label[a], label[b]
        apart = roots_a != roots_b
        if not apart.any():
            return label
        a, b, roots_a, roots_b = a[apart], b[apart], roots_a[apart], roots_b[apart]
        np.minimum.at(label, np.maximum(roots_a, roots_b), np.minimum(roots_a, roots_b))
        while not np.array_equal(jumped := label[label], label):
            label = jumped
