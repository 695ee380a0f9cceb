# SPDX-License-Identifier: Apache-2.0
"""Host policies, from the command line or the settings file to what the kernel says of a worker."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save
from running import RunningBroker, add_model, eventually, instance, ready_pid

from penstock.clients import ModelError

CPUS = sorted(os.sched_getaffinity(0))
FIRST, LAST = CPUS[0], CPUS[-1]
HAS_NODE_0 = Path("/sys/devices/system/node/node0/cpulist").exists()


def allowed(pid: int) -> set[str]:
    """The CPUs that the threads of a process may run on, as the kernel writes them."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        (line,) = (row for row in (task / "status").read_text().splitlines() if row.startswith("Cpus_allowed_list:"))
        found.add(line.split()[1])
    return found


def add_onnx(repository: Path, name: str, group: str) -> None:
    (repository / name / "1").mkdir(parents=True)
    x, y = (helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["n", 2]) for tensor in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        repository / name / "1" / "model.onnx",
    )
    (repository / name / "config.pbtxt").write_text(
        f'platform: "onnxruntime_onnx" max_batch_size: 4 instance_group {{ {group} }}'
    )


def test_workers_run_where_their_policy_says(tmp_path: Path, repository: Path, link: str) -> None:
    # Given a model under the policy of its kind, one under its own, and one whose policy nobody has defined
    add_onnx(repository, "plain", "count: 1")
    add_onnx(repository, "chosen", 'count: 1 host_policy: "chosen"')
    add_onnx(repository, "lost", 'count: 1 host_policy: "lost"')
    options = ("--host-policy", f"cpu,cpu-cores={FIRST}", "--host-policy", f"chosen,cpu-cores={LAST}-{LAST}")

    with RunningBroker(tmp_path, repository, *options) as broker, broker.client(link) as client:
        # Then every thread of each worker runs there, those of onnxruntime and of numpy included
        assert allowed(ready_pid(client, "plain")) == {str(FIRST)}
        assert allowed(ready_pid(client, "chosen")) == {str(LAST)}
        assert allowed(ready_pid(client, "lost")) == allowed(os.getpid()) == allowed(broker.pid)
        assert "host policy 'lost' of instance group lost_0 is not defined" in broker.log()
        # And the status says so
        assert [instance(client, model)["cpus"] for model in ("plain", "chosen", "lost")] == [[FIRST], [LAST], []]
        x = np.ones((1, 2), np.float32)
        assert all(client.infer(model, {"x": x}).outputs["y"].tolist() == x.tolist() for model in ("plain", "chosen", "lost"))


@pytest.mark.skipif(not HAS_NODE_0, reason="this kernel knows no NUMA nodes")
def test_memory_comes_from_the_node(tmp_path: Path, repository: Path) -> None:
    # Given a settings file with a policy of a node alone
    add_model(repository, "near")
    (tmp_path / "settings.toml").write_text('host_policy = ["cpu,numa-node=0"]\n')

    with (
        RunningBroker(tmp_path, repository, "--config", str(tmp_path / "settings.toml")) as broker,
        broker.client("local") as client,
    ):
        pid = ready_pid(client, "near")
        # Then the worker's memory is bound to it, the broker's is not, and the worker runs on the node's CPUs
        assert " bind:0 " in Path(f"/proc/{pid}/numa_maps").read_text()
        assert " bind:" not in Path(f"/proc/{broker.pid}/numa_maps").read_text()
        assert allowed(pid) == {Path("/sys/devices/system/node/node0/cpulist").read_text().strip()}


def test_a_restarted_worker_has_the_policy_again(tmp_path: Path, repository: Path) -> None:
    add_model(repository, "dying", mode="dying")

    with (
        RunningBroker(tmp_path, repository, "--host-policy", f"cpu,cpu-cores={LAST}") as broker,
        broker.client("local") as client,
    ):
        before = ready_pid(client, "dying")
        with pytest.raises(ModelError, match="worker died"):
            client.infer("dying", {"x": np.ones((1, 2), np.float32)})
        eventually(lambda: ready_pid(client, "dying") not in (0, before), 20, "it is started again")
        assert allowed(ready_pid(client, "dying")) == {str(LAST)}


def test_what_the_machine_does_not_have_ends_the_start(tmp_path: Path, repository: Path) -> None:
    broker = RunningBroker(tmp_path, repository, "--host-policy", "cpu,cpu-cores=4000-4001")
    broker.launch()

    assert broker.close() == 2
    assert "--host-policy 'cpu,cpu-cores=4000-4001': the CPUs 4000-4001 do not exist on this machine" in broker.log()
