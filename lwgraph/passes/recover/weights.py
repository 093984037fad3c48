"""Writing weights back, under the name that the recovery passes import it by."""

from lwgraph.plan.write import check_writable, has_bias_slot, transform, write

__all__ = ["check_writable", "has_bias_slot", "transform", "write"]
