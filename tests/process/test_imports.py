# SPDX-License-Identifier: Apache-2.0
"""A machine with the base install alone: every module can be imported, or says what to install."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import importlib, importlib.abc, pkgutil, sys

MISSING = {"cuda", "torch", "tensorrt", "cupy", "onnx", "onnxconverter_common", "onnxscript", "matplotlib", "jinja2"}
MISSING |= {"geventhttpclient", "grpc", "aiohttp", "uvloop"}


class Nowhere(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Nowhere())
for layer in ("ipc", "runtime", "workers", "clients"):
    for module in pkgutil.walk_packages(importlib.import_module(f"penstock.{layer}").__path__, f"penstock.{layer}."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except Exception as error:
                print(module.name, "|", error)
"""

OF_TORCH = "penstock.clients.convert.torch_modules"
"""Imported by torch_source.py alone, which says what to install (test_convert.py)."""
OF_LINKS = {"http_answers": "http", "http_flights": "http", "kserve_http": "http", "kserve_grpc": "grpc"}
OF_GATEWAYS = "penstock.runtime.gateway."
OF_REPORTS = ("penstock.clients.report.drawing", "penstock.clients.report.page", "penstock.clients.report.files")


def test_without_cuda_torch_and_tensorrt_every_module_can_be_imported_or_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused = dict(line.split(" | ", 1) for line in done.stdout.splitlines())
    assert refused.pop(OF_TORCH) == "No module named 'torch'"
    assert {refused.pop(name) for name in OF_REPORTS} == {
        f"UNSUPPORTED: a report needs {package}, which cannot be imported (No module named '{package}'): "
        "pip install 'penstock[report]'"
        for package in ("matplotlib", "jinja2")
    }
    for name, link in OF_LINKS.items():
        said = refused.pop(f"penstock.clients.perf.targets.{name}")
        assert said.startswith(f"UNSUPPORTED: --link {link} needs tritonclient") and "pip install 'penstock[gateway]'" in said
    for name in [name for name in refused if name.startswith(OF_GATEWAYS)]:
        said = refused.pop(name)
        assert said.startswith("UNSUPPORTED: a gateway needs ") and said.endswith("pip install 'penstock[gateway]'")
    backends = {name.removeprefix("penstock.workers.backends.") for name in refused}
    assert backends == {
        "pytorch_cuda", "pytorch_libtorch", "torch_forward", "torch_gpu", "torch_graphs", "torch_models", "torch_settings",
    }  # fmt: skip
    assert all(
        "the pytorch backend needs torch" in said and "pip install 'penstock[torch]'" in said for said in refused.values()
    )
