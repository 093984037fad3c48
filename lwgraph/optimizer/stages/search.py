"""Changes around the best plans: what really happens when many layers change at once is only seen by running them."""

from __future__ import annotations

from functools import partial

from lwgraph.alarm import OutOfTime
from lwgraph.optimizer.back_off import back_off
from lwgraph.optimizer.data_pass import Cost, DataPass
from lwgraph.optimizer.stages.base import Work

LOOKED = 3  # plans of the front that are looked at, about
TRIED = 0.5  # of the time that is left, what trials may take under a budget: looks at what they find come after them


class PlanSearch:
    """Goes on from the solver's plans, and proposes what lies on the front then."""

    name = "search"
    share = 0.8
    searches = True

    def idle(self, work: Work) -> str:
        """Why there is nothing to search."""
        return "" if work.search is not None else "no layer has an option"

    def cost(self, work: Work, unit: DataPass) -> Cost:
        """The time for trials, of which half is left at the end where nothing better is found for long; three looks."""
        allowed = work.request.trials if work.search is None else work.search.seconds
        return Cost(seconds=min(allowed / 2, TRIED * work.clock.left)) + work.look_cost(unit) * LOOKED

    def run(self, work: Work) -> Work:
        """Run trial plans, then look at those of the front that may be the best."""
        search = work.search
        assert search is not None
        wanted, search.seconds = search.seconds, min(search.seconds, TRIED * work.clock.left)
        front = search.go_on(work.candidates.most)
        back_off(front, work.candidates, partial(work.making.searched, search))
        if search.seconds <= search.spent < wanted:
            raise OutOfTime  # a second run goes on
        return work


__all__ = ["PlanSearch"]
