# SPDX-License-Identifier: Apache-2.0
"""Configurations: what is filled in, what is wrong with them, and what others read from them."""

from __future__ import annotations

import json

import pytest
from texts import IDENTITY, ONNX, TENSORS, complaint, parsed

from penstock.ipc.errors import Code
from penstock.ipc.messages import ModelSpec, Optimization, TensorSpec
from penstock.runtime.repository.configuration import DynamicBatching, RateLimiter, Resource, WorkerPlan
from penstock.runtime.repository.schema import parse_text
from penstock.runtime.repository.validation import problems
from penstock.runtime.scheduling.policy import QueuePolicy, TimeoutAction


def test_a_configuration_as_workers_and_the_scheduler_see_it() -> None:
    config = parsed(
        ONNX
        + """name: "m" max_batch_size: 8
        input [ { name: "a" data_type: TYPE_STRING dims: [ -1 ] }, { name: "b" data_type: TYPE_BF16 dims: [ 3, 4 ] } ]
        output { name: "c" data_type: TYPE_BOOL dims: 1 }
        dynamic_batching { preferred_batch_size: [ 8, 4, 4 ] max_queue_delay_microseconds: 250 preserve_ordering: true }
        parameters [ { key: "max_execution_s" value { string_value: "1.5" } }, { key: "k" value { string_value: "v" } } ]
        instance_group [ { count: 2 }, { name: "slow" kind: KIND_CPU count: 1 } ]"""
    )

    assert config.spec(3) == ModelSpec(
        "m", 3, "onnxruntime", 8,
        [TensorSpec("a", "BYTES", [-1]), TensorSpec("b", "BF16", [3, 4])], [TensorSpec("c", "BOOL", [1])],
        {"max_execution_s": "1.5", "k": "v"}, optimization=Optimization(preferred_batch_sizes=[4, 8]),
    )  # fmt: skip
    assert config.dynamic_batching == DynamicBatching((4, 8), 250, preserve_ordering=True)
    assert [(group.name, group.count, group.kind) for group in config.instance_groups] == [
        ("m_0", 2, "KIND_CPU"), ("slow", 1, "KIND_CPU"),
    ]  # fmt: skip
    assert config.worker_names() == ["m_0_0", "m_0_1", "slow_0"]
    assert (config.max_execution_s, config.filename, config.is_complete, config.warnings) == (1.5, "model.onnx", True, ())


def test_what_is_left_out_is_filled_in_as_triton_does() -> None:
    config = parsed('backend: "onnxruntime" max_batch_size: 8 dynamic_batching { }')

    assert (config.name, config.platform, config.filename) == ("m", "onnxruntime_onnx", "model.onnx")
    assert config.dynamic_batching == DynamicBatching((8,), 0)
    assert config.worker_names() == ["m_0", "m_1"]  # one group named as the model, two instances for onnxruntime on the CPU
    assert not config.is_complete
    document = config.to_json()
    assert document["version_policy"] == {"latest": {"num_versions": 1}}
    assert document["optimization"]["input_pinned_memory"] == {"enable": True}
    assert document["instance_group"][0]["kind"] == "KIND_CPU"


def test_other_backends_get_one_instance_and_have_no_platform() -> None:
    config = parsed(IDENTITY + "instance_group { kind: KIND_AUTO }")

    assert (config.platform, config.filename, config.worker_names()) == ("", "", ["m_0_0"])
    assert config.dynamic_batching is None
    assert config.max_execution_s is None


@pytest.mark.parametrize("text", [TENSORS + 'default_model_filename: "model.onnx"', TENSORS])
def test_the_backend_may_follow_from_the_files(text: str) -> None:
    assert parsed(text, detected_backend="onnxruntime").backend == "onnxruntime"


def test_a_chosen_backend_is_not_overruled_by_files() -> None:
    assert parsed(IDENTITY, detected_backend="tensorrt").backend == "identity"


def test_the_json_is_tritons() -> None:
    config = parsed(IDENTITY + 'max_batch_size: 4 dynamic_batching { max_queue_delay_microseconds: 100 } name: "m"')

    document = json.loads(json.dumps(config.to_json()))
    assert document == {
        "name": "m", "platform": "", "backend": "identity", "runtime": "",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 4,
        "input": [{
            "name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [2], "is_shape_tensor": False,
            "allow_ragged_batch": False, "optional": False, "is_non_linear_format_io": False,
        }],
        "output": [{
            "name": "y", "data_type": "TYPE_FP32", "dims": [2], "label_filename": "", "is_shape_tensor": False,
            "is_non_linear_format_io": False,
        }],
        "batch_input": [], "batch_output": [],
        "optimization": {
            "priority": "PRIORITY_DEFAULT", "input_pinned_memory": {"enable": True}, "output_pinned_memory": {"enable": True},
            "gather_kernel_buffer_threshold": 0, "eager_batching": False,
        },
        "dynamic_batching": {
            "preferred_batch_size": [4], "max_queue_delay_microseconds": 100, "preserve_ordering": False, "priority_levels": 0,
            "default_priority_level": 0, "priority_queue_policy": {},
        },
        "instance_group": [{
            "name": "m", "kind": "KIND_CPU", "count": 1, "gpus": [], "secondary_devices": [], "profile": [], "passive": False,
            "host_policy": "",
        }],
        "default_model_filename": "", "cc_model_filenames": {}, "metric_tags": {}, "parameters": {}, "model_warmup": [],
    }  # fmt: skip


def test_parameters_are_in_the_json() -> None:
    config = parsed(IDENTITY + 'parameters { key: "b" value { string_value: "2" } } parameters { key: "a" value { } }')

    assert config.to_json()["parameters"] == {"a": {"string_value": ""}, "b": {"string_value": "2"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('backend: "identity"', "must specify 'input' for m: backend 'identity' has no model file to tell"),
        (IDENTITY + "max_batch_size: -1", ":4:1: 'max_batch_size' must be non-negative value for m"),
        (IDENTITY + 'name: "n"', ":4:1: unexpected directory name 'm' for model 'n', directory name must equal model name"),
        (IDENTITY + 'input { name: "z" dims: 1 }', ":4:1: model input 'z' must specify 'data_type' for m"),
        (IDENTITY + "input { data_type: TYPE_INT8 dims: 1 }", ":4:1: model input must specify 'name'"),
        (IDENTITY + 'output { name: "z" data_type: TYPE_INT8 }', ":4:1: model output 'z' must specify 'dims'"),
        (
            IDENTITY + 'input { name: "z" data_type: TYPE_INT8\ndims: [ 1, 0 ] }',
            ":5:12: model input 'z' dimension must be integer >= 1, or -1 to indicate a variable-size dimension for m",
        ),
        (IDENTITY + 'output { name: "z" data_type: TYPE_INT8 dims: -2 }', ":4:41: model output 'z' dimension must be integer"),
        (IDENTITY + 'input { name: "x" data_type: TYPE_INT8 dims: 1 }', "model input 'x' is specified 2 times for m"),
        (IDENTITY + 'input { name: "z" data_type: TYPE_INT8 dims: 1 format: FORMAT_NHWC }', ": NHWC and NCHW require 3 dims"),
        (
            IDENTITY + "max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 2,\n 8 ] }",
            ":5:2: dynamic batching preferred size must be <= max batch size for m; it is 8, max_batch_size is 4",
        ),
        (
            IDENTITY + "dynamic_batching { preferred_batch_size: 1 }",
            "must be <= max batch size for m; it is 1, max_batch_size is 0 or left out, so that nothing is batched",
        ),
        (
            IDENTITY + "max_batch_size: 4 dynamic_batching { preferred_batch_size: 0 }",
            "dynamic batching preferred size must be positive for m, got 0",
        ),
        (
            IDENTITY + "dynamic_batching { priority_levels: 3 }",
            "default priority level must be in range [1, 3] for m, got none",
        ),
        (
            IDENTITY + "dynamic_batching { priority_levels: 3\ndefault_priority_level: 4 }",
            ":5:1: default priority level must be in range [1, 3] for m, got 4",
        ),
        (
            IDENTITY + "dynamic_batching { priority_levels: 3 default_priority_level: 1\npriority_queue_policy { key: 4 value { } } }",
            ":5:1: priority queue policy must have priority level in range [1, 3] for m, got 4",
        ),
        (
            IDENTITY + "dynamic_batching { priority_levels: 3 default_priority_level: 1 priority_queue_policy { key: 0 value { } } }",
            "priority queue policy must have priority level in range [1, 3] for m, got 0",
        ),
        (IDENTITY + "version_policy { latest { } }", ":4:18: version_policy: num_versions must be at least 1 for m"),
        (IDENTITY + "version_policy { specific { } }", ":4:18: version_policy: specific needs versions"),
        (IDENTITY + "version_policy { specific { versions: [ 2, 0 ] } }", "specific needs versions, each at least 1"),
        (IDENTITY + "instance_group { count: -1 }", ":4:18: instance group m_0 of model m has count -1; it must be"),
        (IDENTITY + "instance_group { count: 1000000 }", "has count 1000000; it must be between 1 and 256"),
        (
            IDENTITY + 'instance_group { rate_limiter { resources [ { name: "a" count: 1 }, { count: 2 } ] } }',
            "instance group m_0 of model m has a resource without a name; write name, and count",
        ),
        (IDENTITY + "instance_group { kind: KIND_MODEL }", "has kind KIND_MODEL, which is not implemented"),
        (
            IDENTITY + 'instance_group [ { name: "a" count: 2 }, { name: "a" } ]',
            "2 instances of model m are called a_0; name the groups apart",
        ),
        (IDENTITY + 'default_model_filename: "../x"', "'../x' must stay within the version directory"),
        (IDENTITY + 'default_model_filename: "/x"', "'/x' must stay within the version directory"),
        (
            IDENTITY + 'parameters { key: "max_execution_s" value { string_value: "soon" } }',
            ":4:1: parameter 'max_execution_s' must be a number of seconds, 0 for no limit, got 'soon' for m",
        ),
        (IDENTITY + 'parameters { key: "max_execution_s" value { string_value: "nan" } }', "got 'nan'"),
        (IDENTITY + 'parameters { key: "max_execution_s" value { string_value: "-1" } }', "got '-1'"),
        (IDENTITY + f'input {{ name: "{"n" * 257}" data_type: TYPE_INT8 dims: 1 }}', "must specify 'name', of at most 256"),
        (TENSORS, "m/config.pbtxt: must specify 'platform' or 'backend' for 'm'; backends are onnxruntime, pytorch, "),
        (
            'backend: "identity" platform: "onnxruntime_onnx"',
            "unexpected 'platform' and 'backend' pair, got:onnxruntime_onnx, identity; backend 'identity' has no platform",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_tritons_words_with_place_and_remedy(text: str, said: str) -> None:
    assert said in complaint(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('backend: "openvino"', "m/config.pbtxt:1:1: unable to find backend library for backend 'openvino'; this release has"),
        ('backend: "onnxruntime_onnx"', "; write backend: \"onnxruntime\""),
        ('platform: "tensorflow_graphdef"', "m/config.pbtxt:1:1: unexpected platform type 'tensorflow_graphdef' for m; "),
        ('platform: "ensemble"', "unexpected platform type 'ensemble' for m"),
        ('platform: "identity"', "; write backend: \"identity\""),
    ],
)  # fmt: skip
def test_backends_that_are_not_here_are_refused_by_name(text: str, said: str) -> None:
    assert said in complaint(text, Code.UNSUPPORTED)


def test_all_problems_are_told_at_once() -> None:
    said = complaint(IDENTITY + 'max_batch_size: -1\ninput { name: "z" dims: 0 }').split("\n")

    assert [line.split(": ")[0] for line in said] == ["m/config.pbtxt:4:1", "m/config.pbtxt:5:1", "m/config.pbtxt:5:19"]


@pytest.mark.parametrize(
    ("batching", "said"),
    [
        ("priority_levels: 1 default_priority_level: 1", []),
        (
            "priority_levels: 2 default_priority_level: 1",
            ["Only one priority level is allowed when 'preserve_ordering' is true"],
        ),
        ("default_queue_policy { timeout_action: DELAY }", []),
        ("default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 5 }", []),
        (
            "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 }",
            ["Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true"],
        ),
        (
            "priority_queue_policy { key: 1 value { timeout_action: DELAY default_timeout_microseconds: 5 } }",
            ["Queue policy can not have DELAY as timeout action when 'preserve_ordering' is true"],
        ),
    ],
)
def test_what_would_let_one_request_overtake_another_contradicts_preserve_ordering(batching: str, said: list[str]) -> None:
    config = parse_text(f'name: "m" {IDENTITY} dynamic_batching {{ preserve_ordering: true {batching} }}')
    assert [problem.text for problem in problems(config)] == [f"{text} for m" for text in said]
    config.dynamic_batching.preserve_ordering = False
    assert not list(problems(config))


def test_groups_and_what_the_rate_limiter_is_told_of_them() -> None:
    limiter = 'resources [ { name: "a" count: 2 }, { name: "b" global: true count: 1 }, { name: "a" count: 3 } ] priority: 2'
    config = parsed(IDENTITY + f'instance_group [ {{ count: 2 }}, {{ name: "slow" rate_limiter {{ {limiter} }} }} ]')

    assert config.worker_of("m_0_1").group.rate_limiter == RateLimiter()
    assert config.worker_of("slow_0").group.rate_limiter == RateLimiter((Resource("a", False, 3), Resource("b", True, 1)), 2)
    assert config.worker_of("m_attached_7") == WorkerPlan(("m_attached_7",), config.instance_groups[0])


def test_whether_batching_was_chosen() -> None:
    assert not parsed(ONNX).is_batching_chosen
    assert parsed(ONNX + "max_batch_size: 0").is_batching_chosen
    assert parsed(ONNX + "max_batch_size: 2").is_batching_chosen


def test_an_unlimited_execution_may_be_asked_for() -> None:
    text = IDENTITY + 'parameters { key: "max_execution_s" value { string_value: "0" } }'

    assert parsed(text).max_execution_s == 0.0


def test_priority_levels_and_queue_policies_are_carried_and_shown() -> None:
    config = parsed(
        IDENTITY
        + """dynamic_batching {
            priority_levels: 2147483648 default_priority_level: 2
            default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 7 }
            priority_queue_policy { key: 1 value { max_queue_size: 4 allow_timeout_override: true } }
        }"""
    )

    batching = config.dynamic_batching
    assert batching is not None
    assert (batching.priority_levels, batching.default_priority_level) == (2**31, 2)
    assert batching.default_queue_policy == QueuePolicy(0, TimeoutAction.DELAY, 7_000, False)
    assert batching.priority_queue_policies == {1: QueuePolicy(4, TimeoutAction.REJECT, 0, True)}
    # JSON's keys are text
    assert config.to_json()["dynamic_batching"]["priority_queue_policy"] == {
        "1": {
            "timeout_action": "REJECT", "default_timeout_microseconds": 0, "allow_timeout_override": True, "max_queue_size": 4
        }
    }  # fmt: skip
    assert config.warnings == ()


def test_levels_that_are_spoken_of_but_not_there_have_no_effect_and_a_warning() -> None:
    """Triton loads such a configuration, too, and says nothing."""
    config = parsed(
        IDENTITY
        + "dynamic_batching {\ndefault_priority_level: 2\npriority_queue_policy { key: 5 value { max_queue_size: 4 } } }"
    )

    assert config.dynamic_batching == DynamicBatching((), 0)
    assert config.warnings == (
        "m/config.pbtxt:5:1: dynamic_batching.default_priority_level has no effect, because priority_levels is 0 or left out",
        "m/config.pbtxt:6:1: dynamic_batching.priority_queue_policy has no effect, because priority_levels is 0 or left out",
    )


@pytest.mark.parametrize(
    ("tag", "is_label"), [("team", True), ("2nd_team", True), ("_team", False), ("té", False), ("", False)]
)
def test_metric_tags_become_labels_with_an_underscore_in_front(tag: str, is_label: bool) -> None:
    text = IDENTITY + f'metric_tags {{ key: "{tag}" value: "x" }}'
    if is_label:
        assert parsed(text).metric_tags == {tag: "x"}
    else:
        assert f"metric_tags: '{tag}' cannot be a label for m" in complaint(text)
