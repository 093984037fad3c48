"""What optimize returns."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwgraph import ir, registry, report
from lwgraph.report import brief

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from lwgraph.plan.plan import Plan


@dataclass(frozen=True, repr=False)
class Result:
    """The new model and how it came about.

    Attributes:
        model: the result; the input itself when nothing helped.
        report: everything that was found; `report.to_dict()` is the JSON report.
        plan: the form of each rewritten layer; empty when none was.
        kept: whether every promise (max_drop, speedup) that was stated holds, and no default one is known to be broken;
            where `report.unproven`, on generated inputs.
        untouched: the input's file, when nothing helped: it is then copied byte for byte.
        status: the exit code of the command line: 0 where `kept`, 1 where a promise is broken, 3 where the samples do
            not resolve whether max_drop holds; `report.score.text` says how many would.
    """

    model: ir.Model
    report: report.Report
    plan: Plan
    kept: bool
    untouched: Path | None = None
    status: int = 0

    @property
    def verdict(self) -> str:
        """On all promises together: "kept", "broken", or "not resolved" where the samples are too few to tell."""
        return self.report.verdict

    def __repr__(self) -> str:
        return brief.three_lines(self.report, self.verdict)

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return brief.table(self.report, self.verdict)

    def to_proto(self) -> onnx.ModelProto:
        """The model as a ModelProto; ModelError where it is over protobuf's 2 GB."""
        return ir.to_proto(self.model)

    def session(self, threads: int | None = None) -> onnxruntime.InferenceSession:
        """The model in ONNX Runtime on this machine's processor, ready to run.

        Args:
            threads: of the runtime; None: as many as it was measured with.

        Raises:
            UsageError: there is no such number of threads.
        """
        executor = registry.executor("ort", threads=self.report.threads if threads is None else threads)
        run: Any = executor.prepare(self.model)
        session: onnxruntime.InferenceSession = run.session
        session.lent_by = (
            run  # ONNX Runtime does not own the weights that it was lent: they live as long as the session
        )
        return session

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model; see `lwgraph.ir.save`. The report says from then on how many bytes were written."""
        if self.untouched is not None and not self.model.meta.get("external_data"):
            ir.copy_file(self.untouched, path, overwrite=overwrite)
        else:
            self.report.stages[-1].facts.bytes = ir.save(self.model, path, overwrite=overwrite)

    def write_report(self, folder: str | os.PathLike[str]) -> Path:
        """Write report.html, report.json and plan.json into `folder`; return the path of the page."""
        page = report.write(self.report, folder)
        page.with_name("plan.json").write_text(self.plan.to_json(), encoding="utf8")
        return page
