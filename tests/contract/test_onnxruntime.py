# SPDX-License-Identifier: Apache-2.0
"""What is particular to ONNX models: signatures, datatypes, text, unknown shapes, and files that cannot be loaded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from worker_rig import Rig, Tensor, copies, spec_of, unplaced, write_onnx, write_prefix_model

from penstock.ipc.errors import CallerError, ModelError
from penstock.ipc.messages import GRAPH_LEVEL, LoadModel, ModelSpec, OutputSlice, Placement, TensorSpec
from penstock.workers.backends.onnx_sessions import session_options
from penstock.workers.backends.onnxruntime_onnx import OnnxRuntime

OUT = 32768


def order(directory: Path, filename: str = "", **parameters: str) -> LoadModel:
    return LoadModel(ModelSpec("m", 1, "onnxruntime", 8, [], [], parameters), "m_0_0", str(directory), filename)


def identity_model(directory: Path, datatype: str, dims: list[int | str]) -> Path:
    node = helper.make_node("Identity", ["x"], ["y"])
    return write_onnx(directory, [node], {"x": (datatype, ["n", *dims])}, {"y": (datatype, ["n", *dims])})


def test_the_signature_is_the_models_own(tmp_path: Path) -> None:
    backend = OnnxRuntime()
    signature = backend.load(order(write_prefix_model(tmp_path)))
    assert signature.inputs == [TensorSpec("x", "FP32", [-1, 6])]
    assert signature.outputs == [TensorSpec("y", "FP32", [-1, 4])]
    backend.close()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'net\.onnx' is missing in"):
        OnnxRuntime().load(order(tmp_path, "net.onnx"))


@pytest.mark.parametrize("content", [b"", b"not an onnx file", os.urandom(200)])
def test_a_corrupt_file_is_named_with_the_reason(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"'model.onnx' cannot be loaded: .{10}"):
        OnnxRuntime().load(order(tmp_path))


def test_a_tensor_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    backend = OnnxRuntime()
    backend.load(order(write_prefix_model(tmp_path)))
    with pytest.raises(CallerError, match="no output 'z'; it has y"):
        backend.warm_up(spec_of("onnxruntime", {"x": ("FP32", [6])}, {"z": ("FP32", [4])}))
    backend.close()


@pytest.mark.parametrize("key", ["intra_op_thread_count", "execution_mode", "enable_mem_arena"])
def test_a_parameter_that_is_no_number_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(CallerError, match=f"'{key}' must be a whole number"):
        OnnxRuntime().load(order(write_prefix_model(tmp_path), **{key: "many"}))


def test_options_follow_the_parameters_and_threads_never_spin_by_default() -> None:
    spin = "session.intra_op.allow_spinning"
    options = session_options({}, 3)
    assert (options.intra_op_num_threads, options.get_session_config_entry(spin)) == (3, "0")
    options = session_options({"intra_op_thread_count": "2", "enable_mem_pattern": "0", spin: "1"}, 3)
    assert (options.intra_op_num_threads, options.enable_mem_pattern) == (2, False)
    assert options.get_session_config_entry(spin) == "1"
    assert session_options({}, 0).intra_op_num_threads == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (None, "ORT_ENABLE_ALL"), ("-1", "ORT_ENABLE_BASIC"), ("1", "ORT_ENABLE_EXTENDED"), ("2", "ORT_DISABLE_ALL"),
        ("3", "ORT_ENABLE_ALL"), ("-2", "ORT_ENABLE_ALL"),
    ],
)  # fmt: skip
def test_the_graph_is_optimised_at_tritons_level(level: str | None, expected: str) -> None:
    options = session_options({} if level is None else {GRAPH_LEVEL: level}, 1)
    assert options.graph_optimization_level.name == expected


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "BOOL", "INT32", "INT64"])
def test_datatypes_pass_unchanged_at_odd_addresses(tmp_path: Path, datatype: str) -> None:
    dtype = {"FP16": np.float16, "BF16": np.uint16, "BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64}[datatype]
    spec = spec_of("onnxruntime", {"x": (datatype, [3])}, {"y": (datatype, [3])})
    with Rig(spec, identity_model(tmp_path, datatype, [3])) as rig:
        tensors = [(np.arange(6).reshape(2, 3) + seed).astype(dtype) for seed in range(2)]
        placements = [
            Placement(2, [rig.memory.put(1 + 101 * at, x)], [rig.memory.place(0, OUT + 1 + 101 * at, x.nbytes)])
            for at, x in enumerate(tensors)
        ]
        for batch in (placements, placements[:1], placements[:1]):
            assert rig.run(*batch).items == []
        for at, x in enumerate(tensors):
            np.testing.assert_array_equal(rig.memory.get(OUT + 1 + 101 * at, datatype, (2, 3)), x)


@pytest.mark.parametrize("datatype", ["FP32", "BF16"])
def test_outputs_of_unknown_shape_are_copied_out(tmp_path: Path, datatype: str) -> None:
    spec = spec_of("onnxruntime", {"x": (datatype, [-1])}, {"y": (datatype, [-1])})
    dtype = np.float32 if datatype == "FP32" else np.uint16
    with Rig(spec, identity_model(tmp_path, datatype, ["m"])) as rig:
        x = np.arange(10).reshape(2, 5).astype(dtype)
        done, (fd,) = rig.run_with_fds(
            Placement(2, [rig.memory.put(0, x)], [rig.memory.place(0, OUT, 100)]),
            Placement(2, [rig.memory.put(x.nbytes, x)], [unplaced(0)]),
        )
        assert [item.outputs[0].shape for item in done.items] == [[2, 5], [2, 5]]
        np.testing.assert_array_equal(rig.memory.get(OUT, datatype, (2, 5)), x)
        np.testing.assert_array_equal(np.frombuffer(os.pread(fd, x.nbytes, 0), dtype).reshape(2, 5), x)
        os.close(fd)


def text(*values: bytes) -> Tensor:
    found = np.empty((len(values), 1), np.object_)
    found[:, 0] = values
    return found


def test_strings_go_in_and_come_out_as_utf8(tmp_path: Path) -> None:
    spec = spec_of("onnxruntime", {"x": ("BYTES", [1])}, {"y": ("BYTES", [1])})
    with Rig(spec, identity_model(tmp_path, "BYTES", [1])) as rig:
        x = text("é".encode(), b"", b"c\0d")
        done = rig.run(Placement(3, [rig.memory.put(0, x)], [OutputSlice(0, 1, OUT, 100)]))
        (output,) = done.items[0].outputs
        assert rig.memory.text(OUT, output.byte_size, (3, 1)).tolist() == x.tolist()


def test_bytes_that_are_no_utf8_are_the_callers_fault(tmp_path: Path) -> None:
    spec = spec_of("onnxruntime", {"x": ("BYTES", [1])}, {"y": ("BYTES", [1])})
    with Rig(spec, identity_model(tmp_path, "BYTES", [1])) as rig:
        done = rig.run(Placement(1, [rig.memory.put(0, text(b"\xff"))], [OutputSlice(0, 1, OUT, 100)]))
        assert (done.code, done.fault) == ("INVALID_ARG", "caller")
        assert "input 'x': an element is not UTF-8" in done.message


def test_several_inputs_and_outputs_follow_the_order_of_the_spec(tmp_path: Path) -> None:
    kinds = {"a": ("FP32", ["n", 2]), "b": ("FP32", ["n", 2])}
    nodes = [helper.make_node("Sub", ["a", "b"], ["difference"]), helper.make_node("Add", ["a", "b"], ["total"])]
    write_onnx(tmp_path, nodes, kinds, {"difference": ("FP32", ["n", 2]), "total": ("FP32", ["n", 2])})
    pair = ("FP32", [2])
    with Rig(spec_of("onnxruntime", {"b": pair, "a": pair}, {"total": pair, "difference": pair}), tmp_path) as rig:
        a, b = np.array([[5, 6]], np.float32), np.array([[1, 2]], np.float32)
        for at in (0, 200):
            inputs = [rig.memory.put(at, b), rig.memory.put(at + 50, a)]
            rig.run(Placement(1, inputs, [rig.memory.place(1, OUT + at, 8), rig.memory.place(0, OUT + at + 50, 8)]))
            assert rig.memory.get(OUT + at, "FP32", (2,)).tolist() == [4, 4]
            assert rig.memory.get(OUT + at + 50, "FP32", (2,)).tolist() == [6, 8]


def test_a_shape_that_the_model_does_not_compute_is_the_models_error(tmp_path: Path) -> None:
    with Rig(spec_of("onnxruntime", {"x": ("FP32", [6])}, {"y": ("FP32", [4])}), write_prefix_model(tmp_path / "m")) as rig:
        rig.runner._spec.outputs[0].dims[0] = 5  # a configuration that contradicts the file
        done = rig.run(Placement(1, [rig.memory.put(0, np.ones((1, 6), np.float32))], [rig.memory.place(0, OUT, 20)]))
        assert (done.code, done.fault) == ("INTERNAL", "model")
        assert "Got: 5 Expected: 4" in done.message
        assert copies(done) == {}
