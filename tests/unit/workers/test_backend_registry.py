# SPDX-License-Identifier: Apache-2.0
"""Backends are found by backend name and by platform string, and imported no earlier."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.ipc.errors import CallerError, Code
from penstock.workers.backends import BACKENDS, PLATFORMS, make_backend
from penstock.workers.backends.base import Backend


@pytest.mark.parametrize("name", [*BACKENDS, *PLATFORMS])
def test_every_name_leads_to_a_backend(name: str) -> None:
    backend = make_backend(name)
    assert isinstance(backend, Backend)
    backend.close()


def test_each_call_makes_a_fresh_one() -> None:
    assert make_backend("identity") is not make_backend("identity")


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(CallerError, match=r"'tensorflow'.*fake, identity, onnxruntime") as caught:
        make_backend("tensorflow")
    assert caught.value.code is Code.UNSUPPORTED


def test_a_worker_without_onnx_does_not_import_onnxruntime() -> None:
    program = "import sys, penstock.workers.main as m; m.main; print('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.strip() == "False"
