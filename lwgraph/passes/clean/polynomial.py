"""Integer polynomials over the symbols of dynamic dimensions, with which sizes are computed."""

from __future__ import annotations

from collections.abc import Mapping


class Poly:
    """A sum of products of symbols with integer factors, such as 2*h*w + 1. Immutable; equal means equal always."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: Mapping[tuple[str, ...], int]) -> None:
        self.terms = {key: factor for key, factor in terms.items() if factor}
        self._hash = hash(frozenset(self.terms.items()))

    @classmethod
    def of(cls, value: int | str) -> Poly:
        """A number, or a symbol."""
        return cls({(): value} if isinstance(value, int) else {(value,): 1})

    @property
    def number(self) -> int | None:
        """The value when it depends on no symbol."""
        if not self.terms:
            return 0
        return self.terms.get(()) if len(self.terms) == 1 else None

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols it depends on."""
        return frozenset(symbol for key in self.terms for symbol in key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Poly) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, other: Poly) -> Poly:
        terms = dict(self.terms)
        for key, factor in other.terms.items():
            terms[key] = terms.get(key, 0) + factor
        return Poly(terms)

    def __neg__(self) -> Poly:
        return Poly({key: -factor for key, factor in self.terms.items()})

    def __sub__(self, other: Poly) -> Poly:
        return self + -other

    def __mul__(self, other: Poly) -> Poly:
        terms: dict[tuple[str, ...], int] = {}
        for a, x in self.terms.items():
            for b, y in other.terms.items():
                key = tuple(sorted(a + b))
                terms[key] = terms.get(key, 0) + x * y
        return Poly(terms)

    def divided(self, other: Poly) -> Poly | None:
        """self / other where that is exact for every value of the symbols and `other` is a single product."""
        if len(other.terms) != 1:
            return Poly.of(1) if self == other and self.terms else None
        ((divisor, factor),) = other.terms.items()
        terms = {}
        for key, x in self.terms.items():
            left = list(key)
            for symbol in divisor:
                if symbol not in left:
                    return None
                left.remove(symbol)
            if x % factor:
                return None
            terms[tuple(left)] = x // factor
        return Poly(terms)

    def __repr__(self) -> str:
        parts = ["*".join([str(f), *key]) for key, f in sorted(self.terms.items())]
        return " + ".join(parts) or "0"
