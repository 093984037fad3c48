"""python -m lwgraph.passes.recover: one recovery pass on a rewritten model; under torchrun, in several processes.

torchrun --nproc-per-node=2 -m lwgraph.passes.recover small.onnx --teacher original.onnx --data images -o out.onnx
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from lwgraph.errors import LwgraphError

if TYPE_CHECKING:
    from lwgraph.executor import Feeds


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--teacher", required=True, type=click.Path(path_type=Path), help="The original model.")
@click.option("--data", required=True, help="Calibration data, as for lwgraph optimize.")
@click.option("--preprocess", help="As for lwgraph optimize.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Where to write the result.")
@click.option("-p", "--pass", "text", default="distill", show_default=True, help="The pass with its options.")
@click.option("--threads", default=1, show_default=True, help="Threads of each process.")
@click.option("--seed", default=0, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT if it exists.")
def main(
    model: Path,
    teacher: Path,
    data: str,
    preprocess: str | None,
    output: Path,
    text: str,
    threads: int,
    seed: int,
    overwrite: bool,
) -> None:
    """Recover what MODEL lost against the model it was made from."""
    from lwgraph import ir, registry
    from lwgraph.calibrate import open_data
    from lwgraph.rewrite import Context, Pass

    first, several = int(os.environ.get("RANK", 0)) == 0, int(os.environ.get("WORLD_SIZE", 1)) > 1
    student = ir.load(model)
    reader = open_data(data, student, preprocess=preprocess)
    context = Context(
        executor=registry.executor("ort", threads=threads),
        data=cast("list[Feeds]", reader),  # iterated and counted only
        teacher=ir.load(teacher),
        seed=seed,
        threads=threads,
    )
    if first and sys.stderr.isatty():
        context = context.beside(
            progress=lambda what, done, total: click.echo(f"\r{what} ({100 * done // total} %)", nl=False, err=True)
        )
    if several:
        registry.executor("torch")  # says how to install it
        from torch import distributed

        distributed.init_process_group("gloo")
    try:
        Pass.parse(text).run(student, context)
    finally:
        if several:
            distributed.destroy_process_group()
    if first:
        for gain in context.gains:
            click.echo(str(gain))
        ir.save(student, output, overwrite=overwrite)


if __name__ == "__main__":
    try:
        main()
    except LwgraphError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
