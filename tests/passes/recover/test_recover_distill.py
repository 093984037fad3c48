"""distill: a damaged model learns from the original; budgets, held-out judgement, checkpoints, quantized weights."""

import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lwgraph import ir, registry
from lwgraph.errors import DataError, ModelError, UsageError
from lwgraph.rewrite import Context, Pass
from tests.passes.recover.nets import convnet, damaged, inputs


def context(teacher: ir.Model, data: Any, **more: Any) -> Context:
    return Context(executor=registry.executor("ort"), data=data, teacher=teacher, **more)


def distance(model: ir.Model, teacher: ir.Model, feeds: Any) -> float:
    """Squared error of the outputs over the teacher's variance, on new inputs, in ONNX Runtime."""
    ours, theirs = (
        np.concatenate([next(iter(run(f).values())) for f in feeds])
        for run in (registry.executor("ort").prepare(m) for m in (model, teacher))
    )
    return float(((ours - theirs) ** 2).mean() / theirs.var())


def test_without_torch_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    teacher = convnet()
    with pytest.raises(UsageError, match=r"pip install 'lwgraph\[torch\]'"):
        Pass.parse("distill{steps=1}").run(damaged(teacher), context(teacher, inputs(8)))


@pytest.mark.parametrize(
    "text",
    [
        "distill{steps=-1}",
        "distill{minutes=0}",
        "distill{held_out=1}",
        "distill{rate=-1}",
        "distill{optimizer=lbfgs}",
        "distill{batch=-1}",
        "distill{crop=-1}",
    ],
)
def test_bad_options(text: str) -> None:
    with pytest.raises(UsageError):
        Pass.parse(text)


def test_what_it_needs() -> None:
    teacher = convnet()
    with pytest.raises(UsageError, match="original model"):
        Pass.parse("distill").run(damaged(teacher), Context(data=inputs(4)))
    with pytest.raises(UsageError, match="calibration samples"):
        Pass.parse("distill").run(damaged(teacher), Context(teacher=teacher))


torch = pytest.importorskip("torch")
STEPS = "distill{minutes=0,steps=60,batch=16,precision=float32"


@pytest.mark.parametrize(
    "options",
    [
        "",
        ",optimizer=sgd,rate=0.05",
        ",optimizer=soap",
        ",precision=gradients",
        ",objective=mse",
        ",objective=cosine+features:0.5",
        ",blocks=student",
        ",blocks=teacher",
        ",augment=flip+shift+mixup",
        ",precision=bfloat16",
        ",objective=kl,temperature=4",
    ],
)
def test_it_recovers(options: str) -> None:
    teacher = convnet()
    student = damaged(teacher)
    text = ir.fingerprint(student)
    structure = [(n.op_type, [v.name for v in (*n.inputs, *n.outputs)]) for n in student.graph]
    c = context(teacher, inputs(96))
    before = distance(student, teacher, inputs(64, seed=9))
    changed = Pass.parse(
        STEPS.replace(",precision=float32", "" if "precision" in options else ",precision=float32") + options + "}"
    ).run(student, c)
    after = distance(student, teacher, inputs(64, seed=9))
    assert changed > 0 and ir.fingerprint(student) != text
    assert [(n.op_type, [v.name for v in (*n.inputs, *n.outputs)]) for n in student.graph] == structure
    assert after < 0.6 * before
    (gain,) = c.gains
    assert gain.kept and gain.after < gain.before


def test_the_same_seed_gives_the_same_bytes() -> None:
    teacher, prints = convnet(), []
    for seed in (0, 0, 1):
        student = damaged(teacher)
        Pass.parse(STEPS.replace("60", "5") + "}").run(student, context(teacher, inputs(32), seed=seed))
        prints.append(ir.fingerprint(student))
    assert prints[0] == prints[1] != prints[2]


def test_nothing_gained_is_undone() -> None:
    teacher = convnet()
    student = ir.clone(teacher)  # nothing to gain: the loss is zero already
    c = context(teacher, inputs(32))
    assert Pass.parse(STEPS.replace("60", "5") + "}").run(student, c) == 0
    assert ir.fingerprint(student) == ir.fingerprint(teacher)
    assert not c.gains[0].kept and "are those of the original" in c.skipped[0].reason


def test_time_budget_and_progress() -> None:
    teacher, seen = convnet(), []
    c = context(teacher, inputs(64))
    c = c.beside(progress=lambda what, done, total: seen.append((what, done, total)))
    Pass.parse("distill{minutes=0.02,precision=float32,patience=0}").run(damaged(teacher), c)
    assert seen and all("loss" in what and "held-out" in what for what, _, _ in seen)
    assert seen[-1][1] == seen[-1][2]


def test_early_stop() -> None:
    teacher, seen = convnet(), []
    c = context(teacher, inputs(32))
    c = c.beside(progress=lambda what, done, total: seen.append(done))
    Pass.parse("distill{minutes=0,steps=200,rate=1e-30,patience=2,precision=float32}").run(damaged(teacher), c)
    assert len(seen) == 2


def test_the_highest_rate_that_helps_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwgraph.passes.recover.optimizers.RATES", {"adam": (1e12, 10.0, 2e-3, 1e-4)})
    teacher = convnet()
    student, c = damaged(teacher, noise=0.15), context(teacher, inputs(96))
    Pass.parse("distill{minutes=0,steps=100,batch=16,precision=float32}").run(student, c)
    (gain,) = c.gains
    assert gain.kept and "(rate 0.002)" in gain.what
    feeds = inputs(64, seed=9)
    assert distance(student, teacher, feeds) < 0.6 * distance(damaged(teacher, noise=0.15), teacher, feeds)


def test_a_rate_is_not_judged_by_the_first_steps_of_its_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwgraph.passes.recover.optimizers.RATES", {"adam": (0.02, 1e-3, 1e-4)})
    teacher = convnet()
    student = damaged(teacher, noise=0.05)
    text = "distill{minutes=0,steps=1,batch=16,precision=float32}"  # a trial's share is one step
    for trial_steps in (1, 12):
        monkeypatch.setattr("lwgraph.passes.recover.training.TRIAL_STEPS", trial_steps)
        c = context(teacher, inputs(96))
        Pass.parse(text).run(ir.clone(student), c)
        assert ("(rate 0.02)" in c.gains[0].what) == (trial_steps == 1)


def test_where_trials_take_too_long_the_lowest_rate_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwgraph.passes.recover.training.TRIALS_SHARE", 1e-9)
    teacher = convnet()
    c = context(teacher, inputs(96))
    Pass.parse("distill{minutes=0.005,batch=16,precision=float32}").run(damaged(teacher), c)
    assert "rate 3e-06" in c.gains[0].what


def test_an_equal_model_is_not_trained() -> None:
    teacher = convnet()
    student, c = ir.clone(teacher), context(teacher, inputs(32))
    assert Pass.parse("distill{minutes=1}").run(student, c) == 0
    assert ir.fingerprint(student) == ir.fingerprint(teacher)
    assert c.skipped[0].reason == "its outputs are those of the original"


def test_time_that_is_over_before_the_first_step_is_told_and_kept() -> None:
    teacher = convnet()
    student, c = damaged(teacher), context(teacher, inputs(32))
    before = ir.fingerprint(student)
    assert Pass.parse("distill{minutes=1e-6}").run(student, c) == 0
    assert ir.fingerprint(student) == before
    assert "6e-05 s had passed before the first step; raise minutes" in c.skipped[0].reason


def test_divergence_is_one_line() -> None:
    teacher = convnet()
    with pytest.raises(DataError, match="use a smaller rate") as info:
        Pass.parse("distill{minutes=0,steps=300,rate=1e12,optimizer=sgd,clip=0,precision=float32}").run(
            damaged(teacher), context(teacher, inputs(32))
        )
    assert "\n" not in str(info.value)


def test_checkpoint_and_resume(tmp_path: Path) -> None:
    teacher, path = convnet(), tmp_path / "run.pt"
    text = STEPS.replace("60", "40") + f',checkpoint="{path}"' + "}"
    stopped = damaged(teacher)
    c = context(teacher, inputs(64))

    def stop(what: str, done: int, total: int) -> None:
        if done >= 500:
            raise KeyboardInterrupt

    c = c.beside(progress=stop)
    with pytest.raises(KeyboardInterrupt):
        Pass.parse(text).run(stopped, c)
    assert ir.fingerprint(stopped) == ir.fingerprint(damaged(teacher))  # the model is written at the end only
    seen = []
    c = context(teacher, inputs(64))
    c = c.beside(progress=lambda what, done, total: seen.append(done))
    resumed = damaged(teacher)
    assert Pass.parse(text).run(resumed, c) > 0
    assert min(seen) > 500  # it went on where it had stopped
    assert sorted(os.listdir(tmp_path)) == ["run.pt"]
    with pytest.raises(DataError, match="belongs to another model or other settings"):
        Pass.parse(text.replace("steps=40", "steps=41")).run(damaged(teacher), context(teacher, inputs(64)))
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be read"):
        Pass.parse(text).run(damaged(teacher), context(teacher, inputs(64)))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("rate=-1", "option 'rate' is -1.0; allowed: 0 or more"),
        ("held_out=1", "'held_out' is 1.0; allowed: above 0, be"),
        ("objective=kll", "did you mean 'kl'"),
        ("objective=mse:-1", "weight"),
        ("augment=flop", "did you mean 'flip'"),
        ("steps=0,minutes=0", "needs a limit"),
    ],
)
def test_options_are_judged_before_any_work(option: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pass.parse(f"distill{{{option}}}")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("objective=labels", "needs data with labels"),
        ("features=[nothing]", "not computed by both"),
    ],
)
def test_one_line_errors(option: str, message: str) -> None:
    teacher = convnet()
    with pytest.raises((UsageError, ModelError), match=message) as info:
        Pass.parse(f"distill{{steps=1,{option}}}").run(damaged(teacher), context(teacher, inputs(8)))
    assert "\n" not in str(info.value)


def test_labels_where_there_are_any() -> None:
    teacher = convnet()

    class Labelled(list):  # type: ignore[type-arg]
        labels = np.arange(64) % 5

    c = context(teacher, Labelled(inputs(64)))
    assert Pass.parse(STEPS + ",objective=labels}").run(damaged(teacher), c) > 0
    assert c.gains[0].after < c.gains[0].before


def test_a_quantized_model_is_distilled_as_it_is() -> None:
    teacher = convnet()
    student = damaged(teacher, bits=3)
    kinds = [v.dtype for v in student.graph.initializers.values()]
    before = distance(student, teacher, inputs(64, seed=9))
    assert Pass.parse(STEPS + "}").run(student, context(teacher, inputs(96))) > 0
    assert [v.dtype for v in student.graph.initializers.values()] == kinds
    codes = ir.constant(student.graph.initializers["w1_codes"])
    assert codes.min() >= -128 and np.unique(codes).size > 2
    assert distance(student, teacher, inputs(64, seed=9)) < 0.7 * before


def test_two_processes_agree_on_one_model(tmp_path: Path) -> None:
    teacher = convnet()
    ir.save(teacher, tmp_path / "teacher.onnx")
    ir.save(damaged(teacher), tmp_path / "student.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([f["x"] for f in inputs(64)]))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "lwgraph.passes.recover",
        str(tmp_path / "student.onnx"),
        "--teacher",
        str(tmp_path / "teacher.onnx"),
        "--data",
        str(tmp_path / "data.npz"),
        "-o",
        str(tmp_path / "out.onnx"),
        "-p",
        STEPS.replace("60", "20") + "}",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("held-out loss") == 1  # process 0 speaks for all
    out, feeds = ir.load(tmp_path / "out.onnx"), inputs(64, seed=9)
    assert distance(out, teacher, feeds) < 0.9 * distance(damaged(teacher), teacher, feeds)


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    teacher, text = convnet(), STEPS.replace("60", "40") + ",augment=flip+shift"
    through = damaged(teacher)
    Pass.parse(text + "}").run(through, context(teacher, inputs(64)))
    text += f',checkpoint="{tmp_path / "run.pt"}"' + "}"
    c = context(teacher, inputs(64))

    def stop(what: str, done: int, total: int) -> None:
        if done >= 500:
            raise KeyboardInterrupt

    c = c.beside(progress=stop)
    with pytest.raises(KeyboardInterrupt):
        Pass.parse(text).run(damaged(teacher), c)
    resumed = damaged(teacher)
    Pass.parse(text).run(resumed, context(teacher, inputs(64)))
    assert ir.fingerprint(resumed) == ir.fingerprint(through)


def test_labels_are_not_mixed() -> None:
    class Labelled(list[Any]):
        labels = np.zeros(32, np.int64)
        augment = ("flip", "mixup")

    teacher, text = convnet(), STEPS.replace("60", "2") + ",objective=labels"
    with pytest.raises(UsageError, match="mixup"):
        Pass.parse(text + ",augment=mixup}").run(damaged(teacher), context(teacher, Labelled(inputs(32))))
    Pass.parse(text + ",augment=auto}").run(damaged(teacher), context(teacher, Labelled(inputs(32))))


@pytest.mark.parametrize(
    ("most", "has", "expected"),
    [
        (1e9, True, "bfloat16"),
        (0.0, True, "gradients"),
        (1e9, False, "float32"),
    ],
)
def test_bfloat16_is_used_as_far_as_it_rounds_little(
    most: float, has: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lwgraph.passes.recover.training import Trainer

    monkeypatch.setattr("lwgraph.passes.recover.training.MOST_ROUNDING", most)
    monkeypatch.setattr("lwgraph.passes.recover.optimizers.processor_has_bfloat16", lambda: has)
    seen, step = set(), Trainer._loss

    def recorded(self: Trainer, fed: Any) -> Any:
        loss = step(self, fed)
        seen.add((self.progress.precision, self.student.mode.rounded_gradients))
        return loss

    monkeypatch.setattr(Trainer, "_loss", recorded)
    teacher = convnet()
    Pass.parse("distill{minutes=0,steps=2,batch=16,rate=1e-3}").run(damaged(teacher), context(teacher, inputs(32)))
    assert seen == {(expected, expected == "gradients")}


@pytest.mark.parametrize(("limit", "batch"), [("minutes=0,steps=4", 64), ("minutes=0.001", 4), ("minutes=100", 64)])
def test_the_batch_is_what_the_time_allows(limit: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from lwgraph.passes.recover.training import Trainer

    seen = []
    monkeypatch.setattr(Trainer, "_looked", lambda self, started: seen.append(self.progress.batch) or 1 / 0)
    teacher = convnet()
    with pytest.raises(ZeroDivisionError):
        Pass.parse(f"distill{{{limit},precision=float32}}").run(damaged(teacher), context(teacher, inputs(96)))
    assert seen == [batch]


def test_the_first_steps_only_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one gradient to go by, Adam's first step moves each weight by the whole rate, wherever it stands."""
    teacher, losses = convnet(), []
    for looks in (0, 10):
        monkeypatch.setattr("lwgraph.passes.recover.training.LOOKS", looks)
        seen: list[float] = []
        c = context(teacher, inputs(96))
        c = c.beside(progress=lambda what, done, total, seen=seen: seen.append(float(what.rsplit(" ", 1)[1])))
        text = "distill{minutes=0,steps=20,batch=16,rate=1e-3,warmup=0,patience=0,precision=float32}"
        Pass.parse(text).run(damaged(teacher, noise=0.01), c)
        losses.append(seen[0])
    assert losses[1] < 0.8 * losses[0]


def test_training_that_helps_nothing_is_undone_and_told() -> None:
    teacher = convnet()
    student, c = damaged(teacher), context(teacher, inputs(32))
    before = ir.fingerprint(student)
    assert Pass.parse("distill{minutes=0,steps=4,rate=1e-30,precision=float32}").run(student, c) == 0
    assert ir.fingerprint(student) == before and "did not lower" in c.skipped[0].reason


# ------------------------------------------------------------ memory


@pytest.mark.parametrize("name", ["adam", "soap", "sgd"])
def test_the_state_of_an_optimizer_takes_the_bytes_that_are_counted(name: str) -> None:
    from lwgraph.passes.recover import optimizers

    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(size)) for size in ((24, 5, 3, 3), (24,), (3000, 10))]
    optimizer = optimizers.make(name, parameters, 1e-3, 0.0)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    kept = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    taken = sum(t.numel() * t.element_size() for t in kept)
    assert taken == pytest.approx(optimizers.state_bytes(name, parameters), rel=0.01)


def trained(monkeypatch: pytest.MonkeyPatch, memory: int | None, options: str = "") -> tuple[list[int], str]:
    """The rows that a batch may have, and the optimizer."""
    from lwgraph.passes.recover import training

    seen: list[int] = []
    used: list[str] = []
    afford, make = training.Trainer._affordable_batch, training.optimizers.make

    def afforded(self: Any) -> int:
        seen.append(afford(self))
        return seen[-1]

    def made(name: str, *more: Any) -> Any:
        used.append(name)
        return make(name, *more)

    teacher = convnet()
    found = context(teacher, inputs(80), memory_bytes=memory)
    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_affordable_batch", afforded)
        patch.setattr(training.optimizers, "make", made)
        Pass.parse(f"distill{{minutes=0,steps=2,precision=float32,rate=0.001{options}}}").run(damaged(teacher), found)
    return seen, used[0]


def test_a_batch_has_the_rows_whose_values_fit_into_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    many, _ = trained(monkeypatch, 1 << 33)
    free, _ = trained(monkeypatch, None)
    assert many == free == [64]
    rows = [trained(monkeypatch, memory, ",optimizer=sgd")[0][0] for memory in (1 << 19, 1 << 20)]
    assert 1 <= rows[0] < rows[1] <= 64


def test_soap_gives_way_to_adam_where_its_state_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = ",objective=mse"
    assert trained(monkeypatch, None, objective)[1] == "soap"
    from lwgraph.passes.recover import training

    room = training.room
    monkeypatch.setattr(training, "room", lambda *models, memory: -1 if models[-1] == "soap" else room(*models, memory))
    assert trained(monkeypatch, 1 << 24, objective)[1] == "adam"


def test_what_cannot_be_trained_in_the_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"training takes .* MB for weights and the state of \w+ alone, and 0 MB are"):
        trained(monkeypatch, 1000)


@pytest.mark.parametrize(("options", "most"), [("steps=4", 2), ("steps=4,rate=0.001", 1)])
def test_no_more_states_of_the_optimizer_are_held_than_are_counted(
    options: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One, and while rates are tried the one that each trial begins with; each takes twice what the weights do."""
    from lwgraph.passes.recover import training

    known: list[weakref.ref[Any]] = []
    seen: list[int] = []
    step, make, weights = training.Trainer._step, training.optimizers.make, list[int]()

    def alive() -> int:
        return len({id(state) for ref in known if (state := ref()) is not None})

    def noted(self: Any, *more: Any, **options: Any) -> float:
        found = step(self, *more, **options)
        states = [t for state in self._optimizer.state.values() for t in state.values() if t.numel() > 1]
        known.extend(map(weakref.ref, states))
        weights.append(len(self._parameters))
        seen.append(alive())
        return found

    def made(*options: Any) -> Any:
        seen.append(alive())
        return make(*options)

    monkeypatch.setattr(training.Trainer, "_step", noted)
    monkeypatch.setattr(training.optimizers, "make", made)
    monkeypatch.setattr(training, "TRIAL_STEPS", 2)
    monkeypatch.setattr(training, "HARMLESS", 0.0)  # all rates are tried
    teacher = convnet()
    text = f"distill{{minutes=0,batch=16,precision=float32,optimizer=adam,{options}}}"
    Pass.parse(text).run(damaged(teacher), context(teacher, inputs(96)))
    assert max(seen) == 2 * most * weights[0]  # Adam's state is two arrays for each weight
    assert seen[-1] == 2 * weights[0]
