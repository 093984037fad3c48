"""The options of `lwgraph optimize` in the groups of its help."""

from __future__ import annotations

import click

FIRST = "To begin with"
GROUPS = {
    FIRST: ("data", "max_drop", "budget"),
    "What goes in": ("eval_data", "preprocess", "input_shapes"),
    "What is promised": (
        *("metric", "output_kind", "confidence", "speedup", "max_latency", "max_bytes", "max_macs", "preset"),
        *("objective", "label_these", "unproven"),
    ),
    "How it is searched": (
        *("target", "threads", "memory", "workers", "dask", "seed", "distill", "augment", "pipeline", "recipe", "plan"),
        "strict",
    ),
    "What comes out": (
        "output",
        "overwrite",
        "report",
        "family",
        "explain",
        "explain_time",
        "as_json",
        "quiet",
        "help",
    ),
}


class GroupedCommand(click.Command):
    """A command whose help lists its options by GROUPS; those of no group come last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group."""
        found = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        left = {"help" if "--help" in param.opts else str(param.name): param for param in found}
        for title, names in GROUPS.items():
            self._section(ctx, formatter, title, [left.pop(name) for name in names if name in left])
        self._section(ctx, formatter, "Other", list(left.values()))

    @staticmethod
    def _section(ctx: click.Context, formatter: click.HelpFormatter, title: str, params: list[click.Option]) -> None:
        records = [record for param in params if (record := param.get_help_record(ctx)) is not None]
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


__all__ = ["FIRST", "GROUPS", "GroupedCommand"]
