"""Exact passes: less graph, the same bits."""

PIPELINE = ",".join((
    "dead-code",
    "constants-to-initializers",
    "identities",
    "infer-shapes",
    "fold-shapes",
    "fold-constants",
    "identities",
    "default-inputs",
    "merge-movement",
    "duplicate-initializers",
    "common-subexpressions",
    "dead-code",
))
