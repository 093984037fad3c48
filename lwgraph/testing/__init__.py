"""Public conformance kits for plugins: run them over your own passes and forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwgraph.faces import lazy

if TYPE_CHECKING:
    from lwgraph.testing.forms import check_form
    from lwgraph.testing.models import graphs, random_model
    from lwgraph.testing.passes import Sample, check_pass, samples

_HOME = {
    "Sample": "passes",
    "check_form": "forms",
    "check_pass": "passes",
    "graphs": "models",
    "random_model": "models",
    "samples": "passes",
}


__getattr__, __dir__ = lazy(__name__, _HOME)

__all__ = ["Sample", "check_form", "check_pass", "graphs", "random_model", "samples"]
