"""A layer and what can stand for it: what the author of a form imports (linear algebra: `lwgraph.layers.linalg`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwgraph.faces import lazy

if TYPE_CHECKING:
    from lwgraph.layers.emit import Emitter, known_padding
    from lwgraph.layers.form import Fitted, Form, ceil16, parse_form
    from lwgraph.layers.form_pass import as_pass
    from lwgraph.layers.moments import Block, GramLike, Moments, Pooled
    from lwgraph.layers.probe import Probe
    from lwgraph.layers.site import Kind, Site, find_sites

_HOME = {
    "Block": "moments",
    "Emitter": "emit",
    "Fitted": "form",
    "Form": "form",
    "GramLike": "moments",
    "Kind": "site",
    "Moments": "moments",
    "Pooled": "moments",
    "Probe": "probe",
    "Site": "site",
    "as_pass": "form_pass",
    "ceil16": "form",
    "find_sites": "site",
    "known_padding": "emit",
    "parse_form": "form",
}

__getattr__, __dir__ = lazy(__name__, _HOME)

__all__ = [
    "Block",
    "Emitter",
    "Fitted",
    "Form",
    "GramLike",
    "Kind",
    "Moments",
    "Pooled",
    "Probe",
    "Site",
    "as_pass",
    "ceil16",
    "find_sites",
    "known_padding",
    "parse_form",
]
