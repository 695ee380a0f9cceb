# SPDX-License-Identifier: Apache-2.0
"""ONNX files: copied with their weights, in another opset, in half precision; and run, as sources are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.clients.convert import onnx_files
from penstock.clients.convert.onnx_runs import OnnxRun
from penstock.clients.convert.onnx_source import OnnxSource
from penstock.clients.convert.samples import random_samples
from penstock.clients.convert.source import Asked
from penstock.clients.convert.sources import open_source
from penstock.clients.models import TensorInfo
from penstock.ipc.errors import CallerError, ModelError

onnx: Any = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'penstock[convert]'")


def model(batch: int | str = "batch", opset: int = 17) -> Any:
    """y = x @ w, with 64 KiB of weights."""
    helper, weights = onnx.helper, np.random.default_rng(0).random((128, 128), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, 128])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [batch, 128])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "source.onnx"
    onnx.save(model(), path)
    return path


def answer(path: Path) -> np.ndarray[Any, Any]:
    return OnnxRun(path).open().answer({"x": np.ones((2, 128), np.float32)})["y"]


def test_a_file_is_copied_with_the_weights_that_lie_beside_it(tmp_path: Path, file: Path) -> None:
    # Given a model whose weights are in files of their own, one of them in a folder
    (tmp_path / "apart" / "deep").mkdir(parents=True)
    apart = tmp_path / "apart" / "m.onnx"
    onnx.save_model(model(), apart, save_as_external_data=True, location="deep/weights.bin", size_threshold=0)
    # When it is copied
    (tmp_path / "1").mkdir()
    onnx_files.copied(apart, tmp_path / "1" / "model.onnx")
    # Then they have come along, and are all that it needs
    assert (tmp_path / "1" / "deep" / "weights.bin").stat().st_size >= 65536
    (apart.parent / "deep" / "weights.bin").unlink()
    assert np.array_equal(answer(tmp_path / "1" / "model.onnx"), answer(file))
    # And without them it is said
    with pytest.raises(CallerError, match=r"its weights should lie in .*deep/weights.bin, where there is no such file"):
        onnx_files.copied(apart, tmp_path / "model.onnx")


def test_weights_outside_the_directory_are_refused(tmp_path: Path, file: Path) -> None:
    wrong = model()
    (weights,) = wrong.graph.initializer
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../weights.bin")
    (tmp_path / "in").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"0" * 65536)
    (tmp_path / "in" / "m.onnx").write_bytes(wrong.SerializeToString())
    with pytest.raises(CallerError, match="its weights should lie in"):
        onnx_files.copied(tmp_path / "in" / "m.onnx", tmp_path / "model.onnx")


def test_what_torch_writes_beside_a_large_model_becomes_one_file(tmp_path: Path, file: Path) -> None:
    (tmp_path / "1").mkdir()
    path = tmp_path / "1" / "model.onnx"
    onnx.save_model(model(), path, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    assert len(list(path.parent.iterdir())) == 2
    onnx_files.gathered(path)
    assert [each.name for each in path.parent.iterdir()] == ["model.onnx"], "it is small enough for one message"
    assert np.array_equal(answer(path), answer(file))


def test_weights_of_a_model_beyond_one_message_get_a_file_of_their_own(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "1" / "model.onnx"
    path.parent.mkdir()
    onnx_files.written(model(), path, limit=1000)
    assert sorted(each.name for each in path.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert np.array_equal(answer(path), answer(file))


def test_another_opset(tmp_path: Path, file: Path) -> None:
    assert onnx_files.opset_of(file) == 17
    onnx_files.with_opset(file, tmp_path / "model.onnx", 13)
    assert onnx_files.opset_of(tmp_path / "model.onnx") == 13
    assert np.array_equal(answer(tmp_path / "model.onnx"), answer(file))
    with pytest.raises(CallerError, match=r"has opset 17 and cannot be converted to opset 999"):
        onnx_files.with_opset(file, tmp_path / "model.onnx", 999)


def test_half_precision_of_a_file_needs_a_package_that_is_named(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxconverter_common.float16", None)
    with pytest.raises(CallerError, match=r"pip install onnxconverter-common.*from a torch module it needs nothing"):
        onnx_files.in_half(file, tmp_path / "model.onnx")


def test_half_precision_keeps_inputs_and_outputs(tmp_path: Path, file: Path) -> None:
    pytest.importorskip("onnxconverter_common", reason="onnxconverter-common is not installed")
    onnx_files.in_half(file, tmp_path / "model.onnx")
    run = OnnxRun(tmp_path / "model.onnx").open()
    assert [tensor.datatype for tensor in (*run.inputs, *run.outputs)] == ["FP32", "FP32"]
    assert (tmp_path / "model.onnx").stat().st_size < file.stat().st_size * 0.7
    assert not np.array_equal(answer(tmp_path / "model.onnx"), answer(file))


def test_without_onnx_a_small_file_is_copied_all_the_same(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "_is_installed", lambda: False)
    onnx_files.copied(file, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == file.read_bytes()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        CallerError, match=r"--opset 13 for an ONNX file needs the package onnx \(pip install 'penstock\[convert\]'\)"
    ):
        onnx_files.with_opset(file, tmp_path / "other.onnx", 13)


def test_a_source_says_its_inputs_without_the_batch(file: Path) -> None:
    source = open_source(Asked(source=str(file)))
    assert isinstance(source, OnnxSource)
    assert (source.max_batch_size, source.inputs) == (8, (TensorInfo("x", "FP32", (128,)),))
    source.ask(random_samples(source.inputs, 8, {}, 0))
    source.check_invariants()
    assert source.signature.outputs == (TensorInfo("y", "FP32", (128,)),)


def test_shapes_that_are_used_are_those_said_or_else_those_of_the_requests(tmp_path: Path) -> None:
    wide = model()
    wide.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    onnx.save(wide, tmp_path / "wide.onnx")
    source = open_source(Asked(source=str(tmp_path / "wide.onnx"), max_batch_size=0))
    source.ask(random_samples(source.inputs, 0, {"x": [(5, 128), (3, 128), (9, 128)]}, 0))
    assert source.used_shapes == {"x": [(3, 128), (9, 128)]}
    said = open_source(Asked(source=str(tmp_path / "wide.onnx"), max_batch_size=0, shapes={"x": [(1, 128)]}))
    said.ask(random_samples(said.inputs, 0, said.asked.shapes, 0))
    assert said.used_shapes == {"x": [(1, 128)]}


def test_a_batch_that_is_written_into_the_file_stays(tmp_path: Path) -> None:
    onnx.save(model(batch=1), tmp_path / "one.onnx")
    source = open_source(Asked(source=str(tmp_path / "one.onnx")))
    assert (source.max_batch_size, source.inputs[0].dims) == (0, (1, 128))
    with pytest.raises(CallerError, match=r"a dynamic batch is not possible: input 'x' has dims \[1, 128\]"):
        open_source(Asked(source=str(tmp_path / "one.onnx"), max_batch_size=8))


def test_inputs_of_a_file_can_be_narrowed_and_nothing_else(tmp_path: Path) -> None:
    wide = model()
    wide.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"
    onnx.save(wide, tmp_path / "wide.onnx")

    def opened(*inputs: TensorInfo) -> tuple[TensorInfo, ...]:
        return open_source(Asked(source=str(tmp_path / "wide.onnx"), inputs=inputs)).inputs

    assert opened(TensorInfo("x", "FP32", (128,))) == (TensorInfo("x", "FP32", (128,)),)
    with pytest.raises(CallerError, match=r"asked for is FP16 \[128\], the file has FP32 \[-1\]"):
        opened(TensorInfo("x", "FP16", (128,)))
    with pytest.raises(CallerError, match=r"--input z: the file has \['x'\]"):
        opened(TensorInfo("z", "FP32", (128,)))


def test_what_the_model_says_of_wrong_inputs_is_quoted(file: Path) -> None:
    with pytest.raises(ModelError, match=r"source.onnx fails for inputs of shapes {'x': \[2, 3\]}: "):
        OnnxRun(file).open().answer({"x": np.ones((2, 3), np.float32)})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing.onnx", r"nothing.onnx is not an ONNX file: "),
        ("model.etlt", r"a model of NVIDIA TAO, encrypted with a key \(.etlt\).*Export it again to ONNX"),
        ("weights.pth", r"module:function --checkpoint .*weights.pth"),
        ("missing.onnx", r"is neither module:function nor a file that exists"),
        ("folder", r"is a directory"),
    ],
)
def test_what_is_no_onnx_file_is_told_what_it_is(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "nothing.onnx").write_bytes(b"nothing")
    (tmp_path / "weights.pth").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CallerError, match=said):
        open_source(Asked(source=str(tmp_path / name)))


def test_options_of_modules_are_refused(file: Path) -> None:
    with pytest.raises(CallerError, match=r"--checkpoint, --output: for torch modules only"):
        open_source(Asked(source=str(file), checkpoint=file, output_names=("y",)))
