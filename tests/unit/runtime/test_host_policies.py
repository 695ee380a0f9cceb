# SPDX-License-Identifier: Apache-2.0
"""Host policies: what the command line says, which instance has which, and what its worker is told."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from scripted import CONFIG, ScriptedBroker

from penstock.ipc.errors import CallerError
from penstock.ipc.messages import LoadModel
from penstock.runtime.host_policies import HostPolicy, Share, read_host_policies, share_of
from penstock.runtime.repository.configuration import ModelConfig, parse_config
from penstock.runtime.settings import Settings

CPU = min(os.sched_getaffinity(0))
HAS_NODE_0 = Path("/sys/devices/system/node/node0/cpulist").exists()
GROUPS = 'instance_group [ { count: 2 }, { count: 1 host_policy: "fast" }, { count: 1 host_policy: "nowhere" } ]'
CPUS, FAST = HostPolicy((0, 1, 2, 3, 6)), HostPolicy((4, 5), 1)


def config_of(groups: str) -> ModelConfig:
    return parse_config(CONFIG.replace("instance_group [ { count: 1 kind: KIND_CPU } ]", groups), Path("config.pbtxt"), "echo")


def settings(**policies: HostPolicy) -> Settings:
    return Settings(addresses=("unix:///nowhere",), cores=8, host_policies=policies)


def test_policies_are_read_a_key_at_a_time() -> None:
    assert read_host_policies([f"cpu,cpu-cores={CPU},{CPU}-{CPU}", f"b,cpu-cores={CPU}"]) == {
        "cpu": HostPolicy((CPU,)),
        "b": HostPolicy((CPU,)),
    }
    assert read_host_policies([]) == {}


@pytest.mark.skipif(not HAS_NODE_0, reason="this kernel knows no NUMA nodes")
def test_a_node_brings_its_cpus_unless_they_are_named() -> None:
    everything = read_host_policies(["a,numa-node=0"])["a"]
    assert everything.numa_node == 0 and CPU in everything.cpus
    assert read_host_policies(["a,numa-node=0", f"a,cpu-cores={CPU}"])["a"] == HostPolicy((CPU,), 0)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["cpu"], "--host-policy takes NAME,KEY=VALUE, got 'cpu'"),
        ([",cpu-cores=0"], "--host-policy takes NAME,KEY=VALUE, got ',cpu-cores=0'"),
        (["cpu,cpu-cores"], "--host-policy takes NAME,KEY=VALUE, got 'cpu,cpu-cores'"),
        (["cpu,cores=0"], "--host-policy 'cpu,cores=0': unknown key 'cores'; known are cpu-cores, numa-node"),
        (["a,numa-node=zero"], "--host-policy 'a,numa-node=zero': a node is a whole number, got 'zero'"),
        (["a,numa-node=977"], "--host-policy 'a,numa-node=977': NUMA node 977 does not exist on this machine; it has "),
        (["a,cpu-cores=2-1"], "--host-policy 'a,cpu-cores=2-1': a list of CPUs is "),
        (
            [f"a,cpu-cores={CPU},4094-4095"],
            f"--host-policy 'a,cpu-cores={CPU},4094-4095': the CPUs 4094-4095 do not exist on this machine, or no process",
        ),
        (
            [f"a,cpu-cores={CPU}", f"a,cpu-cores={CPU}"],
            f"--host-policy 'a,cpu-cores={CPU}': cpu-cores of policy 'a' is given twice",
        ),
    ],
)
def test_a_key_that_cannot_be_honoured_is_named(texts: list[str], said: str) -> None:
    with pytest.raises(CallerError) as caught:
        read_host_policies(texts)
    assert caught.value.message.startswith(said)


def test_a_group_has_the_policy_it_names_else_that_of_its_kind_else_none() -> None:
    config, both = config_of(GROUPS), settings(cpu=CPUS, fast=FAST)

    # The two of the first group share five CPUs; threads are counted from those that a policy gives
    assert share_of(config, "echo_0_0", both) == share_of(config, "echo_0_1", both) == Share(2, (0, 1, 2, 3, 6))
    assert share_of(config, "echo_1_0", both) == Share(2, (4, 5), 1)
    # Without a policy: the broker's own cores, shared by all four
    assert share_of(config, "echo_2_0", both) == Share(2)
    assert share_of(config, "echo_0_0", settings()) == Share(2)
    assert share_of(config, "echo_attached_77", both) == Share(2)


def test_threads_are_never_none() -> None:
    assert share_of(config_of("instance_group { count: 3 }"), "echo_0_0", settings(cpu=HostPolicy((7,)))) == Share(1, (7,))


def test_the_worker_is_told_and_the_status_says_so(caplog: pytest.LogCaptureFixture) -> None:
    # Given a broker with a policy that one group names, and another that nobody defined
    told: list[Any] = []
    with caplog.at_level(logging.WARNING, "penstock.fleet"):
        text = CONFIG.replace("instance_group [ { count: 1 kind: KIND_CPU } ]", GROUPS)
        broker = ScriptedBroker(text, host_policies={"fast": FAST}, cores=8)

    for process in broker.processes:
        (load,) = process.link.take(LoadModel)
        told.append((load.instance, load.cpus, load.numa_node, load.threads))
    assert told == [("echo_0_0", [], -1, 2), ("echo_0_1", [], -1, 2), ("echo_1_0", [4, 5], 1, 2), ("echo_2_0", [], -1, 2)]
    assert [broker.instance(at).describe()["cpus"] for at in range(4)] == [[], [], [4, 5], []]
    (warning,) = caplog.messages
    assert warning == (
        "model echo/1: host policy 'nowhere' of instance group echo_2 is not defined, and has no effect; "
        "define it: --host-policy nowhere,cpu-cores=0"
    )
