# SPDX-License-Identifier: Apache-2.0
"""Triton's classification extension: of each row of an output its best classes, as text.

An element is `value:index`, and `value:index:label` where the model has a label for it. Format and order are those of
server/src/classification.cc; where Triton leaves the order of equal values open, the lower index is first here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from ..ipc.errors import Code, ModelError
from ..ipc.messages import ModelSpec
from .backends.base import Tensor

Labels = Mapping[int, Sequence[bytes]]
"""Position of an output in the spec -> the label of each of its elements; shorter where the file was."""

NO_LABELS: Labels = MappingProxyType({})


def read_labels(spec: ModelSpec, directory: str) -> Labels:
    """The labels of the outputs that have some, from their files beside the version `directory`. Raises ModelError."""
    labels: dict[int, Sequence[bytes]] = {}
    for output, tensor in enumerate(spec.outputs):
        filename = spec.labels.get(tensor.name)
        if filename is None:
            continue
        try:
            with open(os.path.join(os.path.dirname(directory), filename), "rb") as file:
                labels[output] = file.read().splitlines()
        except OSError as error:
            raise ModelError(
                f"output '{tensor.name}': label_filename '{filename}' cannot be read: {error.strerror}", Code.NOT_FOUND
            ) from error
    return labels


def classify(rows: Tensor, classes: int, labels: Sequence[bytes]) -> list[bytes]:
    """The best classes of each row of a numeric tensor [rows, elements], best first; row after row. NaN comes last."""
    is_float = rows.dtype.kind == "f"
    keys = -rows if is_float else ~rows  # ascending where the values descend: ~ does that for signed and unsigned alike
    form = b"%f:%d" if is_float else b"%d:%d"  # std::to_string's
    found: list[bytes] = []
    for values, order in zip(rows, np.argsort(keys, axis=1, kind="stable")[:, :classes], strict=True):
        for index in order.tolist():
            label = labels[index] if index < len(labels) else b""
            found.append(form % (values[index].item(), index) + (b":" + label if label else b""))
    return found
