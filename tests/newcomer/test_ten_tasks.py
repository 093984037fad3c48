"""Ten tasks as a newcomer would do them, each from an empty folder, in at most ten lines of their own.

What a task is given, a model, images, a package, is written by `given`; what the newcomer writes is between the quotes.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from lwgraph.cli import main
from tests.cli.conftest import small_model

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("no_trials")  # what is found does not matter here
MOST = 10  # lines of the newcomer's own


@pytest.fixture
def folder(tmp_path, monkeypatch, cache):
    """An empty folder, and a cache that holds nothing of other tests."""
    monkeypatch.setenv("LWGRAPH_CACHE", str(tmp_path / ".cache"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def given(work, *, images=False, samples=False):
    """A small classifier, and what it may be fed with."""
    onnx.save(small_model(), work / "model.onnx")
    rng = np.random.default_rng(0)
    bright = rng.standard_normal((48, 3, 1, 1)) * 3  # so that there are several classes
    if images:
        for name in ("cat", "dog"):
            (work / "images" / name).mkdir(parents=True)
            for k in range(8):
                pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
                Image.fromarray(pixels).save(work / "images" / name / f"{k}.png")
    if samples:
        np.savez(work / "calib.npz", x=(bright + rng.standard_normal((48, 3, 16, 16))).astype(np.float32))


def own(text):
    """The newcomer's lines, counted."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    assert len(lines) <= MOST
    return "\n".join(lines) + "\n"


def python(text):
    """Run a script."""
    exec(compile(own(text), "script.py", "exec"), {"__name__": "__main__"})


def shell(text, patch, capfd, codes=(0,)):
    """Run lines of a shell, `lwgraph` in this process; what they printed. The last one ends with one of `codes`."""
    *_, last = own(text).splitlines()
    capfd.readouterr()
    for line in own(text).splitlines():
        words = shlex.split(line)
        if words[0] != "lwgraph":
            subprocess.run([sys.executable, *words[1:]], check=True, timeout=300)
            continue
        with patch.context() as inner, pytest.raises(SystemExit) as ended:
            inner.setattr(sys, "argv", words)
            main()
        assert ended.value.code in (codes if line == last else (0, 1, 3)), str(capfd.readouterr())
    return capfd.readouterr().out


def test_1_a_classifier_with_an_image_folder(folder, monkeypatch, capfd):
    given(folder, images=True)
    told = shell(
        "lwgraph optimize model.onnx --data images/ --preprocess scale=1/255 --max-drop 1",
        *(monkeypatch, capfd, (0, 3)),
    )
    assert "written: model.lw.onnx" in told and Path("model.lw.onnx").exists()


def test_2_a_detector_with_a_metric_of_ones_own(folder):
    given(folder, samples=True)
    python(
        """
import numpy as np, lwgraph

X = np.random.default_rng(1).standard_normal((32, 3, 16, 16)).astype(np.float32)
boxes = np.zeros((32, 10), np.float32)  # what the detector should have found

def metric(run):
    return -float(np.abs(run({"x": X})["logits"] - boxes).mean())

lwgraph.optimize("model.onnx", data="calib.npz", metric=metric, max_drop=1.0).save("smaller.onnx")
"""
    )
    assert Path("smaller.onnx").exists()


def test_3_from_a_training_script(folder, capfd):
    pytest.importorskip("torch")
    given(folder)
    capfd.readouterr()
    python(
        """
import torch, lwgraph
from torch.utils.data import DataLoader, TensorDataset
data = TensorDataset(3 * torch.randn(64, 3, 1, 1) + torch.randn(64, 3, 16, 16), torch.randint(0, 10, (64,)))
result = lwgraph.optimize("model.onnx", data=DataLoader(data, batch_size=16), max_drop=0.9)
print(result.report.score.name, result.report.score.samples)
"""
    )
    name, samples = capfd.readouterr().out.split()
    assert name == "top1" and int(samples) > 4  # the loader's labels judge


def test_4_in_a_notebook(folder):
    """A cell that ends in the result shows it by `_repr_html_`."""
    given(folder)
    python(
        """
from pathlib import Path
import lwgraph
result = lwgraph.optimize("model.onnx")
Path("cell.html").write_text(result._repr_html_())
Path("cell.txt").write_text(repr(result))
"""
    )
    assert "<table>" in Path("cell.html").read_text()
    assert len(Path("cell.txt").read_text().splitlines()) == 3


@pytest.mark.parametrize(("limit", "code", "verdict"), [("50kB", 0, "kept"), ("1kB", 1, "broken")])
def test_5_in_continuous_integration(folder, monkeypatch, capfd, limit, code, verdict):
    given(folder)
    line = f"lwgraph optimize model.onnx -o small.onnx --max-bytes {limit} --strict --json"
    assert json.loads(shell(line, monkeypatch, capfd, (code,)))["verdict"] == verdict


def test_6_with_olive(folder):
    pytest.importorskip("olive")
    given(folder, samples=True)
    shutil.copy(ROOT / "examples" / "olive" / "workflow.json", folder)
    python(
        """
from olive.workflows import run
from lwgraph.adapters.olive import PACKAGE_CONFIG
run("workflow.json", package_config=PACKAGE_CONFIG)
"""
    )
    assert list((folder / "smaller").rglob("*.onnx"))


def test_7_a_custom_pass_in_a_package(folder):
    """The package of the examples, installed: found on the command line by the name of its entry point."""
    given(folder)
    shutil.copytree(ROOT / "examples" / "merge-muls", folder / "package")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", "--target", "site", "./package"], check=True, timeout=300)
    lines = own(
        """
lwgraph passes merge-muls
lwgraph optimize model.onnx -p clean,merge-muls
"""
    )
    code = "import sys; sys.path.insert(0, 'site'); from lwgraph.cli import main; sys.argv = sys.argv[1:]; main()"
    told = []
    for line in lines.splitlines():
        done = subprocess.run(
            [sys.executable, "-c", code, *shlex.split(line)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout)
    assert "(rounding)" in told[0] and "written: model.lw.onnx" in told[1]


def test_8_a_custom_form_in_a_file(folder, monkeypatch, capfd):
    given(folder, samples=True)
    shutil.copy(ROOT / "examples" / "pair-form" / "pair.py", folder)
    line = "lwgraph optimize model.onnx --data calib.npz -p 'clean,pair.py:Pair{rank=24}' --max-drop 1 --json"
    report = json.loads(shell(line, monkeypatch, capfd, (0, 3)))
    assert "pair.py:Pair{rank=24}" in report["recipe"] and report["passes"][-1]["rewrites"] > 0


def test_9_a_plan_for_another_device(folder, monkeypatch, capfd):
    given(folder, samples=True)
    told = shell(
        """
lwgraph measure model.onnx --export kit/ --quiet
python kit/measure.py --name pi5 --seconds 0.001 -o table.json
lwgraph measure --import table.json
lwgraph optimize model.onnx --target pi5 --data calib.npz --max-drop 1
""",
        *(monkeypatch, capfd, (0, 3)),
    )
    assert "prices of pi5" in told and "written: model.lw.onnx" in told


def test_10_another_point_of_the_front(folder, monkeypatch, capfd):
    given(folder, samples=True)
    told = shell(
        """
lwgraph optimize model.onnx --data calib.npz --max-drop 0.3
lwgraph plan pick 1 model.onnx -o other.onnx
""",
        *(monkeypatch, capfd),
    )
    assert "plan 1" in told and Path("other.onnx").exists()
