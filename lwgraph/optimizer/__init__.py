"""The main job: read a model, rewrite it, prove the result, report."""

from lwgraph.optimizer.goal import TARGETS, Goal
from lwgraph.optimizer.result import Result
from lwgraph.optimizer.run import optimize

__all__ = ["TARGETS", "Goal", "Result", "optimize"]
