# SPDX-License-Identifier: Apache-2.0
"""Models, counters and errors of KServe v2 servers, as HTTP and gRPC tell them."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.clients.models import ModelInfo, TensorInfo
from penstock.clients.perf.targets.kserve import counts_of, error_of, model_of
from penstock.ipc.errors import BrokerError, CallerError, Code, ModelError

METADATA: dict[str, Any] = {
    "name": "m", "versions": ["1", "3"], "platform": "onnxruntime_onnx",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}], "outputs": [{"name": "y", "datatype": "BYTES", "shape": ["-1", "2"]}],
}  # fmt: skip
MODEL = ModelInfo(
    "m", -1, 3, (1, 3), "onnxruntime_onnx", 8, (TensorInfo("x", "FP32", (16,)),), (TensorInfo("y", "BYTES", (2,)),)
)


def counters(**counts: tuple[object, object]) -> dict[str, Any]:
    return {name: {"count": count, "ns": ns} for name, (count, ns) in counts.items()}


def test_a_model_that_batches_has_a_dimension_for_it() -> None:
    assert model_of(METADATA, {"max_batch_size": 8}, -1) == MODEL


@pytest.mark.parametrize("configuration", [{}, {"max_batch_size": 0}])
def test_without_batching_shapes_are_whole(configuration: dict[str, Any]) -> None:
    found = model_of(METADATA, configuration, 1)
    assert (found.version, found.max_batch_size, found.inputs[0].dims) == (1, 0, (-1, 16))


@pytest.mark.parametrize(("versions", "version"), [([], 1), (["v2", "2"], 2), (["v2"], 1)])
def test_versions_that_are_no_numbers_are_none(versions: list[str], version: int) -> None:
    assert model_of(METADATA | {"versions": versions}, {}, -1).version == version


def test_counters_are_those_of_the_version_however_they_are_written() -> None:
    # Given HTTP's numbers for one version, and gRPC's texts, which leave out what is 0, for the other
    old = counters(success=(9, 90), queue=(9, 9))
    new = counters(
        success=("4", "40"), queue=("4", "1"), compute_input=("4", "2"), compute_infer=("3", "3"), cache_hit=("1", "7")
    )
    statistics = {
        "model_stats": [
            {"name": "m", "version": "1", "inference_stats": old},
            {"name": "m", "version": "3", "inference_stats": new},
        ]
    }
    assert counts_of(statistics, MODEL) == (4, 40, 1, 2, 3, 0, 0, 1)
    assert counts_of(statistics, MODEL._replace(version=1)) == (9, 90, 9, 0, 0, 0, 0, 0)
    # A model that has never been asked is not left out of them
    with pytest.raises(CallerError, match="no statistics of model 'm' version 2"):
        counts_of(statistics, MODEL._replace(version=2))


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, CallerError, Code.INVALID_ARG), ("404", CallerError, Code.NOT_FOUND), (500, ModelError, Code.INTERNAL),
        (501, CallerError, Code.UNSUPPORTED), (503, BrokerError, Code.UNAVAILABLE), (418, ModelError, Code.INTERNAL),
        ("StatusCode.INVALID_ARGUMENT", CallerError, Code.INVALID_ARG), ("StatusCode.UNIMPLEMENTED", CallerError, Code.UNSUPPORTED),
        ("StatusCode.UNAVAILABLE", BrokerError, Code.UNAVAILABLE), ("StatusCode.CANCELLED", BrokerError, Code.CANCELLED),
        ("StatusCode.DEADLINE_EXCEEDED", BrokerError, Code.DEADLINE_EXCEEDED), ("StatusCode.UNKNOWN", ModelError, Code.INTERNAL),
    ],
)  # fmt: skip
def test_errors_have_tritons_codes(status: str | int, kind: type[Exception], code: Code) -> None:
    error = error_of(status, "why")
    assert (type(error), error.code, error.message) == (kind, code, "why")
