"""Parses the terms of an objective, without PyTorch, so that mistakes are reported before any work is done."""

from __future__ import annotations

import re

from lwgraph.errors import UsageError, did_you_mean

TERMS = ("kl", "mse", "cosine", "features", "labels")


def terms(spec: str) -> dict[str, float]:
    """{term: weight} from terms joined by +, each with an optional weight, such as "kl+features:0.5"; {} for "auto".

    Raises:
        UsageError: an unknown term or a bad weight.
    """
    if spec == "auto":
        return {}
    weights: dict[str, float] = {}
    for part in spec.split("+"):
        match = re.fullmatch(r"([a-z]+)(?::([0-9.eE-]+))?", part.strip())
        if match is None or match[1] not in TERMS:
            hint = did_you_mean(part.split(":")[0].strip(), TERMS)
            raise UsageError(f"objective term '{part}' is unknown{hint}")
        weights[match[1]] = _weight(match[2], part)
    return weights


def _weight(text: str | None, part: str) -> float:
    try:
        value = 1.0 if text is None else float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        raise UsageError(f"the weight in objective term '{part}' is not a positive number")
    return value


__all__ = ["TERMS", "terms"]
