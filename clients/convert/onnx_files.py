# SPDX-License-Identifier: Apache-2.0
"""ONNX files as files: where their weights lie, another opset, half precision. The only importer of onnx."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...ipc.errors import CallerError, Code, ModelError, invalid

WEIGHTS = "model.onnx.data"
"""What holds the weights of a model that is too large for one protobuf message, beside it."""
LARGEST_MESSAGE = 2**31 - 1
"""Bytes, of protobuf: more cannot be written into one file."""


def copied(source: Path, target: Path) -> None:
    """The file and those with its weights, which keep their places beside it. Raises CallerError where those are missing."""
    places = _external_files(source) if _is_installed() else ()
    for place in places:
        weights = source.parent / place
        if Path(place).is_absolute() or ".." in Path(place).parts or not weights.is_file():
            raise invalid(f"{source}: its weights should lie in {weights}, where there is no such file")
        (target.parent / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(weights, target.parent / place)
    shutil.copyfile(source, target)


def gathered(path: Path) -> None:
    """A file as torch wrote it: what lies beside it, a file per weight, becomes one. Raises CallerError without onnx."""
    scattered = [each for each in path.parent.iterdir() if each != path]
    if not scattered:
        return
    onnx = _onnx(f"{path.name} has more than 2 GiB of weights: putting them into one file")
    model = onnx.load(path)
    for each in scattered:
        each.unlink()
    written(model, path)


def with_opset(source: Path, target: Path, opset: int) -> None:
    """The model in another opset. Raises CallerError where onnx cannot do that."""
    onnx = _onnx(f"--opset {opset} for an ONNX file")
    from onnx.version_converter import convert_version

    model = _loaded(onnx, source)
    try:
        converted = convert_version(model, opset)
    except Exception as error:
        raise CallerError(
            f"{source} has opset {opset_of(source)} and cannot be converted to opset {opset}: {error}", Code.UNSUPPORTED
        ) from error
    written(converted, target)


def in_half(source: Path, target: Path) -> None:
    """The model with its floating point inside in half precision, and inputs and outputs as they are."""
    onnx = _onnx("--precision fp16 for an ONNX file")
    try:
        from onnxconverter_common.float16 import convert_float_to_float16
    except ImportError as error:
        raise CallerError(
            "--precision fp16 for an ONNX file needs onnxconverter-common (pip install onnxconverter-common); from a torch "
            "module it needs nothing",
            Code.UNSUPPORTED,
        ) from error
    try:
        converted = convert_float_to_float16(_loaded(onnx, source), keep_io_types=True)
    except Exception as error:
        raise ModelError(f"{source} cannot be converted to fp16: {type(error).__name__}: {error}") from error
    written(converted, target)


def opset_of(path: Path) -> int | None:
    """The opset of ONNX's own operators; None where onnx is not installed."""
    if not _is_installed():
        return None
    import onnx

    model = _loaded(onnx, path, weights=False)
    return next((int(each.version) for each in model.opset_import if each.domain in ("", "ai.onnx")), None)


def written(model: Any, path: Path, limit: int = LARGEST_MESSAGE) -> None:
    """With the weights in a file of their own where all is more than `limit` bytes."""
    import onnx

    is_large = model.ByteSize() > limit
    onnx.save_model(model, path, save_as_external_data=is_large, all_tensors_to_one_file=True, location=WEIGHTS)


def _external_files(path: Path) -> Sequence[str]:
    import onnx

    model = _loaded(onnx, path, weights=False)
    found = {each.value for tensor in _tensors(onnx, model.graph) for each in tensor.external_data if each.key == "location"}
    return sorted(found)


def _tensors(onnx: Any, graph: Any) -> Iterator[Any]:
    """Initializers and constants of a graph and of those within it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _tensors(onnx, attribute.g)


def _loaded(onnx: Any, path: Path, weights: bool = True) -> Any:
    try:
        return onnx.load(path, load_external_data=weights)
    except Exception as error:
        raise invalid(f"{path} is not an ONNX file: {type(error).__name__}: {error}") from error


def _is_installed() -> bool:
    from importlib.util import find_spec

    return find_spec("onnx") is not None


def _onnx(what: str) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise CallerError(f"{what} needs the package onnx (pip install 'penstock[convert]')", Code.UNSUPPORTED) from error
    return onnx
