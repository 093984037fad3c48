"""Finds plugins. Built-in passes, forms and executors are entry points, as a third party's are."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from lwgraph.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from lwgraph.executor import Executor
    from lwgraph.layers.form import Form
    from lwgraph.rewrite.base import Pass


@functools.cache
def _points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda p: (p.name, p.value))}


def names(kind: str) -> list[str]:
    """Sorted names of one kind of plugin ("passes", "forms", "executors", "pipelines"), without importing any."""
    return list(_points(f"lwgraph.{kind}"))


def _load(kind: str, name: str) -> Any:
    points = _points(f"lwgraph.{kind}")
    if name not in points:
        raise UsageError(
            f"no {kind.removesuffix('es') if kind == 'passes' else kind.removesuffix('s')} "
            f"is named '{name}'{did_you_mean(name, points)}"
        )
    try:
        return points[name].load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"plugin '{name}' ({points[name].value}) cannot be loaded: {error}") from error


def pass_class(name: str) -> type[Pass]:
    """The pass, or the form as a pass, registered as `name`; UsageError with a near miss when there is none."""
    if name in _points("lwgraph.forms") and name not in _points("lwgraph.passes"):
        from lwgraph.layers.form_pass import as_pass

        return as_pass(form_class(name))
    return _load("passes", name)  # type: ignore[no-any-return]


def form_class(name: str) -> type[Form]:
    """The form registered as `name`; UsageError with a near miss when there is none."""
    return _load("forms", name)  # type: ignore[no-any-return]


def pipeline_text(name: str) -> str:
    """The text of the pipeline registered as `name`; UsageError with a near miss when there is none."""
    return _load("pipelines", name)  # type: ignore[no-any-return]


def executor(name: str, **options: Any) -> Executor:
    """A new executor; `options` go to its constructor."""
    return _load("executors", name)(**options)  # type: ignore[no-any-return]
