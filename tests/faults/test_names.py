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
from lwgraph.cli.common import check_folder
from lwgraph.errors import UsageError
from lwgraph.optimizer import optimize
from lwgraph.plan.price.devices import Table


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


class TestBeforeTheWork:
    """What cannot be written, or was left empty, is told before anything is done."""

    @pytest.mark.parametrize("name", ["", " ", ".", "/"])
    @pytest.mark.parametrize(
        "command", ["optimize", "inspect", "bench", "bisect -p clean", "verify", "plan pick 1", "diff"]
    )
    def test_a_model_that_is_no_file(self, name: str, command: str, tmp_path: Path) -> None:
        other = [save_model(tmp_path)] if command in ("verify", "diff") else []
        verb = command.split()
        position = 3 if command.startswith("plan") else 1
        code, out, error = lwgraph(*verb[:position], name, *other, *verb[position:])
        assert code == 1 and not out
        (line,) = error.splitlines()
        assert ("is a directory" if name.strip() else f"the name of the model is '{name}'; give a file") in line

    @pytest.mark.parametrize("option", ["--data", "--eval-data", "--recipe", "--plan", "--label-these", "--pipeline"])
    def test_an_option_that_is_empty(self, option: str, tmp_path: Path) -> None:
        assert f"{option} is ''" in refused(save_model(tmp_path), option, "")

    @pytest.mark.parametrize("command", ["bench", "inspect --sensitivity", "bisect -p clean"])
    def test_data_that_are_empty(self, command: str, tmp_path: Path) -> None:
        verb, *options = command.split()
        code, _, error = lwgraph(verb, save_model(tmp_path), *options, "--data", " ")
        assert code == 2 and "--data is ' '; give data, or leave it out" in error

    def test_data_of_a_long_name(self, tmp_path: Path) -> None:
        name = "d" * 300
        code, out, error = lwgraph("bench", save_model(tmp_path), "--data", name, "--json")
        assert code == 1 and f"--data '{name}' cannot be read: File name too long" in error
        assert "cannot be read" in out

    def test_two_options_that_name_one_place(self, tmp_path: Path) -> None:
        model, place = save_model(tmp_path), tmp_path / "o.onnx"
        assert "-o and --report are both" in refused(model, "-o", place, "--report", place)
        data = ["--data", tmp_path]
        assert "-o and --label-these are both" in refused(model, "-o", place, "--label-these", place, *data)
        assert "--report and --label-these" in refused(model, "--report", place, "--label-these", place, *data)
        family = tmp_path / "o.family"
        assert "--family and --report" in refused(model, "-o", place, "--family", "2", "--report", family)

    def test_a_family_that_nothing_can_be_chosen_for(self, tmp_path: Path) -> None:
        for more in ([], ["--preset", "lossless"], ["-p", "clean"]):
            line = refused(save_model(tmp_path), "--family", "2", *more)
            assert "no front of this model is in the cache; run lwgraph optimize with --data first" in line

    def test_the_folder_of_the_demo(self) -> None:
        code, out, error = lwgraph("demo", "-o", "/proc/x")
        assert (code, out) == (2, "")
        assert error.startswith("lwgraph: error: folder '/proc/x' cannot be written: ")

    def test_a_nul_in_a_name(self, tmp_path: Path) -> None:
        name = str(tmp_path / "a\0b")
        assert "null" in ir.refusal(Path(name), overwrite=True)
        with pytest.raises(UsageError, match=r"cannot be written: .*null"):
            check_folder(name)
        for request in ({"recipe": name}, {"plan": name}):
            with pytest.raises(UsageError, match=r"cannot be read: .*null"):
                optimize(save_model(tmp_path), **request)
        with pytest.raises(UsageError, match=r"cannot be read: .*null"):
            Table.load(name)
