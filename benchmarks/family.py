"""A family of three beside runs made for each member alone: speed at the same points, and bytes of all together.

A run for a member may lose what that member loses, by all samples of the metric or by its own estimate, whichever is
more. What it delivers keeps that with some certainty, and so loses less; members are chosen along the front without
that, and so what a member is raced against is the fastest plan of its own run's front whose estimate is no higher.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from benchmarks import judge, run, tables, whole
from benchmarks.zoo import Case, cache
from lwgraph import ir
from lwgraph.family import load_family
from lwgraph.optimizer import front

KIND = "family"
PAGE = Path(__file__).resolve().parent / "FAMILY.md"
NAMES = ("fmnist_resnet14", "orinet", "vit_fmnist")
MEMBERS = ("small", "medium", "large")
SECONDS = 20.0  # of timing a member beside its own run
Row = dict[str, Any]


def case(name: str) -> Case:
    """The case of that name; the transformer is none of the zoo's."""
    found: Case = import_module(f"benchmarks.zoo.{name}").CASE
    return found


def _folder(name: str) -> Path:
    return cache.folder("results") / KIND / name


def _optimize(subject: Case, folder: Path, extra: Sequence[str], points: float = 1.0) -> Row:
    """One run of a case into an empty folder, from an empty cache: its figures."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ran = run.optimize(subject.model(), [*whole.options(subject, points), *extra], kept=folder)
    return whole.figures(ran, subject.points_per_unit)


def together(subject: Case, budget: Sequence[str]) -> Row:
    """The run that writes the family: its figures, its bytes over its largest member's, and what each member loses."""
    folder = _folder(subject.name)
    found = _optimize(subject, folder, ["--family", str(len(MEMBERS)), *budget])
    if found["error"]:
        return found
    members = load_family(folder / "out.family").members
    files = sum(path.stat().st_size for path in (folder / "out.family").iterdir() if path.suffix != ".json")
    base = judge.score(subject, subject.model())
    lost = {each.name: base - judge.score(subject, folder / "out.family" / each.file) for each in members}
    told = {each.name: {"estimated": each.drop, "lost": lost[each.name], "verdict": each.verdict} for each in members}
    return found | {"base": base, "members": told, "files": files / max(each.bytes for each in members)}


def _fastest(subject: Case, folder: Path, allowed: float) -> Path:
    """The fastest plan of the front of the run in a folder that is estimated to lose no more than allowed."""
    source, before = ir.load(subject.model()), os.environ.get("LWGRAPH_CACHE")
    os.environ["LWGRAPH_CACHE"] = str(folder / "cache")
    try:
        plans = [front.read(source, number) for number in front.numbers(source)]
    finally:
        del os.environ["LWGRAPH_CACHE"]
        if before is not None:
            os.environ["LWGRAPH_CACHE"] = before
    fit = [made for row, made in plans if row.drop <= allowed]
    if not fit:
        return folder / "out.onnx"
    ir.save(fit[0], folder / "fastest.onnx", overwrite=True, external=False)
    return folder / "fastest.onnx"


def alone(subject: Case, family: Row, member: str, budget: Sequence[str]) -> Row:
    """A run that may lose what one member loses, and the race of the member with the fastest that it found."""
    told, folder = family["members"][member], _folder(subject.name)
    allowed = max(told["estimated"], told["lost"], 0.0)
    found = _optimize(subject, folder / member, budget, allowed * subject.points_per_unit)
    if found["error"]:
        return found
    own = _fastest(subject, folder / member, allowed)
    shutil.rmtree(folder / member / "cache", ignore_errors=True)
    times = judge.race(
        subject,
        {"own": own, "member": folder / "out.family" / f"{member}.onnx", "input": subject.model()},
        SECONDS,
    )
    return found | {
        "allowed": allowed * subject.points_per_unit,
        "lost": subject.points(family["base"], judge.score(subject, own)),
        "own": times.speedup("own").ratio / times.speedup("input").ratio,
        "ratio": times.speedup("member").ratio,
    }


def _report() -> str:
    """Both tables: of members, and of the files."""
    rows, sums = [], []
    for name in NAMES:
        if (family := tables.kept(KIND, name)) is None:
            continue
        if family["error"]:
            sums.append([name, family["error"].replace("|", "/"), "", "", family["commit"]])
            continue
        shown = [str(len(family["members"])), f"{family['files']:.2f}", f"{family['seconds']:.0f} s", family["commit"]]
        sums.append([name, *shown])
        for member, told in family["members"].items():
            found = tables.kept(KIND, f"{name}-{member}")
            if found is None or found["error"]:
                continue
            figures = [
                case(name).points_per_unit * told["lost"],
                found["lost"],
                found["own"] * found["ratio"],
                found["own"],
                found["ratio"],
            ]
            rows.append([name, member, *(f"{each:.2f}" for each in figures), f"{found['seconds']:.0f} s"])
    head = ["case", "member", "points lost", "own run", "speed-up", "own run", "speed over own run", "time of own run"]
    bytes_of = ["case", "members", "files over the largest member", "time", "build"]
    return "\n\n".join([tables.conditions(), tables.table(head, rows), tables.table(bytes_of, sums)])


def main(names: Sequence[str], budget: str, again: bool) -> None:
    """Run what is not kept, and write the tables after each row.

    Args:
        names: of the cases; none: all.
        budget: of each run.
        again: whether to run anew what is kept.
    """
    time = ["--budget", budget]
    for name in names or NAMES:
        subject = case(name)
        family = None if again else tables.kept(KIND, name)
        if family is None:
            family = together(subject, time)
            for member in MEMBERS:  # of an earlier family
                tables.forget(KIND, f"{name}-{member}")
            tables.keep(KIND, name, family)
            tables.write(KIND, _report(), PAGE)
        click.echo(f"{name}: {family.get('members', family['error'])}")
        for member in family.get("members", {}):
            if tables.kept(KIND, f"{name}-{member}") is None:
                tables.keep(KIND, f"{name}-{member}", alone(subject, family, member, time))
                tables.write(KIND, _report(), PAGE)
    tables.write(KIND, _report(), PAGE)
