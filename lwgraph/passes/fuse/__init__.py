"""Rounding passes: neighbouring operators folded into one."""

PIPELINE = ",".join(
    (
        "fold-arithmetic",
        "fuse-pad",
        "fold-batch-norm",
        "fold-scale",
        "early-stride",
        "early-pool",
        "merge-constants",
        "matmul-add-to-gemm",
        "merge-activations",
    )
)
