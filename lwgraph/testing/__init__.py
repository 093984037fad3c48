"""Public conformance kits for plugins: run them over your own passes, forms and roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwgraph.faces import lazy

if TYPE_CHECKING:
    from lwgraph.testing.forms import check_form
    from lwgraph.testing.models import graphs, random_model
    from lwgraph.testing.passes import Sample, check_pass, samples
    from lwgraph.testing.roles import check_role

_HOME = {
    "Sample": "passes",
    "check_form": "forms",
    "check_pass": "passes",
    "check_role": "roles",
    "graphs": "models",
    "random_model": "models",
    "samples": "passes",
}


__getattr__, __dir__ = lazy(__name__, _HOME)

__all__ = ["Sample", "check_form", "check_pass", "check_role", "graphs", "random_model", "samples"]
