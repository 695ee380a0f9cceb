# SPDX-License-Identifier: Apache-2.0
"""Where instances go: kinds, GPUs, names, lanes, and what is said where they cannot go there."""

from __future__ import annotations

import pytest
from texts import IDENTITY, ONNX, complaint, parsed, signature

from penstock.ipc.gpus import GpuInfo, Gpus
from penstock.runtime.repository.configuration import ModelConfig, WorkerPlan, complete
from penstock.runtime.repository.placement import Placing
from penstock.runtime.scheduling.requests import NO_GPU

U0, U1 = "GPU-00000000-0000-0000-0000-000000000000", "GPU-00000000-0000-0000-0000-000000000001"
TENSORRT = 'platform: "tensorrt_plan"\n'


def two_gpus(*backends: str) -> Gpus:
    found = [GpuInfo(at, uuid, f"H{at}00", 80 << 30, (9, 0), "", False, False) for at, uuid in enumerate((U0, U1))]
    return Gpus(tuple(found), "", "13.0", "13.0", backends)


def with_gpus(*backends: str, lanes: int = 1) -> Placing:
    return Placing(lambda: two_gpus(*backends), lanes=lanes)


def nobody_asks() -> Gpus:
    raise AssertionError("nothing here depends on which GPUs there are")


NONE = Placing(lambda: Gpus(reason="this machine has no NVIDIA driver"))


def plans(config: ModelConfig) -> list[tuple[tuple[str, ...], int]]:
    return [(worker.instances, worker.gpu) for worker in config.workers()]


# --- kinds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "usable", "kind"),
    [
        (ONNX, (), "KIND_CPU"),  # the package for the CPU is installed
        (ONNX, ("onnxruntime",), "KIND_GPU"),
        (ONNX + "instance_group { kind: KIND_AUTO }", ("onnxruntime",), "KIND_GPU"),
        (ONNX + "instance_group { kind: KIND_CPU }", ("onnxruntime",), "KIND_CPU"),
        (ONNX + "instance_group { kind: KIND_GPU }", (), "KIND_GPU"),  # whoever writes it may know better
        (ONNX + "instance_group { gpus: [ 1 ] }", (), "KIND_GPU"),
        (TENSORRT, (), "KIND_GPU"),
        (IDENTITY, ("identity",), "KIND_CPU"),  # as Triton's identity backend
        (IDENTITY + "instance_group { kind: KIND_GPU }", (), "KIND_GPU"),
    ],
)
def test_a_group_gets_the_kind_that_triton_would_give_it(text: str, usable: tuple[str, ...], kind: str) -> None:
    (group,) = parsed(text, placing=with_gpus(*usable)).instance_groups
    assert group.kind == kind


@pytest.mark.parametrize("text", [IDENTITY, ONNX + "instance_group { kind: KIND_CPU }", 'backend: "fake"\n' + IDENTITY[20:]])
def test_gpus_are_looked_for_only_where_it_matters(text: str) -> None:
    assert parsed(text, placing=Placing(nobody_asks)).devices == {NO_GPU}


def test_where_there_is_no_gpu_auto_is_the_cpu() -> None:
    config = parsed(ONNX + "instance_group { kind: KIND_AUTO gpus: [ 3 ] }", placing=NONE)

    assert plans(config) == [(("m_0_0",), NO_GPU), (("m_0_1",), NO_GPU)]
    assert config.to_json()["instance_group"][0]["gpus"] == []


# --- GPUs and names ------------------------------------------------------------------------------------------------------


def test_a_group_without_gpus_has_all_of_them_and_its_count_on_each() -> None:
    config = parsed(IDENTITY + "instance_group { kind: KIND_GPU count: 2 }", placing=with_gpus())

    assert config.workers()[1] == WorkerPlan(("m_0_0_gpu1",), config.instance_groups[0], 1, U1)
    assert plans(config) == [
        (("m_0_0_gpu0",), 0), (("m_0_0_gpu1",), 1), (("m_0_1_gpu0",), 0), (("m_0_1_gpu1",), 1),
    ]  # fmt: skip
    assert config.devices == {0, 1}
    assert config.uuids == {0: U0, 1: U1}
    assert config.to_json()["instance_group"][0]["gpus"] == [0, 1]


def test_on_one_gpu_instances_have_tritons_names() -> None:
    config = parsed(IDENTITY + 'instance_group [ { kind: KIND_GPU gpus: 1 count: 2 }, { name: "c" } ]', placing=with_gpus())

    assert plans(config) == [(("m_0_0",), 1), (("m_0_1",), 1), (("c_0",), NO_GPU)]
    assert config.devices == {1, NO_GPU}
    assert [worker.host_policy for worker in config.workers()] == ["gpu_1", "gpu_1", "cpu"]


def test_a_tensorrt_model_has_one_instance_on_each_gpu() -> None:
    assert plans(parsed(TENSORRT, placing=with_gpus())) == [(("m_0_gpu0",), 0), (("m_0_gpu1",), 1)]


# --- lanes ---------------------------------------------------------------------------------------------------------------


def test_lanes_are_instances_of_one_group_on_one_gpu_that_share_a_worker() -> None:
    text = IDENTITY + "instance_group [ { kind: KIND_GPU count: 3 }, { count: 2 } ]"

    config = parsed(text, placing=with_gpus(lanes=2))

    assert plans(config) == [
        (("m_0_0_gpu0", "m_0_1_gpu0"), 0), (("m_0_0_gpu1", "m_0_1_gpu1"), 1), (("m_0_2_gpu0",), 0), (("m_0_2_gpu1",), 1),
        (("m_1_0",), NO_GPU), (("m_1_1",), NO_GPU),
    ]  # fmt: skip
    assert config.worker_names() == ["m_0_0_gpu0", "m_0_0_gpu1", "m_0_2_gpu0", "m_0_2_gpu1", "m_1_0", "m_1_1"]


def test_a_model_may_say_how_many_lanes_it_has() -> None:
    text = IDENTITY + "instance_group { kind: KIND_GPU gpus: 0 count: 4 }"
    lanes = 'parameters { key: "lanes" value { string_value: "%s" } }'

    assert len(parsed(text + lanes % 4, placing=with_gpus()).workers()) == 1
    assert len(parsed(text + lanes % 1, placing=with_gpus(lanes=4)).workers()) == 4
    for wrong in ("0", "65", "many", "-1"):
        said = complaint(text + lanes % wrong, placing=with_gpus())
        assert said == f"m/config.pbtxt:4:51: parameter 'lanes' must be a whole number from 1 to 64, got '{wrong}' for m"


# --- what cannot be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            IDENTITY + "instance_group { kind: KIND_GPU gpus: [ 0, 42 ] }",
            (
                "m/config.pbtxt:4:41: instance group m_0 of model m specifies invalid or unsupported gpu id 42. GPUs of this broker "
                f"are: 0 (H000, {U0}), 1 (H100, {U1})"
            ),
        ),
        (
            IDENTITY + "instance_group { kind: KIND_GPU gpus: [ 1, 1 ] }",
            "m/config.pbtxt:4:41: instance group m_0 of model m names GPU 1 more than once; for more instances on it write count",
        ),
        (
            IDENTITY + "instance_group { kind: KIND_CPU gpus: [ 1 ] }",
            "m/config.pbtxt:4:41: instance group m_0 of model m has kind KIND_CPU but specifies one or more GPU; write KIND_GPU",
        ),
        (
            'backend: "fake"\n' + IDENTITY.partition("\n")[2] + "instance_group { kind: KIND_GPU }",
            (
                "m/config.pbtxt:4:18: instance group m_0 of model m has kind KIND_GPU but backend 'fake' computes on the CPU only; "
                "write KIND_CPU"
            ),
        ),
        (
            TENSORRT + "instance_group { kind: KIND_CPU }",
            (
                "m/config.pbtxt:2:18: instance group m_0 of model m has kind KIND_CPU, but backend 'tensorrt' computes on GPUs only; "
                "write KIND_GPU"
            ),
        ),
        (
            IDENTITY + 'instance_group { kind: KIND_GPU profile: "1" }',
            (
                "m/config.pbtxt:4:33: instance group m_0 of model m has a profile, which is TensorRT's, but backend 'identity'; "
                "remove it"
            ),
        ),
        (
            IDENTITY + 'instance_group [ { name: "g" kind: KIND_GPU }, { name: "g" kind: KIND_GPU gpus: [ 0, 1 ] } ]',
            (
                "m/config.pbtxt:4:18: 2 instances of model m are called g_0_gpu0; name the groups apart\n"
                "m/config.pbtxt:4:18: 2 instances of model m are called g_0_gpu1; name the groups apart"
            ),
        ),
    ],
)
def test_what_cannot_be_is_said_with_place_and_remedy(text: str, said: str) -> None:
    assert complaint(text, placing=with_gpus()) == said


def test_a_gpu_that_is_not_there_is_an_error_that_names_the_fix() -> None:
    text = IDENTITY + "instance_group [ { kind: KIND_CPU },\n{ kind: KIND_GPU gpus: [ 0 ] count: 3 } ]"

    assert complaint(text, placing=NONE) == (
        "m/config.pbtxt:5:3: instance group m_1 of model m has kind KIND_GPU but server does not support GPUs: this machine has "
        "no NVIDIA driver; write KIND_CPU or KIND_AUTO, or serve with --fallback cpu"
    )


def test_the_gpus_are_asked_for_once_for_all_groups() -> None:
    """A survey that fails may answer otherwise the next time, and takes its time."""
    asked: list[Gpus] = []

    def none_now() -> Gpus:
        asked.append(Gpus(reason="the driver hangs"))
        return asked[-1]

    text = IDENTITY + 'instance_group [ { kind: KIND_GPU }, { name: "b" kind: KIND_GPU } ]'
    assert "the driver hangs" in complaint(text, placing=Placing(none_now))
    assert len(asked) == 1


def test_with_fallback_it_is_the_cpu_and_a_warning() -> None:
    text = IDENTITY + "instance_group [ { kind: KIND_CPU },\n{ kind: KIND_GPU gpus: [ 0 ] count: 3 } ]"

    config = parsed(text, placing=NONE._replace(fallback=True))

    assert plans(config)[1:] == [(("m_1_0",), NO_GPU), (("m_1_1",), NO_GPU), (("m_1_2",), NO_GPU)]
    assert config.warnings == (
        (
            "m/config.pbtxt:5:3: instance_group[1].kind is KIND_GPU, served on the CPU because of --fallback cpu: "
            "this machine has no NVIDIA driver"
        ),
    )


def test_with_fallback_a_gpu_that_is_there_is_used() -> None:
    config = parsed(IDENTITY + "instance_group { kind: KIND_GPU gpus: 1 }", placing=with_gpus()._replace(fallback=True))

    assert (plans(config), config.warnings) == ([(("m_0_0",), 1)], ())


@pytest.mark.parametrize("group", ["", "instance_group { kind: KIND_GPU }"])
def test_a_tensorrt_model_has_nothing_to_fall_back_to(group: str) -> None:
    said = complaint(TENSORRT + group, placing=NONE._replace(fallback=True))

    assert said.endswith(
        "server does not support GPUs: this machine has no NVIDIA driver; backend 'tensorrt' computes on GPUs only"
    )


def test_where_instances_go_survives_completion() -> None:
    config = parsed(ONNX + "instance_group { kind: KIND_GPU count: 2 }", placing=with_gpus(lanes=2))

    again = complete(config, signature({"x": [-1, 2]}, {"y": [-1, 3]}))

    assert (again.is_complete, again.workers()) == (True, config.workers())
