# SPDX-License-Identifier: Apache-2.0
"""The process that builds TensorRT engines, with packages tensorrt that misbehave in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.clients.convert import engines
from penstock.clients.convert.engine_orders import Order
from penstock.ipc.errors import MachineError, ModelError

BLOCKING = """
class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)
class Builder:
    def __init__(self, logger): pass
    def create_network(self, flags): pass
class NetworkDefinitionCreationFlag: pass
class OnnxParser:
    def __init__(self, network, logger): pass
    def parse_from_file(self, path): open(path).read()
def init_libnvinfer_plugins(logger, namespace): pass
__version__ = "8.5"
"""
"""Parses until somebody opens the other end of a pipe."""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a package tensorrt, which a child finds first."""
    path = tmp_path / "packages" / "tensorrt.py"
    path.parent.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path.parent), os.environ.get("PYTHONPATH", "")]))
    return path


def test_what_native_code_prints_does_not_come_between_the_reports(package: Path) -> None:
    """Given a library that prints as it is loaded; then what is wrong with it is told all the same."""
    package.write_text("import os; os.write(1, b'[W] something\\n'); raise ImportError('libnvinfer.so.8 is missing')")
    with pytest.raises(MachineError, match="trt: TensorRT is not installed: libnvinfer.so.8 is missing"):
        engines.look()


@pytest.mark.parametrize(
    ("text", "end"),
    [("os.kill(os.getpid(), 9)", "was killed by signal 9"), ("os._exit(7)", "ended with exit code 7")],
)
def test_a_builder_that_dies_is_told_with_its_end(package: Path, text: str, end: str) -> None:
    package.write_text(f"import os; {text}")
    with pytest.raises(ModelError, match=f"trt: the builder {end} before it was done"):
        engines.build(Order(onnx="m.onnx"), lambda _: None)


def test_an_interrupted_build_does_not_go_on(package: Path, tmp_path: Path) -> None:
    """Given a parser that never ends; when its caller is interrupted; then the process is gone before the caller goes on."""
    package.write_text(BLOCKING)
    pipe = tmp_path / "m.onnx"
    os.mkfifo(pipe)
    heard: list[str] = []

    def say(step: str) -> None:
        heard.append(step)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engines.build(Order(onnx=str(pipe)), say)
    assert heard == ["trt: parsing"]
    with pytest.raises(OSError, match="No such device or address"):  # ENXIO: nobody reads
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
