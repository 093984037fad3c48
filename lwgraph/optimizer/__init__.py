"""The main job: read a model, rewrite it, prove the result, report."""

from lwgraph.optimizer.goal import TARGETS, Goal
from lwgraph.optimizer.run import optimize
from lwgraph.optimizer.result import Result

__all__ = ["TARGETS", "Goal", "Result", "optimize"]
