# SPDX-License-Identifier: Apache-2.0
"""The packages that do the work: whether they import, and which they are."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib import metadata

from .finding import Finding, Verdict

NEEDED = (
    ("penstock", "penstock.ipc", ""),
    ("msgspec", "msgspec", "nothing works"),
    ("pyzmq", "penstock.ipc.zeromq", "no ZeroMQ door; a broker cannot start"),
    ("posix-ipc", "penstock.ipc.system_regions", "no `system` regions; a broker cannot start"),
    ("protobuf", "google.protobuf.text_format", "no model configuration can be read"),
    ("tritonclient", "penstock.runtime.repository.schema", "no model configuration can be read"),
    ("onnxruntime", "penstock.workers.backends.onnxruntime_onnx", "no ONNX model can be served"),
)
"""(distribution, what importing it for our purpose imports, what follows where that fails)."""

OPTIONAL = (
    ("torch", "for tensors of torch", "pip install 'penstock[torch]'"),
    ("cryptography", "for the repository agent `decrypt`", "pip install 'penstock[decrypt]'"),
    ("aiohttp", "for gateways, over HTTP", "pip install 'penstock[gateway]'"),
    ("grpcio", "for gateways, over gRPC", "pip install 'penstock[gateway]'"),
    ("uvloop", "for gateways", "pip install 'penstock[gateway]'"),
    ("matplotlib", "for `penstock report`", "pip install 'penstock[report]'"),
    ("jinja2", "for `penstock report`", "pip install 'penstock[report]'"),
)
"""(distribution, what it is for, how to get it). Not imported: some take seconds."""


def packages() -> Iterator[Finding]:
    """Packages: those that must import."""
    for distribution, module, consequence in NEEDED:
        try:
            version = metadata.version(distribution)
            importlib.import_module(module)
        except (ImportError, metadata.PackageNotFoundError) as error:
            fix = f"pip install --upgrade {distribution}"
            yield Finding(distribution, Verdict.PROBLEM, f"{type(error).__name__}: {error}", consequence, fix)
        else:
            yield Finding(distribution, Verdict.OK, version)


def optional_packages() -> Iterator[Finding]:
    """Optional packages."""
    for distribution, purpose, fix in OPTIONAL:
        try:
            yield Finding(distribution, Verdict.OK, metadata.version(distribution), purpose)
        except metadata.PackageNotFoundError:
            yield Finding(distribution, Verdict.OK, "not installed", purpose, fix)
