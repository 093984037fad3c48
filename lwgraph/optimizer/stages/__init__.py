"""The stages of a run: each proposes candidates, in the order integers, resolution, codes (in haste), structure, forms,
search, resolution, codes, training.
"""

from lwgraph.optimizer.stages.base import Stage, Work
from lwgraph.optimizer.stages.codes import Codes
from lwgraph.optimizer.stages.forms import Forms
from lwgraph.optimizer.stages.integers import Integers
from lwgraph.optimizer.stages.resolution import Resolution
from lwgraph.optimizer.stages.search import PlanSearch
from lwgraph.optimizer.stages.structure import Structures
from lwgraph.optimizer.stages.training import Training

STAGES: tuple[Stage, ...] = (
    Integers(),
    Resolution(),
    Codes(early=True),
    Structures(),
    Forms(),
    PlanSearch(),
    Resolution("resolution of the best"),
    Codes("codes of the best"),
    Training(),
)

__all__ = ["STAGES", "Stage", "Training", "Work"]
