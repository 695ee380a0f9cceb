# SPDX-License-Identifier: Apache-2.0
"""That the simulated packages have no member that the real ones lack, and bite where those do."""

from __future__ import annotations

import json
from contextlib import ExitStack
from enum import EnumMeta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plan_rig import affine_onnx, build
from simulated.fixtures import SIMULATED
from simulated.tensorrt_packages import SimulatedTensorRT

from penstock.workers.backends.plans.library import library
from penstock.workers.devices.cuda import Device, DeviceBuffer, Graph, Stream

REAL = {"8.5": "8.5.3", "11": "11.4.0"}
PROFILE = {"x": [[1, 4], [4, 4], [8, 4]]}
OF_BYTES = frozenset(dir(bytes)) | {"dtype"}
OF_ENUMS = frozenset(dir(int)) | {"name", "value"}


@pytest.fixture
def real(simulated_tensorrt: SimulatedTensorRT) -> dict[str, list[str]]:
    """Public members of the real package, by class; "" for the package itself."""
    members: dict[str, dict[str, list[str]]] = json.loads((SIMULATED / "tensorrt_members.json").read_text())
    return members[REAL[simulated_tensorrt.version]]


def test_no_class_has_a_member_that_the_real_one_lacks(
    simulated_tensorrt: SimulatedTensorRT, real: dict[str, list[str]]
) -> None:
    trt = simulated_tensorrt.trt
    strange = {}
    for name, members in real.items():
        kind = getattr(trt, name, None) if name else None
        if kind is None:
            continue
        known = set(members) | (OF_BYTES if issubclass(kind, bytes) else OF_ENUMS if isinstance(kind, EnumMeta) else set())
        made = kind(*_arguments(name, trt)) if name in INSTANTIATED else kind
        strange[name] = {member for member in dir(made) if not member.startswith("_")} - known
    assert len(strange) > 25, "this test would compare nothing"
    assert not {name: members for name, members in strange.items() if members}


INSTANTIATED = {"IBuilderConfig", "INetworkDefinition", "Logger", "Runtime", "Builder", "ITensor", "IOptimizationProfile"}


def _arguments(name: str, trt: Any) -> tuple[Any, ...]:
    logger = library()._logger
    given: dict[str, tuple[Any, ...]] = {
        "INetworkDefinition": (1,), "Runtime": (logger,), "Builder": (logger,), "ITensor": ("x", trt.DataType.FLOAT, (1,)),
    }  # fmt: skip
    return given.get(name, ())


def test_every_enumeration_has_all_names_of_the_real_one(
    simulated_tensorrt: SimulatedTensorRT, real: dict[str, list[str]]
) -> None:
    trt = simulated_tensorrt.trt
    for name in (
        "DataType",
        "BuilderFlag",
        "NetworkDefinitionCreationFlag",
        "TensorFormat",
        "TensorLocation",
        "MemoryPoolType",
    ):
        wanted = {member for member in real[name] if member.isupper()}
        assert set(getattr(trt, name).__members__) == wanted, name


def test_the_package_offers_nothing_else(simulated_tensorrt: SimulatedTensorRT, real: dict[str, list[str]]) -> None:
    ours = {"SPEAKER", "IntEnum", "Path", "Any", "annotations"}
    public = {name for name in vars(simulated_tensorrt.trt) if not name.startswith(("_", "Common"))}
    assert public - ours <= set(real[""])


# --- what bites --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stack(simulated_tensorrt: SimulatedTensorRT) -> Any:
    with ExitStack() as held:
        yield held


def engine_of(simulated: SimulatedTensorRT, **more: Any) -> Any:
    plan = simulated.plan(
        {"x": ("FLOAT", [-1, 4])}, {"y": ("FLOAT", [-1, 4])}, [{"op": "scale", "in": ["x"], "out": "y", "value": 2.0}], [PROFILE],
        **more,
    )  # fmt: skip
    return library().make_runtime().deserialize_cuda_engine(plan)


def stream_and_memory(stack: ExitStack, size: int = 1024) -> tuple[Stream, int, int]:
    device = stack.enter_context(Device(0, blocking=False))
    stream = stack.enter_context(Stream(device))
    return stream, *(stack.enter_context(DeviceBuffer(size)).address for _ in range(2))


def test_what_was_not_set_makes_an_execution_say_no(simulated_tensorrt: SimulatedTensorRT, stack: ExitStack) -> None:
    stream, x, y = stream_and_memory(stack)
    context = engine_of(simulated_tensorrt).create_execution_context()
    log = library().log
    assert not context.execute_async_v3(stream.address) and "shapes or values of x" in log.reason()
    assert context.set_input_shape("x", (2, 4))
    assert not context.execute_async_v3(stream.address) and "Address is not set for tensor x" in log.reason()
    assert context.set_tensor_address("x", x) and context.set_tensor_address("y", y)
    assert not context.execute_async_v3(0) and "default stream" in log.reason()
    assert context.execute_async_v3(stream.address)
    stream.synchronize()


def test_shapes_and_addresses_out_of_bounds_are_refused(simulated_tensorrt: SimulatedTensorRT, stack: ExitStack) -> None:
    _, x, _ = stream_and_memory(stack)
    context = engine_of(simulated_tensorrt).create_execution_context()
    assert not context.set_input_shape("x", (9, 4))
    assert not context.set_input_shape("x", (2, 5))
    assert not context.set_tensor_address("x", x + 128)


def test_two_contexts_on_one_profile_are_too_many_for_the_old_version(
    simulated_tensorrt: SimulatedTensorRT, stack: ExitStack
) -> None:
    stream, *_ = stream_and_memory(stack)
    engine = engine_of(simulated_tensorrt)
    first = engine.create_execution_context()
    second = engine.create_execution_context()
    if simulated_tensorrt.is_old:
        with pytest.raises(RuntimeError, match="Error in set optimization profile async"):
            second.set_optimization_profile_async(0, stream.address)
    else:
        assert second.set_optimization_profile_async(0, stream.address)
    del first
    assert second.set_optimization_profile_async(0, stream.address), "a profile is free again with its context"


def test_a_graph_whose_context_has_other_shapes_by_now_writes_rubbish(
    simulated_tensorrt: SimulatedTensorRT, stack: ExitStack
) -> None:
    stream, x, y = stream_and_memory(stack)
    context = engine_of(simulated_tensorrt, reads_shapes_from_context=True).create_execution_context()
    context.set_input_shape("x", (2, 4))
    context.set_tensor_address("x", x), context.set_tensor_address("y", y)
    graph = stack.enter_context(Graph.capture(stream, lambda: context.execute_async_v3(stream.address)))
    view = simulated_tensorrt.cuda.simulation.view
    view(x, 32).view(np.float32)[:] = 1
    graph.launch(stream)
    stream.synchronize()
    assert (view(y, 32).view(np.float32) == 2).all()
    context.set_input_shape("x", (3, 4))
    graph.launch(stream)
    stream.synchronize()
    assert (view(y, 32) == 0x5A).all()


def test_a_model_that_cannot_be_parsed_is_told_with_its_node(simulated_tensorrt: SimulatedTensorRT) -> None:
    trt, logger = simulated_tensorrt.trt, library()._logger
    model = affine_onnx()
    model.graph.node[1].op_type = "Frobnicate"
    model.graph.node[1].name = "odd_one"
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    parser = trt.OnnxParser(trt.Builder(logger).create_network(0 if explicit is None else 1 << int(explicit)), logger)
    assert not parser.parse(model.SerializeToString())
    error = parser.get_error(0)
    assert (parser.num_errors, error.node()) == (1, 1) and "Frobnicate" in error.desc()
    assert hasattr(error, "node_name") is not simulated_tensorrt.is_old


def test_a_build_without_a_profile_for_what_varies_is_refused(simulated_tensorrt: SimulatedTensorRT) -> None:
    with pytest.raises(AssertionError, match="no optimization profile has been defined"):
        build(simulated_tensorrt.trt, affine_onnx())


def test_a_timing_cache_goes_from_build_to_build(simulated_tensorrt: SimulatedTensorRT, tmp_path: Path) -> None:
    trt = simulated_tensorrt.trt
    config = trt.Builder(library()._logger).create_builder_config()
    assert config.create_timing_cache(b"garbage") is None
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    assert bytes(config.get_timing_cache().serialize()) == b"[]"
