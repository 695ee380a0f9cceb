# SPDX-License-Identifier: Apache-2.0
"""Libraries of custom operators for ONNX models: a real one, compiled here, and files that are none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper
from worker_rig import Rig, spec_of, write_prefix_model

from penstock.ipc.errors import Code, ModelError
from penstock.ipc.messages import LoadModel, Placement
from penstock.workers.backends.onnxruntime_onnx import OnnxRuntime

HEADERS = [Path(folder) for folder in ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/local/include")]
SPEC = spec_of("onnxruntime", {"x": ("FP32", [6])}, {"y": ("FP32", [4])})
# What onnxruntime calls when it registers a library (onnxruntime_c_api.h, RegisterCustomOps): a library that adds no operator.
EMPTY = "void *RegisterCustomOps(void *options, const void *api) { (void)options; (void)api; return 0; }"
DOUBLING = r"""
#include <onnxruntime_cxx_api.h>
struct Kernel {
  void Compute(OrtKernelContext *context) {
    Ort::KernelContext ctx(context);
    auto input = ctx.GetInput(0);
    auto info = input.GetTensorTypeAndShapeInfo();
    auto output = ctx.GetOutput(0, info.GetShape());
    for (size_t i = 0; i < info.GetElementCount(); ++i)
      output.GetTensorMutableData<float>()[i] = 2 * input.GetTensorData<float>()[i];
  }
};
struct Doubling : Ort::CustomOpBase<Doubling, Kernel> {
  void *CreateKernel(const OrtApi &, const OrtKernelInfo *) const { return new Kernel; }
  const char *GetName() const { return "Doubling"; }
  size_t GetInputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetInputType(size_t) const { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(size_t) const { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }
};
extern "C" OrtStatus *ORT_API_CALL RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *api) {
  Ort::InitApi(api->GetApi(ORT_API_VERSION));
  static Doubling doubling;
  static Ort::CustomOpDomain domain{"test"};
  domain.Add(&doubling);
  Ort::UnownedSessionOptions(options).Add(domain);
  return nullptr;
}
"""


def compiled(source: str, path: Path, *options: str) -> Path:
    """A shared library. Skips where nothing can compile it."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler (g++)")
    text = path.with_suffix(".cc")
    text.write_text(source)
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", path, text, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return path


def order(directory: Path, *libraries: Path) -> LoadModel:
    return LoadModel(replace(SPEC, op_libraries=[str(path) for path in libraries]), "m_0_0", str(directory), threads=1)


def test_a_library_is_registered_and_one_after_the_other(tmp_path: Path) -> None:
    directory = write_prefix_model(tmp_path)
    libraries = [compiled(f'extern "C" {EMPTY}', tmp_path / f"lib{number}.so") for number in range(2)]
    backend = OnnxRuntime()
    assert backend.load(order(directory, *libraries)).inputs[0].name == "x"
    backend.close()


def test_an_operator_of_a_library_computes(tmp_path: Path) -> None:
    include = next((folder for folder in HEADERS if (folder / "onnxruntime_cxx_api.h").exists()), None)
    if include is None:
        pytest.skip("needs onnxruntime's headers (onnxruntime_cxx_api.h)")
    library = compiled(DOUBLING, tmp_path / "libdoubling.so", "-std=c++17", "-I", str(include))
    node = helper.make_node("Doubling", ["x"], ["y"], domain="test")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 6]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("test", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "model.onnx")
    spec = replace(spec_of("onnxruntime", {"x": ("FP32", [6])}, {"y": ("FP32", [6])}), op_libraries=[str(library)])
    with Rig(spec, tmp_path) as rig:
        x = np.arange(12, dtype=np.float32).reshape(2, 6)
        assert rig.run(Placement(2, [rig.memory.put(0, x)], [rig.memory.place(0, 4096, x.nbytes)])).items == []
        np.testing.assert_array_equal(rig.memory.get(4096, "FP32", (2, 6)), 2 * x)


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model 'm': library of custom operators '.*/lib\.so' is missing") as caught:
        OnnxRuntime().load(order(write_prefix_model(tmp_path), tmp_path / "lib.so"))
    assert caught.value.code is Code.NOT_FOUND


def test_a_file_that_is_no_library_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_text("no library")
    with pytest.raises(ModelError, match=r"library of custom operators '.*/lib\.so' cannot be loaded: .{10}"):
        OnnxRuntime().load(order(write_prefix_model(tmp_path), tmp_path / "lib.so"))


def test_a_library_without_operators_for_onnxruntime_is_named_with_the_reason(tmp_path: Path) -> None:
    library = compiled('extern "C" int unrelated() { return 0; }', tmp_path / "lib.so")
    with pytest.raises(ModelError, match=r"lib\.so' cannot be loaded: .*RegisterCustomOps"):
        OnnxRuntime().load(order(write_prefix_model(tmp_path), library))
