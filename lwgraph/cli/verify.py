"""lwgraph verify: checks whether two models compute the same."""

from __future__ import annotations

import click

from lwgraph.cli.common import (
    console,
    data_option,
    output_options,
    parse_shapes,
    preprocess_option,
    print_json,
    shape_option,
)

SAMPLES = 8


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@data_option
@preprocess_option
@shape_option
@click.option(
    "--executor",
    default="ort",
    show_default=True,
    metavar="E",
    help="ort, reference, openvino (openvino:bf16: in bfloat16), or several (reference,ort).",
)
@click.option(
    "--emulate",
    type=click.Choice(["no-vnni"]),
    help="Make the reference executor compute integer products as older processors do (16-bit pair sums saturate).",
)
@click.option(
    "--labels",
    metavar="FILE",
    help="The labels.csv of lwgraph optimize --label-these, filled in: tell what accuracy B loses against A.",
)
@click.option("--max-drop", type=float, metavar="X", help="With --labels: the largest loss allowed (0.01 = 1 point).")
@click.option(
    "--confidence",
    type=float,
    default=0.95,
    show_default=True,
    metavar="C",
    help="With --labels: confidence of the bounds for new inputs, over 0.5 and below 1.",
)
@output_options
def command(
    a: str,
    b: str,
    data: str | None,
    preprocess: str | None,
    shapes: tuple[str, ...],
    executor: str,
    emulate: str | None,
    labels: str | None,
    max_drop: float | None,
    confidence: float,
    as_json: bool,
) -> int:
    """Run models A and B on the same inputs and compare their outputs up to rounding. Exit code 1 if they differ.

    With several executors, each model runs in each. Where outputs differ, the first value that does is named.

    With --labels nothing is run: what B loses of A's accuracy follows from the labels. Exit code 1 where that is surely
    more than --max-drop, 3 where it is not resolved.
    """
    if labels is not None:
        if data is not None or shapes or emulate:
            from lwgraph.errors import UsageError

            raise UsageError("--labels needs no inputs; give it without --data, --input-shape and --emulate")
        return _judge_labels(a, b, labels, max_drop, confidence, as_json)
    if max_drop is not None:
        from lwgraph.errors import UsageError

        raise UsageError("--max-drop needs --labels, which tell what is lost")
    return _compare(a, b, data, preprocess, shapes, executor, emulate, as_json)


def _judge_labels(a: str, b: str, labels: str, max_drop: float | None, confidence: float, as_json: bool) -> int:
    from pathlib import Path

    from lwgraph import ir
    from lwgraph.measure.labels import classes_of, models_of, read_labels, told
    from lwgraph.measure.promise import EXIT, amount, judge, number
    from lwgraph.optimizer.request import Request

    Request(max_drop=max_drop, confidence=confidence)  # checks both
    first, second = ir.load(a), ir.load(b)
    found = read_labels(Path(labels), models_of(first, second), classes_of(first))
    evidence = found.evidence()
    verdict = judge(evidence, 0.0 if max_drop is None else max_drop, confidence=confidence)
    assert verdict.lower is not None and verdict.bound is not None
    facts = {"samples": found.samples, "disagree": len(found.rows), "labelled": len(found.known)}
    facts |= {"lost": found.lost, "gained": found.gained}
    estimate = verdict.estimate if found.known else None
    bounds = {"estimate": estimate, "lower": verdict.lower, "bound": verdict.bound, "confidence": confidence}
    judged = {} if max_drop is None else {"max_drop": max_drop, "verdict": verdict.verdict}
    if max_drop is not None:
        judged |= {"samples_needed": verdict.samples_needed, "text": verdict.text}
    if as_json:
        print_json({"labels": labels, **facts, **bounds, "method": verdict.method, **judged})
    else:
        out = console()
        out.print(told(found), markup=False)
        best = "not known before a sample is labelled" if estimate is None else amount(estimate, "share")
        out.print(
            f"lost: {best}; on new inputs {number(verdict.lower, 'share')} to {amount(verdict.bound, 'share')} "
            f"(each end with {100 * confidence:g} % confidence)",
            markup=False,
        )
        if max_drop is not None:
            more = f"; label the other {found.unknown}" * (verdict.verdict == "not resolved" and found.unknown > 0)
            out.print(f"promise {verdict.verdict}: {verdict.text}{more}", markup=False)
    return 0 if max_drop is None else EXIT[verdict.verdict]


def _compare(
    a: str,
    b: str,
    data: str | None,
    preprocess: str | None,
    shapes: tuple[str, ...],
    executor: str,
    emulate: str | None,
    as_json: bool,
) -> int:
    from lwgraph import ir, registry
    from lwgraph.calibrate import generate, open_data
    from lwgraph.calibrate.generate import tried
    from lwgraph.calibrate.signature import fits, signature
    from lwgraph.check import accept
    from lwgraph.errors import UsageError
    from lwgraph.executor import Feeds
    from lwgraph.measure import compare_runs
    from lwgraph.measure.diverge import first_divergence
    from lwgraph.measure.variants import variants
    from lwgraph.rewrite import Contract

    first, second = ir.load(a), ir.load(b)
    accept(first)
    accept(second)
    names = [name.strip() for name in executor.split(",")]
    if emulate and "reference" not in names:
        raise UsageError(f"--emulate {emulate} needs the reference executor; add --executor reference,ort")
    # Integer products exist only where quantized groups are run as a runtime fuses them.
    special = {"reference": {"emulate": emulate, "qdq": "integer"}} if emulate else {}
    executors = [registry.executor(name, **special.get(name, {})) for name in names]
    if data is None:
        feeds: list[Feeds] = list(generate(first, SAMPLES, shapes=parse_shapes(shapes), executor=executors[0]))
        more = variants(first, feeds, executors[0].prepare(first))
        feeds += [each.feeds for each in more if each.counts(Contract.ROUNDING) and fits(signature(second), each.feeds)]
    else:
        feeds = list(open_data(data, first, preprocess=preprocess, limit=SAMPLES))
    pairs = [(f"{a} and {b}, {e.name}", (first, e), (second, e)) for e in executors]
    pairs += [
        (f"{name}, {executors[0].name} and {e.name}", (model, executors[0]), (model, e))
        for e in executors[1:]
        for name, model in ((a, first), (b, second))
    ]
    results = []
    for what, (left, one), (right, other) in pairs:
        found = compare_runs(one.prepare(left), other.prepare(right), feeds, Contract.ROUNDING)
        entry = {"what": what, "equal": found.ok, "detail": str(found)}
        if not found.ok and found.first_failure is not None:
            feed = feeds[found.first_failure.sample or 0]
            place = first_divergence(left, right, one, other, feed, Contract.ROUNDING)
            entry["first_divergence"] = "" if place is None else str(place)
        results.append(entry)
    equal = all(bool(r["equal"]) for r in results)
    if as_json:
        facts = {"samples": len(feeds), "data": data or "generated", "tried": tried(feeds)}
        print_json({"equal": equal, **facts, "comparisons": results})
    else:
        if data is None:
            console().print(f"tried on {tried(feeds)}")
        for r in results:
            console().print(f"{'equal' if r['equal'] else 'DIFFERENT'}: {r['what']}: {r['detail']}", markup=False)
            if r.get("first_divergence"):
                console().print(f"  first: {r['first_divergence']}", markup=False)
    return 0 if equal else 1
