"""What a rewritten model says about itself, and what it is without that."""

from __future__ import annotations

import itertools

from lwgraph import ir
from lwgraph.rewrite import recipe
from lwgraph.rewrite.provenance import FROM_KEY, PASS_KEY


def make_lean(model: ir.Model, original: ir.Model, limit: int | None = None) -> None:
    """Leave out, as far as needed for `model` not to be over `limit` bytes: annotations first, then the recipe, then
    the names of what passes put there, where that is enough.

    None: not over those that `original` takes as it would be written.
    """
    limit = ir.size(original) if limit is None else limit
    if ir.size(model) > limit:
        drop_annotations(model, original)
    if ir.size(model) > limit and recipe.KEY not in original.metadata_props:
        model.metadata_props.pop(recipe.KEY, None)
    if ir.size(model) > limit:
        drop_names(bare := ir.clone(model), original)
        if ir.size(bare) <= limit:
            ir.replace_contents(model, bare)


def drop_annotations(model: ir.Model, original: ir.Model) -> None:
    """Remove the provenance of nodes, and the recorded types of values of which the original records none."""
    recorded = {value.name for scope in ir.scopes(original) for value in ir.values(scope) if value.type is not None}
    for scope in ir.scopes(model):
        for node in scope:
            for key in (PASS_KEY, FROM_KEY):
                node.metadata_props.pop(key, None)
            for value in node.outputs:
                if value.name not in recorded and not value.is_graph_output():
                    value.type = value.shape = None


def drop_names(model: ir.Model, original: ir.Model) -> None:
    """Take the names of nodes that the original does not have, and shorten those of what they give."""
    nodes = {node.name for scope in ir.scopes(original) for node in scope}
    known = {value.name for scope in ir.scopes(original) for value in ir.values(scope)}
    taken = known | {value.name for scope in ir.scopes(model) for value in ir.values(scope)}
    short = (name for number in itertools.count() if (name := str(number)) not in taken)
    for scope in ir.scopes(model):
        for node in scope:
            if node.name not in nodes:
                node.name = ""
            for value in node.outputs:
                if value.name and value.name not in known and not value.is_graph_output():
                    value.name = next(short)


def same_graph(original: ir.Model, rewritten: ir.Model) -> bool:
    """Whether the passes changed nothing but annotations and the recipe."""
    before, after = (ir.clone(model) for model in (original, rewritten))
    for bare in (before, after):
        drop_annotations(bare, original)
        bare.metadata_props.pop(recipe.KEY, None)
    return ir.fingerprint(after) == ir.fingerprint(before)
