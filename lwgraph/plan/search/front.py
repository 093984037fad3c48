"""What a search leaves behind: every plan worth knowing, with what was predicted and what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lwgraph.plan.plan import KEEP, Plan


@dataclass(frozen=True)
class Candidate:
    """One plan that was considered.

    Attributes:
        choice: the option taken at each item, by index.
        predicted_ms: of one run of the whole network.
        predicted_loss: sum over layers of predicted error times sensitivity; comparable with `loss`.
        origin: how it was found: "solver", "coefficients", "coordinate" or "crossover"; "quantized" and "structure":
            without forms.
        loss: measured distance of the outputs from the original's (see `measure.Distance`) on search data; None: not
            measured.
        plan: the choices by name, as they can be applied; None where it was never made.
        judged: the metric on data that neither fits nor search saw; None: not looked at.
        measured_ms: of one run of the whole network; None: not timed.
        accepted: whether the promise held; None where not judged.
        bytes, macs: of the model and of one run, predicted.
        stated: whether `plan` was there before and says what is done, more precisely than the choice.
        coded: whether its weights are codes, which may go on top of any plan.
    """

    choice: tuple[int, ...]
    predicted_ms: float
    predicted_loss: float
    origin: str = "solver"
    loss: float | None = None
    plan: Plan | None = None
    judged: float | None = None
    measured_ms: float | None = None
    accepted: bool | None = None
    bytes: int = 0
    macs: int = 0
    stated: bool = False
    coded: bool = False

    @property
    def key(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """What tells candidates apart: their choice; of stated plans, what they say."""
        if not self.stated or self.plan is None:
            return self.choice, ()
        precision, widths = self.plan.precision, self.plan.groups
        groups = [f"{name}={width.keep}" for name, width in widths.items()]
        forms = [f"{name}={choice.form}" for name, choice in self.plan.sites.items() if choice.form != KEEP]
        return (), (
            "stated",
            *self.plan.blocks,
            *groups,
            *forms,
            *precision.passes,
            *precision.keep_float,
            "dynamic",
            *precision.dynamic,
        )

    def amount(self, resource: str) -> float:
        """What the candidate is predicted to take: "latency" (milliseconds), "bytes" or "macs"."""
        return {"latency": self.predicted_ms, "bytes": float(self.bytes), "macs": float(self.macs)}[resource]


@dataclass
class Front:
    """The outcome of a search.

    Attributes:
        base_ms: milliseconds of the network as it was.
        objective: what the candidates are ordered by.
        candidates: all that were measured, fastest first.
        seconds: spent searching.
    """

    base_ms: float = 0.0
    candidates: list[Candidate] = field(default_factory=list)
    seconds: float = 0.0
    objective: str = "latency"

    def best(self) -> list[Candidate]:
        """Those that no other beats in both the objective and the measured loss, smallest first."""
        return undominated(self.candidates, self.objective)


def undominated(candidates: Sequence[Candidate], objective: str = "latency") -> list[Candidate]:
    """Fastest first, each with less loss than all faster ones; where loss was not measured, the predicted one."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.amount(objective), worth(c), c.choice)):
        if not kept or worth(candidate) < worth(kept[-1]):
            kept.append(candidate)
    return kept


def worth(candidate: Candidate) -> float:
    """The loss of a candidate: measured where it is known."""
    return candidate.predicted_loss if candidate.loss is None else candidate.loss


__all__ = ["Candidate", "Front", "undominated", "worth"]
