import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir, registry
from lwgraph.calibrate import Statistics
from lwgraph.check import verify
from lwgraph.errors import UsageError
from lwgraph.layers.form_pass import as_pass
from lwgraph.layers.site import find_sites
from lwgraph.measure.compare import compare
from lwgraph.rewrite.base import Context, Contract, Log, Pass
from lwgraph.rewrite.provenance import PASS_KEY
from lwgraph.testing.layers import SampleLayer, layers
from tests.layers.chain import FEEDS, ORT, Measured, chain

LAYERS = {layer.name: layer for layer in layers()}


def run(model):
    return ORT.prepare(model)(FEEDS)["y"]


def test_a_form_is_a_pass_with_the_same_text():
    p = Pass.parse("low-rank{ratio=0.25,split=output}")
    assert isinstance(p, Pass) and p.contract is Contract.APPROXIMATE
    assert str(p) == "low-rank{ratio=0.25,split=output}"
    assert type(p) is as_pass(registry.form_class("low-rank")) is registry.pass_class("low-rank")
    with pytest.raises(UsageError, match=r"no option 'rato'; did you mean 'ratio'"):
        Pass.parse("low-rank{rato=1}")
    with pytest.raises(UsageError):
        Pass.parse("low-rank{rank=-3}").form()


@pytest.mark.parametrize("samples", [False, True])
def test_replaces_every_site(samples):
    model = chain()
    before = run(model)
    statistics = Measured(ir.clone(model), FEEDS) if samples else None
    context = Context(reference=ORT, statistics=statistics)
    assert Pass.parse("low-rank{rank=16,split=vertical}").run(model, context) == 2
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
    assert Pass.parse("low-rank{rank=16}").run(model, Context(reference=ORT)) == 2
    assert [v.name for v in model.graph.outputs] == ["a", "y"]
    assert ORT.prepare(model)(FEEDS)["a"].shape == (4, 32, 12, 12)


def test_a_shared_weight_is_fitted_once_and_stays_shared():
    model = chain(shared=True)
    statistics = Measured(ir.clone(model), FEEDS)
    assert Pass.parse("low-rank{rank=16}").run(model, Context(reference=ORT, statistics=statistics)) == 2
    convs = [n for n in model.graph if n.op_type == "Conv"]
    assert convs[0].inputs[1] is convs[2].inputs[1] and convs[1].inputs[1] is convs[3].inputs[1]
    assert convs[1].inputs[2] is not convs[3].inputs[2]  # the biases are their own


def test_no_gain_is_refused_with_the_figures():
    model, context = chain(), Context(reference=ORT)
    text = str(model)
    assert Pass.parse("low-rank{rank=96}").run(model, context) == 0
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
    assert Pass.parse("low-rank{rank=16}").run(model, context) == 0
    assert len(model.graph) == 3 and "not the promised layer" in context.skipped[0].reason


def test_the_limit_stops_it():
    model, context = chain(), Context(reference=ORT, log=Log(limit=1))
    assert Pass.parse("low-rank{rank=16}").run(model, context) == 1
    assert [n.op_type for n in model.graph] == ["Conv", "Conv", "Relu", "Conv"]


@pytest.mark.parametrize("name", ["matmul", "gemm", "gemm-scaled", "transposed", "one-dimensional", "same-upper"])
def test_each_kind_of_layer(name):
    layer = LAYERS[name]
    model, feeds = ir.clone(layer.model), {"x": layer.samples()}
    statistics = Measured(layer.model, feeds)
    before = ORT.prepare(layer.model)(feeds)["y"]
    text = "low-rank{rank=16,split=input}" if name == "transposed" else "low-rank{rank=16,split=output}"
    assert Pass.parse(text).run(model, Context(reference=ORT, statistics=statistics)) == 1
    after = ORT.prepare(model)(feeds)["y"]
    assert before.shape == after.shape and np.square(after - before).mean() < 0.3 * before.var()


def test_too_few_samples_warn_and_say_how_many_would_do():
    model = chain()
    context = Context(reference=ORT, statistics=Measured(model, {"x": FEEDS["x"][:1, :, :8, :8]}))
    Pass.parse("low-rank{rank=16}").run(ir.clone(model), context)
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
    assert Pass.parse("low-rank{rank=16}").run(model, context) == 1
    (skipped,) = context.skipped
    assert skipped.place == "b" and "in the body of an If, Loop or Scan" in skipped.reason
    assert np.isfinite(ORT.prepare(model)(feeds)["y"]).all()
    assert Pass.parse("low-rank{rank=16}").run(branched(), Context(reference=ORT)) == 2  # to the weights alone


def test_a_weight_in_a_body_and_outside_is_fitted_to_what_is_seen_outside():
    smooth = SampleLayer("smooth", model=branched(), shape=(4, 32, 12, 12)).samples()
    feeds = {"x": smooth, "c": np.array(True)}
    model = branched(shared=True)
    before = ORT.prepare(model)(feeds)["y"]
    context = Context(reference=ORT, statistics=Measured(ir.clone(model), feeds))
    assert Pass.parse("low-rank{rank=32}").run(model, context) == 2 and not context.skipped
    blind = branched(shared=True)
    Pass.parse("low-rank{rank=32}").run(blind, Context(reference=ORT))
    errors = [np.square(ORT.prepare(m)(feeds)["y"] - before).mean() for m in (model, blind)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("places", ["then else", "then main", "then else main"])
@pytest.mark.parametrize("text", ["low-rank{rank=16}", "depthwise", "cp{rank=8}"])
def test_layers_of_several_bodies_share_weights_that_all_of_them_see(places: str, text: str) -> None:
    """The first of them does not keep for itself what the others need."""
    weight = (np.random.default_rng(0).standard_normal((32, 32, 3, 3)) / 17).astype(np.float32)

    def body(name: str) -> onnx.GraphProto:
        conv = helper.make_node("Conv", ["x", "w"], ["z"], name=name, pads=[1, 1, 1, 1])
        copy = helper.make_node("Identity", ["x"], ["z"])
        result = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
        return helper.make_graph([conv if name in places else copy], name, [], result)

    nodes = [
        helper.make_node("If", ["c"], ["h"], then_branch=body("then"), else_branch=body("else")),
        helper.make_node("Conv", ["h", "w"], ["y"], name="main", pads=[1, 1, 1, 1])
        if "main" in places
        else helper.make_node("Relu", ["h"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32, 12, 12]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 32, 12, 12])]
    graph = helper.make_graph(nodes, "bodies", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    model = ir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    count = Pass.parse(text).run(model, Context(reference=ORT))
    verify(model)
    assert count == len(places.split())
    made = [value for scope in ir.scopes(model) for value in scope.initializers.values()]
    assert len({value.name for value in made}) == len(made) == len(model.graph.initializers)
    for c in (True, False):
        assert np.isfinite(ORT.prepare(model)({"x": FEEDS["x"], "c": np.array(c)})["y"]).all()


def test_layers_that_a_form_put_there_are_measured_for_the_next() -> None:
    model = chain()
    statistics = Statistics(ir.clone(model), [FEEDS], ORT)
    context = Context(reference=ORT, executor=ORT, data=[FEEDS], statistics=statistics)
    before = run(model)
    assert Pass.parse("low-rank{rank=16,split=output}").run(model, context) == 2
    assert not any(statistics.knows(site) for site in find_sites(model)[1::2])  # the second stages
    assert Pass.parse("smaller-kernel{size=2}").run(model, context) == 2
    assert context.statistics is statistics and not [s for s in context.skipped if "captured" in s.reason]
    assert np.square(run(model) - before).mean() < before.var()
