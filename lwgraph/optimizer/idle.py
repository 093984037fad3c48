"""What to say of a pass that was asked for and changed nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lwgraph.report.record import PassRun
from lwgraph.rewrite.base import Skipped


def idle(ran: Iterable[PassRun], skipped: Iterable[Skipped]) -> list[str]:
    """One line for each approximate pass that did nothing, with its most frequent reason.

    Exact and rounding passes are left out: that there was nothing to clean is no news.
    """
    refusals = list(skipped)
    lines = []
    for run in ran:
        if run.rewrites or run.contract != "approximate":
            continue
        name = run.name.split("{")[0]
        reasons = Counter(refusal.reason for refusal in refusals if refusal.pass_name == name)
        if not reasons:
            lines.append(f"{name} changed nothing: it found no place to act on")
            continue
        (reason, count), total = reasons.most_common(1)[0], sum(reasons.values())
        places = "" if total == 1 else f" ({count} of {total} places; --explain names each)"
        lines.append(f"{name} changed nothing: {reason}{places}")
    return lines
