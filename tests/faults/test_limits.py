"""Limits, each told in one line: sizes, axes, names, nesting, endless loops, and an output that cannot be written."""

from __future__ import annotations

import gc
import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lwgraph import ir, toml
from lwgraph.calibrate.generate import generate
from lwgraph.cli import main
from lwgraph.cli.common import parse_shapes
from lwgraph.errors import DataError, ModelError, UsageError
from lwgraph.runtime.ort import OrtExecutor
from lwgraph.temporary import TemporaryFolder

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def info(name: str, kind: int, shape: list[Any] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def build(
    nodes: list[onnx.NodeProto], shape: list[Any], tensors: list[onnx.TensorProto] | None = None
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", [info("x", FLOAT, shape)], [info("y", FLOAT, shape)], tensors or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


RELU = [helper.make_node("Relu", ["x"], ["y"])]


def lwgraph(*arguments: object) -> tuple[int, str]:
    """The exit code of the command line, and its standard error."""
    error = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()), redirect_stderr(error):
        patch.setattr(sys, "argv", ["lwgraph", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    return int(end.value.code or 0), error.getvalue()


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([2**62, 4], "1.84e+19 elements"),
        ([1, 2**62], "4.61e+18 elements"),
        ([2**33, 2**33], "7.38e+19 elements"),
        ([1] * 100, "100 axes"),
        ([1] * 65, "65 axes"),
    ],
)
def test_sizes_of_inputs(shape: list[int], words: str, tmp_path: Path) -> None:
    proto = build(RELU, shape)
    with pytest.raises(DataError, match=rf"accepts no generated input .*{re.escape(words)}"):
        generate(ir.load(proto), 1)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert lwgraph("inspect", tmp_path / "m.onnx") == (0, "")


@pytest.mark.parametrize("size", ["9" * 30, "9" * 5000, "²", "0"])
def test_sizes_on_the_command_line(size: str) -> None:
    with pytest.raises(UsageError, match="is not NAME:SIZES"):
        parse_shapes([f"x:{size},4"])
    assert parse_shapes(["a:b:3,4"]) == {"a:b": (3, 4)}


def test_threads() -> None:
    code, error = lwgraph("optimize", "m.onnx", "--threads", "1024")
    assert code == 2 and "--threads is 1024; allowed: 1 to" in error


@pytest.mark.parametrize("location", ["a\0b", "\0"])
def test_a_nul_in_a_location(location: str, tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    proto = build([helper.make_node("Add", ["x", "w"], ["y"])], [4], [tensor])
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="has a NUL in its name"):
        ir.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("text", ["passes = " + "[" * 1000 + "]" * 1000, "a = " + "{a = " * 900 + "1" + "}" * 900])
def test_a_recipe_that_is_nested_deep(text: str) -> None:
    with pytest.raises(UsageError, match=r"recipe is (nested too deep|not TOML)"):
        toml.parse(text, "recipe")


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "-1"])
def test_numbers_that_are_none(seconds: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(build(RELU, [2]).SerializeToString())
    code, error = lwgraph("bench", tmp_path / "m.onnx", "--seconds", seconds)
    assert code == 2 and "Invalid value for '--seconds'" in error
    code, error = lwgraph("bisect", tmp_path / "m.onnx", "-p", "clean", "--metric", "agreement", "--max-drop", "nan")
    assert code == 2 and "Invalid value for '--max-drop': nan is not a finite number" in error


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000, '{"lwgraph_plan": ' + "9" * 6000 + "}", "\0", "NaN"])
@pytest.mark.parametrize("command", ["optimize MODEL -o OUT --plan JSON", "measure --import JSON"])
def test_json_that_cannot_be_read(text: str, command: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(build(RELU, [2]).SerializeToString())
    (tmp_path / "some.json").write_text(text)
    names = {"MODEL": tmp_path / "m.onnx", "OUT": tmp_path / "o.onnx", "JSON": tmp_path / "some.json"}
    code, error = lwgraph(*(names.get(word, word) for word in command.split()))
    assert code == 2 and len(error.splitlines()) == 1 and error.startswith("lwgraph: error: ")


class TestEndlessLoops:
    def loop(self, condition: list[onnx.NodeProto], inputs: list[str], handed: str = "c", trips: int = 3) -> ir.Model:
        body = helper.make_graph(
            [*condition, helper.make_node("Add", ["s", "s"], ["t"])],
            "body",
            [info("i", INT64, []), info("c_in", BOOL, []), info("s", FLOAT, [2])],
            [info(handed, BOOL, []), info("t", FLOAT, [2])],
        )
        tensors = [helper.make_tensor("n", INT64, [], [trips])]
        tensors += [helper.make_tensor(name, BOOL, [], [name == "yes"]) for name in ("no", "yes")]
        used = [tensor for tensor in tensors if tensor.name in inputs]
        return ir.load(build([helper.make_node("Loop", inputs, ["y"], body=body, name="forever")], [2], used))

    SAME = [helper.make_node("Identity", ["c_in"], ["c"])]  # noqa: RUF012
    TRUE = [  # noqa: RUF012
        helper.make_node("Constant", [], ["k"], value=helper.make_tensor("", BOOL, [], [True])),
        helper.make_node("Identity", ["k"], ["c"]),
    ]

    @pytest.mark.parametrize("condition", [SAME, TRUE])
    def test_are_refused(self, condition: list[onnx.NodeProto]) -> None:
        with pytest.raises(ModelError, match="Loop 'forever' never ends"):
            OrtExecutor().prepare(self.loop(condition, ["", "", "x"]))

    @pytest.mark.parametrize("trips", [1 << 31, 1 << 62, (1 << 63) - 1])
    @pytest.mark.parametrize("inputs", [["n", "", "x"], ["n", "yes", "x"]])
    def test_so_are_those_of_too_many_trips(self, inputs: list[str], trips: int) -> None:
        with pytest.raises(ModelError, match=f"Loop 'forever' never ends: it has {trips} trips"):
            OrtExecutor().prepare(self.loop(self.SAME, inputs, trips=trips))

    def test_in_a_function_too(self) -> None:
        proto = ir.to_proto(self.loop(self.SAME, ["", "", "x"]))
        called = helper.make_function("d", "F", ["x"], ["y"], proto.graph.node, [helper.make_opsetid("", 17)])
        proto.functions.append(called)
        del proto.graph.node[:]
        proto.graph.node.append(helper.make_node("F", ["x"], ["y"], domain="d"))
        proto.opset_import.append(helper.make_opsetid("d", 1))
        with pytest.raises(ModelError, match="Loop 'forever' never ends"):
            OrtExecutor().prepare(ir.load(proto))

    def test_a_condition_ends_one_of_many_trips(self) -> None:
        """As exporters write a loop without a trip count of its own."""
        stop = [
            helper.make_node("Constant", [], ["k"], value=helper.make_tensor("", INT64, [], [3])),
            helper.make_node("Less", ["i", "k"], ["c"]),
        ]
        run = OrtExecutor().prepare(self.loop(stop, ["n", "yes", "x"], trips=(1 << 63) - 1))
        assert run({"x": np.float32([1, 2])})["y"].tolist() == [16, 32]

    @pytest.mark.parametrize(("inputs", "factor"), [(["n", "", "x"], 8), (["", "no", "x"], 1)])
    def test_others_run(self, inputs: list[str], factor: int) -> None:
        run = OrtExecutor().prepare(self.loop(self.SAME, inputs))
        assert run({"x": np.float32([1, 2])})["y"].tolist() == [factor, 2 * factor]


class TestStandardOutput:
    """In a process of its own, as the streams belong to it."""

    COMMAND = f'"{sys.executable}" -c "from lwgraph.cli import main; main()" passes --json'

    def shell(self, text: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", text]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def test_a_reader_that_leaves(self) -> None:
        done = self.shell(f"{self.COMMAND} | head -1; exit ${{PIPESTATUS[0]}}")
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize("reader", ["head -1", "true"])
    def test_a_reader_that_leaves_a_table(self, reader: str, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(build(RELU, [2]).SerializeToString())
        command = self.COMMAND.replace("passes --json", f"inspect {tmp_path / 'm.onnx'}")
        done = self.shell(f"{command} | {reader}; exit ${{PIPESTATUS[0]}}")
        assert (done.returncode, done.stderr) == (0, "")

    def test_standard_error_that_is_full(self, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_bytes(build(RELU, [2]).SerializeToString())
        command = self.COMMAND.replace(
            "passes --json", f"optimize {tmp_path / 'm.onnx'} -o {tmp_path / 'o.onnx'} --preset lossless"
        )
        done = self.shell(f"{command} 2> /dev/full")
        assert done.returncode == 0 and (tmp_path / "o.onnx").is_file()

    def test_an_encoding_without_the_letters_of_a_name(self, tmp_path: Path) -> None:
        proto = build([helper.make_node("Relu", ["x"], ["y"], name="ü漢")], [2])
        proto.graph.input[0].name = proto.graph.node[0].input[0] = "é😀"
        (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
        command = self.COMMAND.replace("passes --json", f"inspect {tmp_path / 'm.onnx'}")
        done = self.shell(f"PYTHONIOENCODING=ascii {command}")
        assert (done.returncode, done.stderr) == (0, "") and r"\xe9\U0001f600: float[2]" in done.stdout

    def test_a_folder_that_is_gone(self, tmp_path: Path) -> None:
        command = self.COMMAND.replace("passes --json", "inspect ../m.onnx")
        done = self.shell(f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir ../gone; {command}")
        assert done.returncode == 1 and "standard output" not in done.stderr and len(done.stderr.splitlines()) == 1

    def test_that_is_closed(self) -> None:
        done = self.shell(f"{self.COMMAND} >&-")
        assert (done.returncode, done.stderr) == (0, "")

    def test_that_is_full(self) -> None:
        done = self.shell(f"{self.COMMAND} > /dev/full")
        assert done.returncode == 1
        assert done.stderr == "lwgraph: error: standard output cannot be used: No space left on device\n"


class TestTemporaryFolders:
    def test_one_goes_with_its_owner(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        folder = TemporaryFolder()
        assert folder.path.is_dir()
        del folder
        gc.collect()
        assert not list(tmp_path.iterdir())

    def test_one_that_was_not_locked_yet_goes_with_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its process was killed before; a folder with something in it may be anybody's."""
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        for name in ("lwgraph-old", "lwgraph-full", "lwgraph-young"):
            (tmp_path / name).mkdir()
        (tmp_path / "lwgraph-full" / "file").touch()
        for name in ("lwgraph-old", "lwgraph-full"):
            os.utime(tmp_path / name, (0, 0))
        with TemporaryFolder() as mine:
            assert {path.name for path in tmp_path.iterdir()} == {"lwgraph-full", "lwgraph-young", mine.name}

    def test_the_lock_of_one_is_what_goes_last(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process may be killed while it removes it."""
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        folder = TemporaryFolder()
        (folder.path / "file").touch()
        (folder.path / "inside").mkdir()
        left: list[set[str]] = []
        monkeypatch.setattr(
            "shutil.rmtree", lambda path, **_: left.append({each.name for each in folder.path.iterdir()})
        )
        folder.remove()
        assert left[-1] == {".lock", "inside"} and len(left) == 2  # inside would have gone, too

    def test_one_of_a_killed_process_goes_with_the_next(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        code = "import os, signal; from lwgraph.temporary import TemporaryFolder as F; f = F(); os.kill(os.getpid(), 9)"
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
        (left,) = tmp_path.iterdir()
        mine, young = TemporaryFolder(), TemporaryFolder()
        for folder in (left, mine.path):
            os.utime(folder / ".lock", (0, 0))
        with TemporaryFolder() as another:
            assert {path.name for path in tmp_path.iterdir()} == {mine.path.name, young.path.name, another.name}
