"""Makes any form a pass over all sites: `-p 'low-rank{ratio=0.5}'`."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar, get_type_hints

from lwgraph import ir
from lwgraph.layers.apply import apply_forms, observable, unknown
from lwgraph.layers.form import Form
from lwgraph.layers.moments import too_wide
from lwgraph.layers.site import find_sites
from lwgraph.rewrite.base import Context, Contract, Pass


@dataclasses.dataclass(frozen=True)
class FormPass(Pass):
    """Replaces every site that its form can take by the form; its options are the form's."""

    contract: ClassVar[Contract] = Contract.APPROXIMATE
    form_class: ClassVar[type[Form]]

    def form(self) -> Form:
        """The form with this pass's options."""
        return self.form_class(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def run(self, model: ir.Model, context: Context) -> int:
        """Rewrite in place; the number of layers replaced. Refusals are recorded in the context."""
        form = self.form()
        sites = find_sites(model, refused=lambda place, reason: context.skip(self.name, place, reason))
        if (statistics := context.statistics) is not None:
            wanted = [
                site
                for site in sites
                if observable(site)
                and not (too_wide(site) or form.refusal(site) or unknown(site, form.at(site), context))
            ]
            if context.data and not all(map(statistics.knows, wanted)):  # a form before this one put layers there
                statistics = context.statistics_of(model)
                context = context.beside(statistics=statistics)
            probes = [form.seen(site) for site in wanted]
            more = [probe for probe, site in zip(probes, wanted, strict=True) if probe is not site]
            statistics.prefetch([*wanted, *more])
        return sum(record.done for record in apply_forms([(site, form) for site in sites], context))


@functools.cache
def as_pass(form_class: type[Form]) -> type[Pass]:
    """The pass class of a form, with the same name, options and help."""
    hints = get_type_hints(form_class, include_extras=True)
    fields = [
        (f.name, hints[f.name], dataclasses.field(default=f.default, default_factory=f.default_factory))
        if f.default_factory is not dataclasses.MISSING
        else (f.name, hints[f.name], dataclasses.field(default=f.default))
        for f in dataclasses.fields(form_class)
    ]
    made = dataclasses.make_dataclass(
        f"{form_class.__name__}Pass",
        fields,
        bases=(FormPass,),
        frozen=True,
        namespace={
            "name": form_class.name,
            "form_class": form_class,
            "__doc__": form_class.__doc__,
            "__qualname__": form_class.__qualname__,  # so that `module:MyForm` is its spelling
        },
    )
    made.__module__ = form_class.__module__  # which Python 3.12 and later take from the caller in any case
    assert issubclass(made, Pass)
    return made


__all__ = ["FormPass", "as_pass"]
