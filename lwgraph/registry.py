"""Finds plugins. Built-in passes, forms, executors and roles are entry points, as a third party's are.

The registry stands below all that it finds, so the caller says what it expects: `load` and `role` check that.
"""

from __future__ import annotations

import functools
import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from lwgraph.errors import UsageError, did_you_mean
from lwgraph.executor import Executor

T = TypeVar("T")
OWN = "lwgraph"  # the distribution whose roles another's replace


@functools.cache
def _points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in _all_points(group)}


@functools.cache
def _all_points(group: str) -> list[EntryPoint]:
    """Sorted by name and value; of the name of a role there may be several."""
    return sorted(set(entry_points(group=group)), key=lambda p: (p.name, p.value))


def names(kind: str) -> list[str]:
    """Sorted names of one kind of plugin ("passes", "forms", "executors", "pipelines", "roles"), none imported."""
    return list(_points(f"lwgraph.{kind}"))


def load(kind: str, name: str, base: type[T]) -> type[T]:
    """The class registered as `name`; UsageError with a near miss where there is none, or not one derived from `base`.

    Args:
        kind: of plugin, see `names`.
        name: of the entry point.
        base: what the class must be derived from.
    """
    found = _found(kind, name)
    if not (isinstance(found, type) and issubclass(found, base)):
        value = _points(f"lwgraph.{kind}")[name].value
        raise UsageError(f"plugin '{name}' ({value}) is registered under {kind}, but is no {base.__name__}")
    return found


def role(name: str, protocol: type[T]) -> T:
    """What plays the role `name`: an instance of the class that is registered under the group `lwgraph.roles`.

    The class of another distribution replaces the one that comes with lwgraph.

    Args:
        name: of the role; the roles of plans stand in `lwgraph.plan.roles`.
        protocol: what the instance must be; a class, or a protocol that can be checked at run time.

    Raises:
        UsageError: nothing plays the role, two other distributions would, or what does lacks what the role needs.
    """
    points = [point for point in _all_points("lwgraph.roles") if point.name == name]
    others = [point for point in points if _distribution(point) != OWN]
    if len(others) > 1:
        both = " and ".join(f"{point.value} (of {_distribution(point)})" for point in others)
        raise UsageError(f"role '{name}' is played by both {both}; uninstall one of them")
    if not points:
        raise UsageError(f"no plugin plays the role '{name}'; install one that registers it under lwgraph.roles")
    point = (others or points)[0]
    made = _loaded(point)()
    if not isinstance(made, protocol):
        lacking = [member for member in _members(protocol) if not hasattr(made, member)]
        wrong = f"it lacks {', '.join(lacking)}" if lacking else "it is not derived from it"
        raise UsageError(f"role '{name}' ({point.value}) is no {protocol.__name__}: {wrong}")
    return made


def pass_class(name: str) -> type[Any]:
    """The pass, or the form as a pass, registered as `name`; UsageError with a near miss when there is none.

    `lwgraph.rewrite.base.find_class` checks that it is a pass.
    """
    if name in _points("lwgraph.forms") and name not in _points("lwgraph.passes"):
        return form_class(name).as_pass()  # type: ignore[no-any-return]
    return load("passes", name, object)


def form_class(name: str) -> type[Any]:
    """The form registered as `name`; UsageError with a near miss when there is none.

    `lwgraph.layers.form.find_form` checks that it is a form.
    """
    return load("forms", name, object)


def pipeline_text(name: str) -> str:
    """The text of the pipeline registered as `name`; UsageError with a near miss when there is none."""
    return str(_found("pipelines", name))


def executor(name: str, **options: Any) -> Executor:
    """A new executor.

    Args:
        name: of the entry point; after a colon, what floats are computed in, where there is a choice: `openvino:bf16`.
        options: of its constructor.
    """
    name, _, precision = name.partition(":")
    made_by = _found("executors", name)
    if precision:
        if "precision" not in inspect.signature(made_by).parameters:
            raise UsageError(f"executor '{name}' has no precisions to choose from; leave ':{precision}' out")
        options["precision"] = precision
    made = made_by(**options)
    if not isinstance(made, Executor):
        raise UsageError(f"plugin '{name}' is no executor; it needs a name and the method prepare")
    return made


def _found(kind: str, name: str) -> Any:
    points = _points(f"lwgraph.{kind}")
    if name not in points:
        raise UsageError(
            f"no {kind.removesuffix('es') if kind == 'passes' else kind.removesuffix('s')} "
            f"is named '{name}'{did_you_mean(name, points)}"
        )
    return _loaded(points[name])


def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"plugin '{point.name}' ({point.value}) cannot be loaded: {error}") from error


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else ""


def _members(protocol: type[Any]) -> list[str]:
    """The public names that a protocol or any class states, its bases' first."""
    bases = [cls for cls in reversed(protocol.__mro__) if cls is not object]
    return [name for cls in bases for name in vars(cls) if not name.startswith("_")]


__all__ = ["executor", "form_class", "load", "names", "pass_class", "pipeline_text", "role"]
