"""The kit itself: forms that break one promise each must be caught by the check for it."""

from dataclasses import dataclass, replace

import pytest

from lwgraph.errors import CheckError
from lwgraph.layers.moments import Moments
from lwgraph.passes.forms.low_rank import LowRank
from lwgraph.passes.forms.octave import Octave
from lwgraph.testing.forms import check_form
from lwgraph.testing.layers import layers

PLAIN = next(iter(layers()))


@dataclass(frozen=True)
class Base(LowRank):
    """Low rank, with one of its promises broken by a subclass."""

    name = "broken"

    def at(self, site):
        found = super().at(site)
        return type(self)(found.rank, split=found.split)

    def fit(self, site, moments):
        return replace(super().fit(site, moments), form=self)

    @property
    def _real(self):
        return LowRank(self.rank, split=self.split)

    def emit(self, op, x, fitted):
        return LowRank.emit(replace(self, split="vertical"), op, x, fitted)

    @classmethod
    def menu(cls, site):
        return [cls(rank, split="vertical") for rank in (16, 32)]

    @classmethod
    def full(cls, site):
        return cls(60, split="vertical")


@dataclass(frozen=True)
class NotFull(Base):
    @classmethod
    def full(cls, site):
        return cls(48, split="vertical")


@dataclass(frozen=True)
class WrongNodes(Base):
    def emit(self, op, x, fitted):
        arrays = {**fitted.arrays, "stage1": fitted.arrays["stage1"] * 1.001}
        return super().emit(op, x, replace(fitted, arrays=arrays))


@dataclass(frozen=True)
class WrongPads(Base):
    def emit(self, op, x, fitted):
        y = op.stage(x, fitted.arrays["stage1"], "stage1", axes=[0, 1])
        return op.stage(y, fitted.arrays["stage2"], "stage2", bias=fitted.bias, axes=[1])


@dataclass(frozen=True)
class Optimist(Base):
    def fit(self, site, moments):
        fitted = super().fit(site, moments)
        return replace(fitted, error=fitted.error * 0.9)


@dataclass(frozen=True)
class Drifting(Base):
    def fit(self, site, moments):
        fitted = super().fit(site, moments)
        return replace(fitted, shift=fitted.shift * 0.5)


@dataclass(frozen=True)
class Shrinking(Base):
    def fit(self, site, moments):
        rank = 48 - self.rank if self.rank < 48 else 60
        return replace(LowRank.fit(replace(self, rank=rank), site, moments), form=self)


@dataclass(frozen=True)
class DataBlind(Base):
    def fit(self, site, moments):
        found = super().fit(site, moments)
        if moments.count is None or self.rank == 60:
            return found
        kernel = super().fit(site, Moments(site)).kernel * 0.1
        return _refactored(self, site, moments, kernel)


def _refactored(form, site, moments, kernel):
    """Exactly factored, so that everything but the comparison with the data-free fit is in order."""
    twin = replace_weight(site, kernel)
    fitted = LowRank.fit(form, twin, Moments(twin))
    return replace(
        fitted,
        form=form,
        site=site,
        kernel=fitted.kernel,
        shift=moments.shift(fitted.kernel),
        error=moments.error(fitted.kernel),
        measured=True,
    )


def replace_weight(site, kernel):
    return site.with_weight(kernel, site.bias)


@dataclass(frozen=True)
class Expensive(Base):
    @classmethod
    def menu(cls, site):
        return [cls(60, split="vertical")]


@dataclass(frozen=True)
class Mute(Base):
    def __str__(self):
        return "broken"


@dataclass(frozen=True)
class Shy(Base):
    @classmethod
    def refusal(cls, site):
        return "no"


@dataclass(frozen=True)
class Sees(Octave):
    """Octave, which looks at more than the layer's patches, at one size."""

    name = "broken"

    @classmethod
    def full(cls, site):
        return cls(0.0)

    @classmethod
    def menu(cls, site):
        return [cls(0.2)]


@dataclass(frozen=True)
class SeesElse(Sees):
    def emit(self, op, x, fitted):
        arrays = {k: v * (1.1 if k == "mixed" else 1) for k, v in fitted.arrays.items()}
        return super().emit(op, x, replace(fitted, arrays=arrays))


@dataclass(frozen=True)
class SeesElsewhere(Sees):
    def seen(self, site):
        probe = super().seen(site)
        return replace(probe, patches=replace(probe.patches, halved=(2, 1, 1, 1)))


def test_forms_that_look_at_more_are_checked_like_others():
    assert check_form(Sees, on=[PLAIN]) == 1
    with pytest.raises(CheckError, match="not the fitted layer"):
        check_form(SeesElse, on=[PLAIN])
    with pytest.raises(CheckError, match=r"the mean output moves|predicts an error"):
        check_form(SeesElsewhere, on=[PLAIN])


def test_the_honest_one_passes():
    assert check_form(Base, on=[PLAIN]) == 1


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (NotFull, "not exact at full size"),
        (WrongNodes, "not the fitted layer"),
        (WrongPads, "not the fitted layer"),
        (Optimist, "predicts an error"),
        (Drifting, "the mean output moves"),
        (Shrinking, "and the smaller"),
        (DataBlind, "the fit without"),
        (Expensive, "no less work"),
        (Mute, "does not read back"),
        (Shy, "refuses every layer"),
    ],
)
def test_each_broken_promise_is_caught(form, message):
    with pytest.raises(CheckError, match=message):
        check_form(form, on=[PLAIN])
