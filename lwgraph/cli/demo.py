"""lwgraph demo: optimizes the embedded model."""

from __future__ import annotations

from pathlib import Path

import click

from lwgraph.cli.common import check_folder, console, output_options, print_json, threads_option
from lwgraph.cli.progress import Progressed

MAX_DROP = 0.01
BUDGET = 45.0  # seconds of the whole run: a first look should not take minutes
EVERY = 2  # every second calibration image is used, so that a first look does not take minutes


@click.command()
@click.option("-o", "--output", metavar="DIR", default="lwgraph-demo", show_default=True, help="Folder of the results.")
@click.option("--max-drop", type=float, help="Largest loss of accuracy allowed.  [default: 0.01, or the preset's]")
@click.option(
    "--preset",
    metavar="P",
    help="What to ask for: fast, balanced, small or lossless (which takes seconds).  [default: a short balanced run]",
)
@threads_option
@output_options
def command(output: str, max_drop: float | None, preset: str | None, threads: int, as_json: bool) -> int:
    """Optimize the embedded ResNet-14: fitted on 256 unlabelled images, judged on 2,000 labelled ones."""
    import numpy as np

    from lwgraph import demo
    from lwgraph.cli.optimize import result_document
    from lwgraph.cli.show import show_report
    from lwgraph.optimizer import Request, optimize_as

    check_folder(output, "folder", "-o")
    if preset is None and max_drop is None:
        max_drop = MAX_DROP
    folder, (feeds, labels) = Path(output), demo.evaluation()
    with Progressed() as progress:
        request = Request(
            data=demo.calibration()[::EVERY],
            eval_data={demo.INPUT: np.concatenate([feed[demo.INPUT] for feed in feeds]), "labels": labels},
            max_drop=max_drop,
            budget=BUDGET if preset is None else None,
            preset=preset,
            threads=threads,
        )
        result = optimize_as(demo.MODEL, request, progress)
        folder.mkdir(parents=True, exist_ok=True)
        result.save(folder / "fmnist_resnet14.lw.onnx", overwrite=True)
    page = result.write_report(folder)
    status: int = result.status
    if as_json:
        print_json(result_document(result, folder / "fmnist_resnet14.lw.onnx"))
        return status
    out = console()
    out.print("ResNet-14 on Fashion-MNIST: 256 unlabelled images to fit, 2,000 labelled test images to judge\n")
    show_report(out, result.report)
    out.print(f"\nwritten: {folder / 'fmnist_resnet14.lw.onnx'}\nreport:  {page}", markup=False)
    return status
