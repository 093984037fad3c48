"""lwgraph as a quantizer of Optimum (`lwgraph[optimum]`): for ONNX Runtime models of the Hugging Face libraries."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from optimum.quantization_base import OptimumQuantizer

import lwgraph
from lwgraph.errors import UsageError

_BESIDE = ("*.json", "*.txt", "*.model", "*.jinja")  # configuration and tokenizer, which the model is loaded with


class LwgraphQuantizer(OptimumQuantizer):
    """Makes a model smaller and faster, and proves it; used as `ORTQuantizer` is.

        quantizer = LwgraphQuantizer.from_pretrained("model_folder")
        quantizer.quantize(save_dir="smaller", data=dataset, max_drop=0.01)
        model = ORTModelForSequenceClassification.from_pretrained("smaller", file_name="model_lw.onnx")

    Args:
        onnx_model_path: the file.

    Attributes:
        result: the `lwgraph.Result` of the last call of `quantize`; None before.
    """

    def __init__(self, onnx_model_path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.onnx_model_path = Path(onnx_model_path)
        self.result: lwgraph.Result | None = None

    @classmethod
    def from_pretrained(cls, model_or_path: Any, file_name: str | None = None) -> LwgraphQuantizer:
        """From a folder with an ONNX file, that file, or an `ORTModel`.

        Args:
            model_or_path: the folder, the file or the model.
            file_name: which file of the folder; None: the only one there.

        Raises:
            UsageError: there is no such file, or several and none is named.
        """
        if not isinstance(model_or_path, (str, os.PathLike)):
            files = list(_session_files(model_or_path))
            if len(files) != 1:
                names = ", ".join(file.name for file in files) or "none"
                raise UsageError(f"the model has {len(files)} ONNX files ({names}); give the path of one of them")
            return cls(files[0])
        path = Path(model_or_path)
        if path.is_file() and file_name is None:
            return cls(path)
        found = [path / file_name] if file_name is not None else sorted(path.glob("*.onnx"))
        if len(found) != 1 or not found[0].is_file():
            names = ", ".join(file.name for file in sorted(path.glob("*.onnx"))) or "none"
            raise UsageError(f"'{path}' must hold one ONNX file, or the one that file_name= names; it has: {names}")
        return cls(found[0])

    def quantize(self, save_dir: str | os.PathLike[str], file_suffix: str | None = "lw", **asked: Any) -> Path:
        """Optimize the model, and write it into a folder with the configuration and tokenizer files beside it.

        Args:
            save_dir: the folder; it is made where there is none.
            file_suffix: goes behind the name, as "lw" in model_lw.onnx; None or "" for nothing.
            **asked: arguments of `lwgraph.optimize`, such as data=, eval_data=, metric=, max_drop=.

        Returns:
            the folder.

        Raises:
            LwgraphError: as `lwgraph.optimize`. A promise that is not kept is no error: see `result.verdict`.
        """
        self.result = lwgraph.optimize(self.onnx_model_path, **asked)
        folder, source = Path(save_dir), self.onnx_model_path
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{source.stem}_{file_suffix}{source.suffix}" if file_suffix else source.name
        self.result.save(folder / name, overwrite=True)
        if folder.resolve() != source.parent.resolve():
            for pattern in _BESIDE:
                for beside in source.parent.glob(pattern):
                    shutil.copy2(beside, folder / beside.name)
        return folder


def _session_files(model: Any) -> set[Path]:
    """The files of an ORTModel's sessions."""
    found = set()
    for part in vars(model).values():
        path = getattr(part, "_model_path", None) or getattr(getattr(part, "session", None), "_model_path", None)
        if path:
            found.add(Path(path))
    return found


__all__ = ["LwgraphQuantizer"]
