# SPDX-License-Identifier: Apache-2.0
"""The file of a TensorRT model, and what is often taken for one."""

from __future__ import annotations

import os

from ....ipc.errors import Code, ModelError

_ONNX_FIELDS = frozenset({0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42})
"""Tags of what may follow ir_version in an ONNX file (onnx.proto: ModelProto)."""

_TAO = (
    "is an encrypted export of NVIDIA's TAO toolkit, which TensorRT cannot read. Export the model from TAO as ONNX (TAO 5 and "
    "later do; an older one is decoded with the key that it was exported with) and convert that with `penstock convert`, or "
    "let tao-converter or `tao deploy` make a plan of it, with that key and on this GPU"
)
_ONNX = (
    "is an ONNX model, not a plan. Convert it on this GPU with `penstock convert` or trtexec, or serve it as it is: name it "
    'model.onnx and write backend: "onnxruntime"'
)


def read_plan(directory: str, filename: str) -> bytes:
    """The content of DIRECTORY/FILENAME. Raises ModelError for a file that is missing, or evidently something else."""
    path = os.path.join(directory, filename)
    if not os.path.isfile(path):
        exports = sorted(name for name in os.listdir(directory) if name.endswith(".etlt")) if os.path.isdir(directory) else []
        hint = f"; '{exports[0]}' {_TAO}" if exports else ""
        raise ModelError(f"model file '{filename}' is missing in {directory}{hint}", Code.NOT_FOUND)
    with open(path, "rb") as file:
        content = file.read()
    if filename.endswith(".etlt") or _looks_like_tao(content):
        raise ModelError(f"model file '{filename}' {_TAO}", Code.UNSUPPORTED)
    if filename.endswith(".onnx") or _looks_like_onnx(content):
        raise ModelError(f"model file '{filename}' {_ONNX}", Code.UNSUPPORTED)
    if not content:
        raise ModelError(f"model file '{filename}' is empty")
    return content


def _looks_like_tao(content: bytes) -> bool:
    """A little-endian length, the name of the model's input of that length, and then what is encrypted."""
    length = int.from_bytes(content[:4], "little")
    name = content[4 : 4 + length]
    return 0 < length < 256 and len(content) > 4 + length and name.isascii() and name.decode("ascii").isprintable()


def _looks_like_onnx(content: bytes) -> bool:
    """Protocol buffers: the field ir_version, a small number, and then one of the other fields of a model."""
    return len(content) > 2 and content[0] == 0x08 and 0 < content[1] < 0x20 and content[2] in _ONNX_FIELDS
