"""Views of a graph on networkx, for questions that the IR does not answer itself. Views never change the model."""

from lwgraph.views.dataflow import (
    SINK,
    SOURCE,
    dataflow,
    dominators,
    generations,
    post_dominators,
)

__all__ = ["SINK", "SOURCE", "dataflow", "dominators", "generations", "post_dominators"]
