# SPDX-License-Identifier: Apache-2.0
"""Where brokers and clients of a test find their GPU, and models for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvidia import with_mps_control, without_mps_control
from running import RunningBroker

CONFIG = """
name: "{name}"
backend: "{backend}"
max_batch_size: {max_batch_size}
input [ {{ name: "INPUT__0" data_type: TYPE_FP32 dims: [ {width} ] }} ]
output [ {{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ {width} ] }} ]
instance_group [ {{ count: {count} kind: KIND_GPU }} ]
{rest}
"""


def add_gpu_model(
    repository: Path, name: str, *, backend: str = "identity", max_batch_size: int = 8, width: int = 1024, count: int = 1, rest: str = "",
) -> Path:  # fmt: skip
    """Writes a model whose output is its input, or one of a file that the caller puts into the directory that is returned."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    text = CONFIG.format(name=name, backend=backend, max_batch_size=max_batch_size, width=width, count=count, rest=rest)
    (repository / name / "config.pbtxt").write_text(text)
    return folder


class GpuMachine:
    """Where brokers and clients of a test find their GPU."""

    def __init__(self, folder: Path, simulated: Any) -> None:
        self.folder = folder
        self._simulated = simulated
        self.has_mps_control = True  # of a simulated machine

    @property
    def is_simulated(self) -> bool:
        return self._simulated is not None

    def environment(self, **more: str) -> Mapping[str, str]:
        """That of processes on this machine."""
        if self._simulated is None:
            return {**os.environ, **more}
        make = with_mps_control if self.has_mps_control else without_mps_control
        found: Mapping[str, str] = self._simulated.environment(**make(self.folder / "bin"), **more)
        return found

    def serving(self, repository: Path, *options: str) -> RunningBroker:
        """A broker on both links, in the test's folder."""
        return RunningBroker(self.folder, repository, *options, environment=self.environment())

    def cycles(self, on_gpu: int) -> int:
        """How often to do what must not leak: where it is slow and proves little, less often."""
        return on_gpu if self._simulated is None else 25

    def forgive(self) -> None:
        """Somebody is killed who had memory on the GPU."""
        if self._simulated is not None:
            self._simulated.forgive()
