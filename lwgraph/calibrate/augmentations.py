"""The augmentations that training may use; only the owner of the data knows which of them keep its meaning."""

from __future__ import annotations

from collections.abc import Sequence

from lwgraph.errors import UsageError, did_you_mean

AUGMENTATIONS = ("flip", "turn", "zoom", "shift", "tone", "mixup")


def augmentations(stated: str | Sequence[str], what: str) -> tuple[str, ...]:
    """Names of AUGMENTATIONS from a sequence, or from text joined by commas or +; `what` says whose they are.

    Raises:
        UsageError: an unknown name.
    """
    parts = stated.replace("+", ",").split(",") if isinstance(stated, str) else list(stated)
    names = tuple(part.strip() for part in parts)
    for name in names:
        if name not in AUGMENTATIONS:
            raise UsageError(f"{what}: augmentation '{name}' is unknown{did_you_mean(name, AUGMENTATIONS)}")
    return names


__all__ = ["AUGMENTATIONS", "augmentations"]
