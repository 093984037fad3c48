"""Takes a model as its author gave it, with what runtimes let pass."""

from __future__ import annotations

from lwgraph import ir
from lwgraph.check.error import InvariantError
from lwgraph.check.shapes import check_shapes
from lwgraph.check.verify import verify


def accept(model: ir.Model) -> str:
    """Verify a model, and drop recorded sizes that its operators contradict: ONNX Runtime only warns of these.

    They stay behind where a batch or an image size was edited by hand. Sizes of outputs become open where they are
    wrong, those inside are left to inference; the graph's inputs are as they were.

    Returns:
        What was dropped, in words; "" when nothing was.

    Raises:
        InvariantError: as `verify`; the model is as it was then.
    """
    verify(model, shapes=False)
    try:
        check_shapes(model)
    except InvariantError as contradiction:
        made = [value for scope in ir.scopes(model) for node in scope for value in node.outputs]
        stated = {value: value.shape for value in made if value.shape is not None}
        for value in stated:
            value.shape = None
        try:
            check_shapes(model)
        except InvariantError:
            for value, shape in stated.items():
                value.shape = shape
            raise contradiction from None
        return _restore(model, stated)
    return ""


def _restore(model: ir.Model, stated: dict[ir.Value, ir.Shape]) -> str:
    """Put back what inference does not contradict, and tell the first that it does."""
    inferred = ir.infer_shapes(model)
    wrong = []
    for value, shape in stated.items():
        found = inferred.get(value)
        if found is None or len(found) != len(shape):
            value.shape = shape if found is None else ir.Shape(found)
            wrong += [] if found is None else [(value, shape, found)]
            continue
        pairs = list(zip(shape, found, strict=True))
        if not any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
            value.shape = shape
            continue
        value.shape = ir.Shape([a if a == b or not isinstance(b, int) else None for a, b in pairs])
        wrong.append((value, shape, found))
    try:
        check_shapes(model)
    except InvariantError:  # one in a body, or of an operator that inference does not know
        for value in stated:
            value.shape = None
    if not wrong:
        return "recorded sizes that the operators contradict were dropped"
    value, shape, found = wrong[0]
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return (
        f"recorded sizes that the operators contradict were dropped: '{value.name}' {_text(shape)}, which is "
        f"{_text(found)}{more}"
    )


def _text(shape: ir.Shape | ir.Dims) -> str:
    sizes = [size if isinstance(size, int | str) or size is None else size.value for size in shape]
    return f"[{','.join('?' if size is None else str(size) for size in sizes)}]"
