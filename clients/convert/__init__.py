# SPDX-License-Identifier: Apache-2.0
"""From a torch module or an ONNX file to a model that is served: the steps of `penstock convert`.

Third-party packages are imported by one file each, when their step is taken: torch by `torch_modules.py`, onnx by
`onnx_files.py`, onnxruntime by `onnx_runs.py`, tensorrt by `engine_program.py`, which is a process of its own.
"""
