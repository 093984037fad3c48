"""The main job: read a model, rewrite it, prove the result, report."""

from lwgraph.optimizer.request import Request
from lwgraph.optimizer.result import Result
from lwgraph.optimizer.run import optimize, optimize_as
from lwgraph.optimizer.target import TARGETS

__all__ = ["TARGETS", "Request", "Result", "optimize", "optimize_as"]
