"""The structural invariants of a model, and `verify`, which finds the first one that is broken.

`accept` is for models that others made: it drops recorded sizes that are wrong, as runtimes do.

These hold for every model that lwgraph reads, and after every pass:

structure
    1. *ownership*: a node's outputs know it as their maker; values, nodes and graphs agree on who belongs to whom.
    2. *definition*: every value that a node uses is a graph input, an initializer or an output of an earlier node, of
       the same graph or of one around it. Nothing used is missing, and nothing is used before it is made.
    3. *uses*: what a value knows of its users equals a recount; no removed node still uses anything.
    4. *names*: within a graph every value and every node has its own name (a node, and an output that nobody uses, may
       have none), and from inside a subgraph a name leads to the value that is meant, not to one that hides it.
    5. *outputs*: every output of a graph is defined in that graph.
operators
    6. *operator*: every operator exists in the imported opset of its domain (or is a function of the model, which is
       then called as declared); domains without schemas here, such as com.microsoft, are left to their runtime.
    7. *arity*: as many inputs and outputs as the operator takes, none missing that it needs.
    8. *attributes*: each is known to the operator and has its type, none that is required is missing; references occur
       only inside functions, to parameters these declare.
    9. *types*: recorded element types are among those the operator allows, and equal where it wants them equal.
data
    10. *data*: every initializer has data, of the type and shape that are recorded for it, and as many bytes as these
        need (external data: as many bytes in the file). The data itself is not read.
shapes (optional, dearer: it serializes the model without its data)
    11. *shapes*: recorded types and shapes agree with ONNX's own shape inference, which finds no contradiction.
"""

from lwgraph.check.accept import accept
from lwgraph.check.error import InvariantError
from lwgraph.check.verify import verify

__all__ = ["InvariantError", "accept", "verify"]
