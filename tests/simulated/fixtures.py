# SPDX-License-Identifier: Apache-2.0
"""Fixtures that put simulated packages before the real ones: for this process, and for those that a test starts."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

SIMULATED = Path(__file__).parent
CUDA = SIMULATED / "cuda_runtime"


class SimulatedCuda:
    """A machine with simulated GPUs. Processes of a test that are given `environment()` share its device memory by handles."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._variables: dict[str, str] = {"SIMULATED_CUDA_DIR": str(folder)}
        self._simulation: Any = None
        #: whether the test means to leave something, or to use something wrongly
        self.is_forgiven = False

    def __repr__(self) -> str:
        return f"<SimulatedCuda in {self.folder}: {self._variables}>"

    def configure(self, **variables: object) -> None:
        """Sets variables of the simulation by their names without SIMULATED_CUDA_, in lower case: gpus=2, without="..."

        For this process only before its first use of CUDA.
        """
        for name, value in variables.items():
            self._variables[f"SIMULATED_CUDA_{name.upper()}"] = str(value)
        if self._simulation is not None:
            raise AssertionError("this process uses CUDA already, and has read its environment")
        os.environ.update(self._variables)

    def environment(self, *packages: Path, **more: str) -> dict[str, str]:
        """The environment of a child process on this machine; `packages` are further directories for its path."""
        path = [str(CUDA), *map(str, packages), *filter(None, [os.environ.get("PYTHONPATH", "")])]
        return {**os.environ, **self._variables, "PYTHONPATH": os.pathsep.join(path), **more}

    @property
    def simulation(self) -> Any:
        """The module cuda.simulation of this process."""
        if self._simulation is None:
            self._simulation = importlib.import_module("cuda.simulation")
        return self._simulation

    def pause(self) -> None:
        """Stops the devices, in every process."""
        (self.folder / "paused").touch()

    def resume(self) -> None:
        (self.folder / "paused").unlink(missing_ok=True)

    def forgive(self) -> None:
        """The test uses something wrongly on purpose, or leaves it behind."""
        self.is_forgiven = True

    def check(self) -> None:
        """Raises AssertionError when some process used CUDA wrongly, or this one left something."""
        written = [file.read_text() for file in sorted(self.folder.glob("violations-*"))]
        assert not written, "CUDA was used wrongly:\n" + "\n".join(written)
        left = self.simulation.leftovers()
        assert not left, f"left on the device: {left}"


@pytest.fixture
def simulated_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedCuda]:
    """Simulated GPUs instead of real ones; at the end of the test all is given back and nothing was used wrongly."""
    folder = tmp_path / "cuda"
    folder.mkdir()
    machine = SimulatedCuda(folder)
    with shadowed("cuda", CUDA, monkeypatch):
        monkeypatch.setenv("SIMULATED_CUDA_DIR", str(folder))
        for name in [name for name in os.environ if name.startswith("SIMULATED_CUDA_") and name != "SIMULATED_CUDA_DIR"]:
            monkeypatch.delenv(name)
        before = dict(os.environ)
        yield machine
        try:
            machine.resume()
            if not machine.is_forgiven:
                machine.check()
        finally:
            machine.simulation.shut_down()
            _restore(before)


def pass_on(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the test starts without an environment of their own are on this machine too."""
    for name, value in environment.items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)


class shadowed:
    """For a with statement: `package` is imported from `directory`, whatever was imported under its name before."""

    def __init__(self, package: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._package = package
        self._directory = directory
        self._monkeypatch = monkeypatch
        self._real: Mapping[str, Any] = {}

    def __enter__(self) -> None:
        self._real = self._take_out()
        self._monkeypatch.syspath_prepend(str(self._directory))
        _forget_cuda()

    def __exit__(self, *_: object) -> None:
        self._take_out()
        sys.modules.update(self._real)
        sys.path.remove(str(self._directory))
        _forget_cuda()

    def _take_out(self) -> dict[str, Any]:
        """Compiled modules cannot be imported twice, so they are kept, not dropped."""
        names = [name for name in sys.modules if name == self._package or name.startswith(f"{self._package}.")]
        return {name: sys.modules.pop(name) for name in names}


def _forget_cuda() -> None:
    """Our only memory of which CUDA there is."""
    from penstock.ipc import cuda

    cuda.runtime.cache_clear()
    cuda.driver.cache_clear()


def _restore(environment: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(environment):
        if name.startswith("SIMULATED_CUDA_"):
            del os.environ[name]
