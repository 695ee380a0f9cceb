# SPDX-License-Identifier: Apache-2.0
"""Tiny model files of torch, made when they are needed. Whatever imports this skips where torch is not installed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="needs torch (the extra `torch`)")


class Prefix(torch.nn.Module):
    """y = the first 4 of the 6 elements of each row of x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :4].clone()


class Same(torch.nn.Module):
    """y = x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def write_script(directory: Path, module: Any, *examples: Any, filename: str = "model.pt") -> Path:
    """TorchScript: traced with the examples, scripted without. Returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():  # torch advises to export instead, since 2.9
        warnings.simplefilter("ignore")
        made = torch.jit.trace(module.eval(), examples) if examples else torch.jit.script(module.eval())
        torch.jit.save(made, str(directory / filename))
    return directory


def write_exported(
    directory: Path, module: Any, *examples: Any, keywords: Mapping[str, Any] | None = None, rows: int = 64,
    filename: str = "model.pt",
) -> Path:  # fmt: skip
    """An exported program whose tensors begin with a dimension of 1 to `rows`; with `rows` 0 all dims are fixed."""
    directory.mkdir(parents=True, exist_ok=True)
    shapes = None
    if rows:
        lead = {0: torch.export.Dim("rows", min=1, max=rows)}
        shapes = torch.utils._pytree.tree_map(lambda _leaf: lead, (examples, dict(keywords or {})))
        if keywords is None:
            shapes = shapes[0]
        else:
            names = module.forward.__code__.co_varnames[1 : 1 + len(examples)]
            shapes = {**dict(zip(names, shapes[0], strict=True)), **shapes[1]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), examples, dict(keywords or {}), dynamic_shapes=shapes)
        with open(directory / filename, "wb") as file:
            torch.export.save(program, file)
    return directory
