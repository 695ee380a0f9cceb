# SPDX-License-Identifier: Apache-2.0
"""What `optimization` and the keys of TensorRT say to a worker on a GPU."""

from __future__ import annotations

import pytest
from texts import IDENTITY, complaint, parsed

from penstock.ipc.gpus import GpuInfo, Gpus
from penstock.ipc.messages import GraphSpec, Optimization, TensorSpec
from penstock.runtime.repository.placement import Placing

GPU = Placing(lambda: Gpus((GpuInfo(0, "GPU-0", "H100", 1, (9, 0), "", False, False),), ""))
BATCHES = IDENTITY + "max_batch_size: 8\n"


def test_where_nothing_is_said_the_backend_decides() -> None:
    assert parsed(IDENTITY).spec(1).optimization == Optimization()
    assert Optimization().cuda_graphs is None


def test_all_of_it_reaches_the_worker() -> None:
    config = parsed(
        BATCHES
        + """optimization {
            priority: PRIORITY_MAX
            cuda {
                graphs: true busy_wait_events: true output_copy_stream: true
                graph_spec { batch_size: 8 input { key: "x" value { dim: [ 2 ] } }
                             graph_lower_bound { batch_size: 5 input { key: "x" value { dim: [ 1 ] } } } }
                graph_spec { batch_size: 2 }
            }
            input_pinned_memory { enable: false }
        }"""
    )

    # Then, as Triton's JSON shows it too, pinned memory is on where it is not switched off
    assert config.spec(1).optimization == Optimization(
        cuda_graphs=True,
        graph_specs=[GraphSpec(8, {"x": [2]}, 5, {"x": [1]}), GraphSpec(2)],
        busy_wait=True,
        output_copy_stream=True,
        pinned_inputs=False,
        pinned_outputs=True,
        priority="max",
    )


def test_with_a_cuda_block_graphs_are_off_unless_it_says_so() -> None:
    assert parsed(IDENTITY + "optimization { cuda { busy_wait_events: true } }").optimization == Optimization(
        False, busy_wait=True
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("batch_size: 9", "4:25: graph_spec has batch_size 9, but max_batch_size is 8, for m"),
        ("batch_size: -1", "4:25: graph_spec has batch_size -1, but max_batch_size is 8, for m"),
        (
            "batch_size: 2 graph_lower_bound { batch_size: 3 }",
            "4:39: graph_lower_bound has batch_size 3, and its graph_spec 2, for m",
        ),
        ('input { key: "z" value { dim: 1 } }', "4:25: graph_spec names input 'z', which m has not"),
    ],
)
def test_a_graph_that_no_batch_could_use_is_a_mistake(spec: str, said: str) -> None:
    text = BATCHES.rstrip("\n").replace("\nmax", " max") + f"\noptimization {{ cuda {{ graph_spec {{ {spec} }} }} }}"

    assert said.partition(": ")[2] in complaint(text)


def test_shape_tensors_are_for_tensorrt_alone() -> None:
    text = 'input { name: "x" data_type: TYPE_INT32 dims: 2 is_shape_tensor: true }\n'
    text += 'output { name: "y" data_type: TYPE_FP32 dims: [ 3, 2, 2 ] }'

    config = parsed('platform: "tensorrt_plan"\n' + text, placing=GPU)
    said = complaint('backend: "identity"\n' + text)

    assert config.inputs == (TensorSpec("x", "INT32", [2], shape_tensor=True),)
    assert said == (
        "m/config.pbtxt:2:49: model input 'x' must not have is_shape_tensor, which is TensorRT's, with backend 'identity' for m"
    )


def test_profiles_are_carried() -> None:
    (group,) = parsed('platform: "tensorrt_plan" instance_group { profile: [ "0", "2" ] }', placing=GPU).instance_groups
    assert group.profiles == ("0", "2")
