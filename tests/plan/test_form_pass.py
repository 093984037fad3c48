import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.errors import UsageError
from lwgraph.layers.form_pass import as_pass
from lwgraph.layers.moments import Pooled
from lwgraph.layers.site import find_sites
from lwgraph.layers.substitute import PASS_KEY
from lwgraph.measure.compare import compare
from lwgraph.rewrite.base import Context, Contract, Pass
from lwgraph.rewrite.options import parse_pass
from lwgraph.testing.layers import Layer, layers, patches

LAYERS = {layer.name: layer for layer in layers()}
ORT = registry.executor("ort")


class Measured:
    """Statistics by brute force."""

    def __init__(self, model, feeds):
        self.model, self.feeds, self.asked = model, feeds, []

    def prefetch(self, sites):
        self.asked += [site.name for site in sites]

    def knows(self, site):
        return True

    def exact(self, site):
        return True

    def sample(self, site):
        return ORT.prepare(self.model, [site.input.name])(self.feeds)[site.input.name]

    def gram(self, site):
        found = patches(site, self.sample(site))
        return Pooled(found.swapaxes(1, 2) @ found / found.shape[1], found.mean(1), found.shape[1])


def chain(*, shared=False, outputs=("y",)):
    """x -> conv a -> relu -> conv b -> y, of 32 channels."""
    random = np.random.default_rng(0)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", 32, "h", "w"]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 17}, name="chain")
    weights = (random.standard_normal((2, 32, 32, 3, 3)) / 17).astype(np.float32)
    w = ir.add_initializer(graph, weights[0], "w")
    v = w if shared else ir.add_initializer(graph, weights[1], "v")
    b = ir.add_initializer(graph, random.standard_normal(32).astype(np.float32), "b")
    first = ir.make_node("Conv", [x, w, b], {"pads": (1, 1, 1, 1)})
    relu = ir.make_node("Relu", first.outputs)
    second = ir.make_node("Conv", [relu.outputs[0], v, b], {"pads": (1, 1, 1, 1)})
    for node, name in ((first, "a"), (relu, "r"), (second, "y")):
        node.name = node.outputs[0].name = name
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.extend([first, relu, second])
    values = {"a": first.outputs[0], "y": second.outputs[0]}
    graph.outputs.extend(values[name] for name in outputs)
    return ir.Model(graph, ir_version=9)


FEEDS = {"x": np.random.default_rng(1).standard_normal((4, 32, 12, 12)).astype(np.float32)}


def run(model):
    return ORT.prepare(model)(FEEDS)["y"]


def test_a_form_is_a_pass_with_the_same_text():
    p = parse_pass("low-rank{ratio=0.25,split=output}")
    assert isinstance(p, Pass) and p.contract is Contract.APPROXIMATE
    assert str(p) == "low-rank{ratio=0.25,split=output}"
    assert type(p) is as_pass(registry.form_class("low-rank")) is registry.pass_class("low-rank")
    with pytest.raises(UsageError, match=r"no option 'rato'; did you mean 'ratio'"):
        parse_pass("low-rank{rato=1}")
    with pytest.raises(UsageError):
        parse_pass("low-rank{rank=-3}").form()


@pytest.mark.parametrize("samples", [False, True])
def test_replaces_every_site(samples):
    model = chain()
    before = run(model)
    statistics = Measured(ir.clone(model), FEEDS) if samples else None
    context = Context(reference=ORT, statistics=statistics)
    assert parse_pass("low-rank{rank=16,split=vertical}").run(model, context) == 2
    assert [n.op_type for n in model.graph] == ["Conv", "Conv", "Relu", "Conv", "Conv"]
    assert {n.metadata_props.get(PASS_KEY) for n in model.graph} == {"low-rank{rank=16,split=vertical}", None}
    assert not {"w", "v"} & set(model.graph.initializers)  # the old weights are gone
    assert not samples or statistics.asked == ["a", "y"]
    error = np.square(run(model) - before).mean() / before.var()
    assert 0.01 < error < 1


def test_full_rank_changes_nothing():
    model = chain()
    before = run(model)
    for site in find_sites(model):
        from lwgraph.layers.moments import Moments
        from lwgraph.layers.substitute import substitute
        from lwgraph.passes.forms.low_rank import LowRank

        substitute(LowRank.full(site).fit(site, Moments(site)))
    assert len(model.graph) == 5
    assert compare({"y": before}, {"y": run(model)}, Contract.ROUNDING).ok


def test_an_output_of_the_graph_keeps_its_name():
    model = chain(outputs=("a", "y"))
    assert parse_pass("low-rank{rank=16}").run(model, Context(reference=ORT)) == 2
    assert [v.name for v in model.graph.outputs] == ["a", "y"]
    assert ORT.prepare(model)(FEEDS)["a"].shape == (4, 32, 12, 12)


def test_a_shared_weight_is_fitted_once_and_stays_shared():
    model = chain(shared=True)
    statistics = Measured(ir.clone(model), FEEDS)
    assert parse_pass("low-rank{rank=16}").run(model, Context(reference=ORT, statistics=statistics)) == 2
    convs = [n for n in model.graph if n.op_type == "Conv"]
    assert convs[0].inputs[1] is convs[2].inputs[1] and convs[1].inputs[1] is convs[3].inputs[1]
    assert convs[1].inputs[2] is not convs[3].inputs[2]  # the biases are their own


def test_no_gain_is_refused_with_the_figures():
    model, context = chain(), Context(reference=ORT)
    text = str(model)
    assert parse_pass("low-rank{rank=96}").run(model, context) == 0
    assert "multiply-accumulates; the layer has" in context.skipped[0].reason and str(model) == text


def test_nodes_that_compute_something_else_are_undone():
    class Broken:
        """Adds a little to the form's output, not to the dense layer's."""

        name = "broken"

        def prepare(self, model, outputs=None):
            inner = ORT.prepare(model, outputs)
            more = 0.01 * (len(model.graph) > 1)
            return lambda feeds: {name: array + np.float32(more) for name, array in inner(feeds).items()}

    model, context = chain(), Context(reference=Broken())
    assert parse_pass("low-rank{rank=16}").run(model, context) == 0
    assert len(model.graph) == 3 and "not the promised layer" in context.skipped[0].reason


def test_the_limit_stops_it():
    model, context = chain(), Context(reference=ORT, limit=1)
    assert parse_pass("low-rank{rank=16}").run(model, context) == 1
    assert [n.op_type for n in model.graph] == ["Conv", "Conv", "Relu", "Conv"]


@pytest.mark.parametrize("name", ["matmul", "gemm", "gemm-scaled", "transposed", "one-dimensional", "same-upper"])
def test_each_kind_of_layer(name):
    layer = LAYERS[name]
    model, feeds = ir.clone(layer.model), {"x": layer.samples()}
    statistics = Measured(layer.model, feeds)
    before = ORT.prepare(layer.model)(feeds)["y"]
    text = "low-rank{rank=16,split=input}" if name == "transposed" else "low-rank{rank=16,split=output}"
    assert parse_pass(text).run(model, Context(reference=ORT, statistics=statistics)) == 1
    after = ORT.prepare(model)(feeds)["y"]
    assert before.shape == after.shape and np.square(after - before).mean() < 0.3 * before.var()


def test_too_few_samples_warn_and_say_how_many_would_do():
    model = chain()
    context = Context(reference=ORT, statistics=Measured(model, {"x": FEEDS["x"][:1, :, :8, :8]}))
    parse_pass("low-rank{rank=16}").run(ir.clone(model), context)
    assert "'a' has 64 samples for 288 unknowns" in context.warnings[0] and "about 1440 samples" in context.warnings[0]


def branched(*, shared=False):
    """x -> conv a -> If(c: conv b, else: as it is) -> y; `shared`: both have the weight of a."""
    random = np.random.default_rng(0)
    w, v = (random.standard_normal((2, 32, 32, 3, 3)) / 17).astype(np.float32)

    def conv(x, y, weight):
        return helper.make_node("Conv", [x, weight], [y], name=y, pads=[1, 1, 1, 1])

    result = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    yes = helper.make_graph(
        [conv("a", "b", "w" if shared else "v"), helper.make_node("Relu", ["b"], ["z"])], "yes", [], result
    )
    no = helper.make_graph([helper.make_node("Identity", ["a"], ["z"])], "no", [], result)
    sizes = ["n", 32, 12, 12]
    graph = helper.make_graph(
        [conv("x", "a", "w"), helper.make_node("If", ["c"], ["y"], then_branch=yes, else_branch=no)],
        "branched",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes)],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(v, "v")],
    )
    return ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def test_a_layer_in_the_body_of_an_if_is_not_fitted_without_the_samples_that_there_are():
    feeds = FEEDS | {"c": np.array(True)}
    model = branched()
    context = Context(reference=ORT, statistics=Measured(ir.clone(model), feeds))
    assert parse_pass("low-rank{rank=16}").run(model, context) == 1
    (skipped,) = context.skipped
    assert skipped.place == "b" and "in the body of an If, Loop or Scan" in skipped.reason
    assert np.isfinite(ORT.prepare(model)(feeds)["y"]).all()
    assert parse_pass("low-rank{rank=16}").run(branched(), Context(reference=ORT)) == 2  # to the weights alone


def test_a_weight_in_a_body_and_outside_is_fitted_to_what_is_seen_outside():
    smooth = Layer("smooth", model=branched(), shape=(4, 32, 12, 12)).samples()
    feeds = {"x": smooth, "c": np.array(True)}
    model = branched(shared=True)
    before = ORT.prepare(model)(feeds)["y"]
    context = Context(reference=ORT, statistics=Measured(ir.clone(model), feeds))
    assert parse_pass("low-rank{rank=32}").run(model, context) == 2 and not context.skipped
    blind = branched(shared=True)
    parse_pass("low-rank{rank=32}").run(blind, Context(reference=ORT))
    errors = [np.square(ORT.prepare(m)(feeds)["y"] - before).mean() for m in (model, blind)]
    assert errors[0] < errors[1]


def test_layers_that_a_form_put_there_are_measured_for_the_next() -> None:
    model, context = chain(), Context(reference=ORT, executor=ORT, data=[FEEDS])
    statistics = context.statistics = Statistics(ir.clone(model), [FEEDS], ORT)
    before = run(model)
    assert parse_pass("low-rank{rank=16,split=output}").run(model, context) == 2
    assert not any(statistics.knows(site) for site in find_sites(model)[1::2])  # the second stages
    assert parse_pass("smaller-kernel{size=2}").run(model, context) == 2
    assert context.statistics is statistics and not [s for s in context.skipped if "captured" in s.reason]
    assert np.square(run(model) - before).mean() < before.var()
