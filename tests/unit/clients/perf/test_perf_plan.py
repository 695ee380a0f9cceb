# SPDX-License-Identifier: Apache-2.0
"""What can be measured, and what is refused before anything is: batch sizes, memory kinds, addresses, shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.clients.models import ModelInfo, TensorInfo
from penstock.clients.perf.inputs import make_inputs
from penstock.clients.perf.plan import Plan, Point, address_of_link, input_shapes, memory_over, points_of
from penstock.ipc.errors import BrokerError, CallerError


def model(max_batch_size: int = 8, *inputs: tuple[str, str, tuple[int, ...]]) -> ModelInfo:
    specs = tuple(TensorInfo(*each) for each in inputs or [("x", "FP32", (2,))])
    return ModelInfo("m", -1, 1, (1,), "identity", max_batch_size, specs, specs)


def test_every_batch_size_at_every_concurrency() -> None:
    assert points_of(model(), [4, 1], [1, 2], 100) == (Point(4, 1), Point(1, 1), Point(4, 2), Point(1, 2))


@pytest.mark.parametrize(("largest", "sizes"), [(64, [1, 2, 4, 8, 16, 32, 64]), (10, [1, 2, 4, 8]), (1, [1]), (0, [1])])
def test_by_default_those_that_the_model_takes(largest: int, sizes: list[int]) -> None:
    assert [point.batch for point in points_of(model(largest), [], [1], 100)] == sizes


@pytest.mark.parametrize(
    ("largest", "sizes", "text"),
    [(8, [1, 9, 16], r"'m'.*\[9, 16\]: max_batch_size is 8"), (0, [1, 2], r"\[2\]: it has no batch dimension, 1 is all")],
)
def test_a_batch_size_that_the_model_does_not_take_is_named(largest: int, sizes: list[int], text: str) -> None:
    with pytest.raises(CallerError, match=text):
        points_of(model(largest), sizes, [1], 100)


def test_more_in_flight_than_the_broker_allows_is_refused() -> None:
    with pytest.raises(CallerError, match=r"concurrency \[101\] .* 1 to 100 in flight"):
        points_of(model(), [1], [100, 101], 100)


@pytest.mark.parametrize(
    ("link", "is_tcp", "asked", "found"),
    [
        ("local", False, None, "memfd"), ("zmq", False, None, "system"), ("zmq", True, None, "none"),
        ("local", False, "system", "system"), ("zmq", False, "none", "none"), ("zmq", True, "none", "none"),
        ("http", False, None, "none"), ("grpc", False, None, "none"), ("http", False, "system", "system"), ("grpc", False, "cuda", "cuda"),
    ],
)  # fmt: skip
def test_memory_that_a_link_can_have(link: Any, is_tcp: bool, asked: Any, found: str) -> None:
    assert memory_over(link, asked, is_tcp) == found


@pytest.mark.parametrize(
    ("link", "is_tcp", "asked", "text"),
    [
        ("zmq", False, "memfd", "memfd over zmq: ZeroMQ hands no descriptors over"),
        ("local", False, "none", "none over local: the local link carries no tensors"),
        ("zmq", True, "system", "system over tcp: tcp:// may lead to another machine"),
        ("zmq", True, "memfd", "memfd over tcp"),
        ("http", False, "memfd", "memfd over http: KServe v2 hands no descriptors over"),
    ],
)
def test_memory_that_a_link_cannot_have_is_refused_by_name(link: Any, is_tcp: bool, asked: Any, text: str) -> None:
    with pytest.raises(CallerError, match=f"--shared-memory {text}"):
        memory_over(link, asked, is_tcp)


def test_the_address_of_a_link_is_tcp_only_where_there_is_no_other() -> None:
    listening = ["tcp://127.0.0.1:5000", "unix:///run/p.sock", "ipc:///run/p.zmq"]
    assert str(address_of_link(listening, "local")) == "unix:///run/p.sock"
    assert str(address_of_link(listening, "zmq")) == "ipc:///run/p.zmq"
    assert address_of_link(listening[:2], "zmq").is_tcp


def test_a_broker_without_such_a_link_says_where_it_listens() -> None:
    with pytest.raises(BrokerError, match=r"listens at unix:///run/p\.sock: none of these is --link zmq"):
        address_of_link(["unix:///run/p.sock"], "zmq")


# --- shapes and inputs -------------------------------------------------------------------------------------------------------


def test_shapes_have_the_batch_dimension_where_the_model_has() -> None:
    tensors = (("a", "FP32", (-1, 3)), ("b", "INT8", (2,)))
    assert input_shapes(model(8, *tensors), 4, {"a": (5, 3)}) == {"a": (4, 5, 3), "b": (4, 2)}
    assert input_shapes(model(0, *tensors), 1, {"a": (5, 3)}) == {"a": (5, 3), "b": (2,)}


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ({}, r"variable dims \[-1, 3\]: say --shape a:1,3"),
        ({"a": (5, 4)}, r"has dims \[-1, 3\], --shape says \[5, 4\]"),
        ({"a": (5,)}, r"has dims \[-1, 3\], --shape says \[5\]"),
        ({"a": (5, 3), "c": (1,)}, r"no input \['c'\]; it has \['a'\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: Any, text: str) -> None:
    with pytest.raises(CallerError, match=text):
        input_shapes(model(8, ("a", "FP32", (-1, 3))), 1, shapes)


def inputs(datatype: str, number: int = 0, **options: Any) -> np.ndarray[Any, Any]:
    plan = Plan(points=(Point(1, 1),), memory="none", **options)
    return make_inputs(model(8, ("x", datatype, (50,))), {"x": (2, 50)}, plan, number)["x"]


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "INT8", "UINT8", "INT64", "UINT16", "BOOL", "BF16", "BYTES"])
def test_random_inputs_are_distinct_and_the_same_for_the_same_seed(datatype: str) -> None:
    first = inputs(datatype)
    assert first.shape == (2, 50)
    assert (first == inputs(datatype)).all()
    assert not (first == inputs(datatype, number=1)).all()
    assert not (first == inputs(datatype, seed=1)).all()


def test_random_numbers_stay_where_models_expect_them() -> None:
    assert 0 <= inputs("FP32").min() < inputs("FP32").max() < 1
    assert 0 <= inputs("INT64").min() < inputs("INT64").max() < 128
    as_floats = (inputs("BF16").astype(np.uint32) << 16).view(np.float32)
    assert 0 <= as_floats.min() < as_floats.max() <= 1


def test_strings_have_the_length_asked_for() -> None:
    assert {len(text) for text in inputs("BYTES", string_length=7).flat} == {7}
    assert all(text.isalpha() for text in inputs("BYTES").flat)


def test_zeros_are_zeros_and_empty_strings() -> None:
    assert not inputs("FP32", input_data="zero").any()
    assert set(inputs("BYTES", input_data="zero").flat) == {b""}
