"""The samples to label: which are written, how, and what the command line makes of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

from lwgraph import ir, optimize, registry
from lwgraph.calibrate import open_data
from lwgraph.cli import cli
from lwgraph.errors import UsageError
from lwgraph.optimizer.label_these import write_disagreements
from tests.cli.documents import check

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[n,1,8,8] x) => (float[n,2] y)
<float[64,2] w = {WEIGHTS}>
{ f = Flatten(x)  y = MatMul(f, w) }
"""
PIXELS = np.random.default_rng(0).normal(size=(400, 1, 8, 8)).astype(np.float32)


def model(shift: float = 0.0) -> ir.Model:
    weights = np.random.default_rng(1).normal(size=128).round(3)
    weights[0] += shift
    text = TEXT.replace("{WEIGHTS}", "{" + ", ".join(f"{w:g}" for w in weights) + "}")
    return ir.load(onnx.parser.parse_model(text).SerializeToString())


def disagreeing(first: ir.Model, second: ir.Model, pixels: np.ndarray) -> list[int]:
    classes = [registry.executor("ort").prepare(m)({"x": pixels})["y"].argmax(1) for m in (first, second)]
    return np.flatnonzero(classes[0] != classes[1]).tolist()


def test_the_samples_on_which_two_models_disagree_are_written(tmp_path: Path) -> None:
    first, second = model(), model(1.0)
    reader = open_data({"x": PIXELS}, first)
    found = write_disagreements(tmp_path, first, second, registry.executor("ort"), reader)
    wanted = disagreeing(first, second, PIXELS)
    assert 5 < len(wanted) < 60 and [row.file for row in found.rows] == [f"{i:06d}.png" for i in wanted]
    assert found.samples == 400 and all(row.label is None for row in found.rows)
    with Image.open(tmp_path / found.rows[0].file) as image:
        seen = np.asarray(image, float)
    assert seen.shape == (8, 8) and np.corrcoef(seen.ravel(), PIXELS[wanted[0]].ravel())[0, 1] > 0.999
    rows = list(csv.DictReader((tmp_path / "labels.csv").read_text().splitlines()))
    assert len(rows) == len(wanted) and rows[0]["label"] == "" and rows[0]["samples"] == "400"


def test_image_files_are_copied_as_they_are(tmp_path: Path) -> None:
    source, folder = tmp_path / "images", tmp_path / "out"
    source.mkdir()
    folder.mkdir()
    for i in range(60):
        scaled = (PIXELS[i, 0] * 40 + 128).clip(0, 255).astype(np.uint8)
        Image.fromarray(scaled).save(source / f"{i:02d}.bmp")
    first, second = model(), model(4.0)
    reader = open_data(source, first, preprocess="scale=1/40,mean=3.2")
    found = write_disagreements(folder, first, second, registry.executor("ort"), reader.subset(range(9, 60)))
    assert found.rows and found.samples == 51
    for row in found.rows:
        original = source / f"{int(row.file[:6]) + 9:02d}.bmp"
        assert (folder / row.file).read_bytes() == original.read_bytes()


def test_what_is_no_image_is_an_array(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[n,3] x) => (float[n,3] y) { y = %s(x) }'
    first, second = (ir.load(onnx.parser.parse_model(text % kind).SerializeToString()) for kind in ("Identity", "Neg"))
    data = np.eye(3, dtype=np.float32)
    found = write_disagreements(tmp_path, first, second, registry.executor("ort"), open_data({"x": data}, first))
    assert [row.file for row in found.rows] == [f"{i:06d}.npz" for i in range(3)]
    with np.load(tmp_path / "000001.npz") as stored:
        assert stored["x"].tolist() == [[0, 1, 0]]


def run(*words: Any) -> tuple[int, str]:
    found = CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)
    if found.exception is not None:
        raise found.exception
    return int(found.return_value or 0), found.output


def test_from_the_run_to_the_exact_loss(tmp_path: Path) -> None:
    source, result, folder = tmp_path / "m.onnx", tmp_path / "m.lw.onnx", tmp_path / "few"
    ir.save(model(), source)
    found = optimize(
        source,
        data={"x": PIXELS},
        pipeline="round-weights{bits=4}",
        label_these=folder,
        max_drop=0.9,
        output_kind="classes",
    )
    found.save(result)
    facts = found.report.details["label_these"]
    assert facts["samples"] == found.report.score.samples > 100 and facts["disagree"] > 0
    assert any("fill in the column 'label'" in note for note in found.report.notes)

    status, text = run("verify", source, result, "--labels", folder / "labels.csv", "--max-drop", "0.5", "--json")
    empty = json.loads(text)
    check(empty, "verify-labels")
    assert (status, empty["verdict"], empty["labelled"], empty["estimate"]) == (0, "kept", 0, None)

    rows = list(csv.reader((folder / "labels.csv").read_text().splitlines()))
    for row in rows[1:]:
        row[3] = row[1]  # the input was right
    (folder / "labels.csv").write_text("\n".join(",".join(row) for row in rows))
    _, text = run("verify", source, result, "--labels", folder / "labels.csv", "--json")
    full = json.loads(text)
    check(full, "verify-labels")
    assert full["lost"] == full["disagree"] == len(rows) - 1 and full["gained"] == 0 and "verdict" not in full
    assert full["estimate"] == pytest.approx(full["lost"] / full["samples"])
    assert full["lower"] > empty["lower"] and full["bound"] < empty["bound"] + 1e-12
    status, text = run("verify", source, result, "--labels", folder / "labels.csv", "--max-drop", "0.0001")
    assert status in (1, 3) and f"{full['lost']} right before" in text and "promise " in text


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"data": {"x": PIXELS, "labels": np.zeros(400, int)}}, "which the data have"),
        ({"data": {"x": PIXELS}, "output_kind": "other"}, "one class for each sample"),
        ({"data": {"x": PIXELS}, "metric": lambda run: 1.0, "output_kind": None}, "no metric of your own"),
        ({}, "samples of data="),
        ({"data": {"x": PIXELS[:2]}}, "at least three samples"),
    ],
)
def test_where_labels_would_say_nothing(tmp_path: Path, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        optimize(
            model(),
            pipeline="round-weights{bits=4}",
            label_these=tmp_path / "few",
            **{"output_kind": "classes"} | asked,
        )


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(UsageError, match="not an empty folder"):
        optimize(
            model(), data={"x": PIXELS}, pipeline="round-weights{bits=4}", label_these=tmp_path, output_kind="classes"
        )


def test_options_of_verify_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--labels needs no inputs"):
        run("verify", "a", "b", "--labels", "c", "--data", "d")
    with pytest.raises(UsageError, match="--max-drop needs --labels"):
        run("verify", "a", "b", "--max-drop", "0.1")
