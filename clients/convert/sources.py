# SPDX-License-Identifier: Apache-2.0
"""What is to be converted, by what it is called: a torch module built by a function, or an ONNX file."""

from __future__ import annotations

from pathlib import Path

from ...ipc.errors import CallerError, Code, invalid, not_found
from .module_functions import FUNCTION
from .onnx_source import OnnxSource
from .source import Asked, Source
from .torch_source import TorchSource


def open_source(asked: Asked) -> Source:
    """The source, opened. Raises PenstockError that says what it is not."""
    source = _source(asked)
    source.open()
    return source


def _source(asked: Asked) -> Source:
    text, path = asked.source, Path(asked.source)
    if path.suffix == ".etlt":
        raise CallerError(
            f"{text} is a model of NVIDIA TAO, encrypted with a key (.etlt); only TAO's tools can read it. Export it again to "
            "ONNX (TAO 5 and later write .onnx), or have tao-converter make a TensorRT plan, and serve that as model.plan",
            Code.UNSUPPORTED,
        )
    if FUNCTION.fullmatch(text):
        return TorchSource(asked)
    if not path.exists():
        raise not_found(f"{text} is neither module:function nor a file that exists")
    if path.suffix in (".pt", ".pth", ".pt2", ".ckpt", ".safetensors"):
        raise invalid(
            f"{text} is not an ONNX file; weights of torch need the module that they are for: module:function "
            f"--checkpoint {text}"
        )
    if path.is_dir():
        raise invalid(f"{text} is a directory; an ONNX file or module:function is needed")
    return OnnxSource(asked)
