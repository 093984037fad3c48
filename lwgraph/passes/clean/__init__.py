"""Exact passes: less graph, the same bits."""

PIPELINE = ",".join(
    (
        "inline-functions",
        "constant-inputs",
        "dead-code",
        "constants-to-initializers",
        "identities",
        "infer-shapes",
        "fold-shapes",
        "fold-constants",
        "inline-branches",
        "identities",
        "default-inputs",
        "merge-movement",
        "duplicate-initializers",
        "common-subexpressions",
        "dead-code",
    )
)
