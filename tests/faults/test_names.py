"""Names of files, folders and nodes: refused in one line before the work, and shown as they are."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lwgraph import ir
from lwgraph.cli import main


def save_model(folder: Path, node: str = "conv", name: str = "m.onnx") -> Path:
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], [f"{node}/out"], name=node),
            helper.make_node("Relu", [f"{node}/out"], ["y"], name=f"{node}/relu"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 4, 4])],
        [numpy_helper.from_array(np.ones((3, 2, 1, 1), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / name)
    return folder / name


def lwgraph(*arguments: object) -> tuple[int, str, str]:
    """The exit code of the command line, its standard output and its standard error."""
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.setattr(sys, "argv", ["lwgraph", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    return int(end.value.code or 0), out.getvalue(), error.getvalue()


def refused(model: Path, *arguments: object) -> str:
    """The one line, printed before any work."""
    code, out, error = lwgraph("optimize", model, *arguments)
    assert code == 2, error
    assert not out
    (line,) = error.splitlines()
    assert line.startswith("lwgraph: error: ")
    return line


class TestDestinations:
    def test_a_name_of_more_than_255_bytes(self, tmp_path: Path) -> None:
        model = save_model(tmp_path)
        assert "cannot be written: File name too long; name another with -o" in refused(
            model, "-o", tmp_path / ("a" * 256)
        )
        assert "File name too long" in refused(model, "-o", tmp_path / ("ü" * 128), "--overwrite")
        assert "File name too long" in refused(model, "-o", tmp_path / ("d" * 300) / "m.onnx")

    def test_a_default_name_that_becomes_too_long(self, tmp_path: Path) -> None:
        assert "File name too long" in refused(save_model(tmp_path, name="m" * 248 + ".onnx"))

    def test_a_name_of_255_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / ("a" * 255)
        ir.save(ir.load(save_model(tmp_path)), path)
        assert len(ir.load(path).graph) == 2

    @pytest.mark.parametrize("option", ["-o", "--report"])
    @pytest.mark.parametrize("name", ["", " "])
    def test_a_name_that_is_empty(self, option: str, name: str, tmp_path: Path) -> None:
        assert f"{option} is '{name}'; give a name, or leave it out" in refused(save_model(tmp_path), option, name)

    def test_a_dangling_link(self, tmp_path: Path) -> None:
        (tmp_path / "link.onnx").symlink_to("nowhere.onnx")
        model = save_model(tmp_path)
        for more in ([], ["--overwrite"]):
            line = refused(model, "-o", tmp_path / "link.onnx", *more)
            assert "it is a link to 'nowhere.onnx', which does not exist" in line

    @pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
    def test_a_device(self, device: str, tmp_path: Path) -> None:
        assert "cannot be written" in refused(save_model(tmp_path), "-o", device, "--overwrite")

    @pytest.mark.parametrize("folder", ["/proc", "/sys/kernel"])
    def test_a_folder_that_takes_no_file(self, folder: str, tmp_path: Path) -> None:
        model = save_model(tmp_path)
        assert "cannot be written" in refused(model, "-o", f"{folder}/m.onnx")
        assert "report folder" in refused(model, "--report", f"{folder}/report")

    def test_a_folder_without_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The superuser may write anywhere, so the refusal is made here."""

        def refuse(**_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
        assert ir.refusal(tmp_path / "m.onnx", False) == "cannot be written: Permission denied"

    def test_a_report_folder_that_is_a_file(self, tmp_path: Path) -> None:
        model = save_model(tmp_path)
        assert "report folder" in refused(model, "--report", model)
        assert "report folder" in refused(model, "--report", model / "inside")

    def test_a_link_is_written_through(self, tmp_path: Path) -> None:
        save_model(tmp_path, name="old.onnx")
        (tmp_path / "link.onnx").symlink_to("old.onnx")
        model = save_model(tmp_path, "other")
        ir.save(ir.load(model), tmp_path / "link.onnx", overwrite=True)
        assert (tmp_path / "link.onnx").is_symlink()
        assert ir.load(tmp_path / "old.onnx").graph[0].name == "other"


@pytest.mark.parametrize("name", ["layers[/1]/conv", "block[conv]/x", "a:smile:b"])
def test_names_with_brackets_are_shown(name: str, tmp_path: Path) -> None:
    model = save_model(tmp_path, name)
    code, shown, error = lwgraph("inspect", model, "--groups")
    assert code == 0, error
    assert name in shown
    code, _, error = lwgraph("optimize", model, "-p", "clean", "-o", tmp_path / "o.onnx", "--explain")
    assert code == 0, error


def test_a_file_with_brackets(tmp_path: Path) -> None:
    model = save_model(tmp_path, name="m[b].onnx")
    code, out, error = lwgraph("optimize", model, "-p", "clean", "-o", tmp_path / "o[red].onnx")
    assert code == 0, error
    assert "o[red].onnx" in out.replace("\n", "")
    assert "m[b].lw.onnx" in lwgraph("optimize", model, "-p", "clean", "-o", "nowhere/m[b].lw.onnx")[2]
