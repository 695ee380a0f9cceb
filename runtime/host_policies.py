# SPDX-License-Identifier: Apache-2.0
"""Host policies: on which CPUs, and with which NUMA node's memory, the instances run that name one.

Triton's: `--host-policy NAME,KEY=VALUE` defines them, `instance_group.host_policy` names one, and an instance without a name
has that of its device: cpu, gpu_0, gpu_1 (core/src/backend_model.cc). Here a NUMA node without CPUs of its own choice brings
its CPUs along.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from ..ipc.errors import CallerError, PenstockError, invalid
from ..ipc.processors import bind_memory, cpus_of_node, format_cpus, parse_cpus, refused_cpus, unbind_memory

if TYPE_CHECKING:
    from .repository.configuration import ModelConfig
    from .settings import Settings

CPU_CORES, NUMA_NODE = "cpu-cores", "numa-node"


class HostPolicy(Struct, frozen=True):
    """`cpus`: none means any. `numa_node`: -1 means any."""

    cpus: tuple[int, ...] = ()
    numa_node: int = -1


class Share(NamedTuple):
    """What one instance gets of the machine."""

    threads: int
    cpus: tuple[int, ...] = ()
    numa_node: int = -1


def read_host_policies(texts: Iterable[str]) -> dict[str, HostPolicy]:
    """The policies that `--host-policy` defines, by name. Raises CallerError that names what this machine cannot honour."""
    settings: dict[str, dict[str, str]] = {}
    for text in texts:
        name, comma, rest = text.partition(",")
        key, equals, value = rest.partition("=")
        if not (name and comma and equals):
            raise invalid(f"--host-policy takes NAME,KEY=VALUE, got '{text}'")
        if key not in (CPU_CORES, NUMA_NODE):
            raise invalid(f"--host-policy '{text}': unknown key '{key}'; known are {CPU_CORES}, {NUMA_NODE}")
        if key in settings.setdefault(name, {}):
            raise invalid(f"--host-policy '{text}': {key} of policy '{name}' is given twice")
        settings[name][key] = value
    return {name: _policy(name, values) for name, values in settings.items()}


def _policy(name: str, values: dict[str, str]) -> HostPolicy:
    cpus: tuple[int, ...] = ()
    node = -1
    for key, value in values.items():
        try:
            if key == CPU_CORES:
                cpus = _usable(parse_cpus(value))
            else:
                node = _node(value)
        except PenstockError as error:
            raise CallerError(f"--host-policy '{name},{key}={value}': {error.message}", error.code) from error
    return HostPolicy(cpus or (cpus_of_node(node) if node >= 0 else ()), node)


def _usable(cpus: tuple[int, ...]) -> tuple[int, ...]:
    refused = refused_cpus(cpus)
    if refused:
        raise invalid(f"the CPUs {format_cpus(refused)} do not exist on this machine, or no process may use them here")
    return cpus


def _node(value: str) -> int:
    """The node, after memory has been taken from it by way of trial."""
    if not value.isdecimal():
        raise invalid(f"a node is a whole number, got '{value}'")
    cpus_of_node(int(value))
    bind_memory(int(value))
    unbind_memory()
    return int(value)


def share_of(config: ModelConfig, instance: str, settings: Settings) -> Share:
    """What the instance of this name gets; one that is not the configuration's (attached by hand) gets no policy."""
    policies = {worker.name: settings.host_policies.get(worker.host_policy) for worker in config.workers()}
    policy = policies.get(instance)
    if policy is None:
        return Share(max(1, settings.cores // max(1, len(policies))))
    sharing = sum(other is policy for other in policies.values())
    threads = (len(policy.cpus) or settings.cores) // sharing
    return Share(max(1, threads), policy.cpus, policy.numa_node)


def undefined_policies(config: ModelConfig, settings: Settings) -> list[str]:
    """A warning for each group whose policy nobody has defined: it is served without, as by Triton."""
    return [
        f"host policy '{group.host_policy}' of instance group {group.name} is not defined, and has no effect; "
        f"define it: --host-policy {group.host_policy},{CPU_CORES}=0"
        for group in config.instance_groups
        if group.host_policy and group.host_policy not in settings.host_policies
    ]
