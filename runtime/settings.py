# SPDX-License-Identifier: Apache-2.0
"""The broker's settings: frozen, checked once where they enter, each default written here and nowhere else."""

from __future__ import annotations

import os
from enum import Enum
from typing import Any, Literal

from msgspec import Struct, field

from ..ipc.codec import MAX_FRAME_BYTES
from ..ipc.errors import invalid
from ..ipc.log_lines import LogSettings
from ..ipc.trace_settings import TraceSettings
from .host_policies import HostPolicy
from .scheduling.limits import ResourceLimit
from .scheduling.policy import MAX_LANES


def _available_cores() -> int:
    return len(os.sched_getaffinity(0))


class ControlMode(str, Enum):
    """Who decides what is loaded. OPEN: everything at the start, then whoever loads and unloads; the others are Triton's."""

    OPEN = "open"
    NONE = "none"
    EXPLICIT = "explicit"
    POLL = "poll"


class MpsMode(str, Enum):
    """Whether GPU workers compute through an MPS daemon. AUTO: where several share a GPU, and one can be had."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


ALL_MODELS = "*"
"""In `load_models`: every model of the repositories."""


class GatewaySpec(Struct, frozen=True, kw_only=True):
    """The gateways that a broker starts, and where all of them are reached. Ports: -1: not served; 0: a free one."""

    processes: int = 1
    http_host: str = "127.0.0.1"
    http_port: int = -1
    grpc_host: str = "127.0.0.1"
    grpc_port: int = -1
    told: dict[str, Any] = {}  # what else they are told, in the words of gateway/settings.py, which the broker does not import

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise invalid(f"setting gateway_processes must be at least 1, got {self.processes}")


class Settings(Struct, frozen=True, kw_only=True):
    """What `penstock serve` and `penstock broker` may be told. Times in seconds, sizes in bytes."""

    repositories: tuple[str, ...] = ()
    addresses: tuple[str, ...]  # unix:// for the local link, ipc:// and tcp:// for ZeroMQ
    spawn_workers: bool = True  # false: `penstock broker`, which waits for workers to attach
    control_mode: ControlMode = ControlMode.OPEN
    load_models: tuple[str, ...] = ()  # with control mode explicit: what is loaded at the start
    poll_interval_s: float = 15.0  # with control mode poll: how often the repositories are looked at
    load_threads: int = 0  # how many instances may be loading at once; 0: two per core
    gpu_fallback: bool = False  # where there is no GPU, serve KIND_GPU instances on the CPU, with a warning
    lanes: int = 1  # how many instances of a group on one GPU may share a worker; a model may say otherwise
    busy_wait: Literal["auto", "always", "never"] = "auto"  # how workers wait for a GPU
    mps: MpsMode = MpsMode.AUTO
    isolate_system_regions: bool = False  # read and write unsealed regions by preadv/pwritev instead of mapping them
    max_in_flight: int = 16384  # requests per session without an outcome
    max_queued_per_principal: int = 16384  # requests per principal and model
    max_shared_regions: int = 1024  # per user, of those that outlive who registered them; see shared_regions.py
    max_frame_bytes: int = MAX_FRAME_BYTES
    max_reply_backlog_bytes: int = 16 * 1024 * 1024  # a session that lets more pile up is ended
    max_execution_s: float = 300.0  # a batch that runs longer costs the worker its life; 0: no limit
    rate_limit: bool = False  # instances compete for the resources that their configurations name
    resource_limits: tuple[ResourceLimit, ...] = ()  # how much there is of them; else the most that any instance needs
    drain_s: float = 5.0  # how long accepted requests may take to finish once the broker is told to stop
    kill_s: float = 2.0  # how long workers may then take to exit
    lease_s: float = 10.0  # silence after which a tcp:// session is over
    gateways: GatewaySpec | None = None  # None: no KServe v2
    metrics_host: str = "127.0.0.1"
    metrics_port: int = -1  # -1: no metrics; 0: a free port
    cache_size_bytes: int = 64 * 1024 * 1024  # of responses, for models that enable the cache; 0: there is none
    cache_max_request_bytes: int = 1024 * 1024  # a request with more input, or more output, passes the cache by
    host_policies: dict[str, HostPolicy] = {}  # by name, see --host-policy
    log: LogSettings = LogSettings()  # of the broker and its gateways; clients of these may change them
    trace: TraceSettings = TraceSettings()  # what gateways write traces of; as above
    cores: int = field(default_factory=_available_cores)  # shared out among the instances of a model

    def __post_init__(self) -> None:
        if not self.addresses:
            raise invalid("a broker needs at least one address to listen on")
        self.trace.check()
        for name in (
            "max_in_flight", "max_queued_per_principal", "max_shared_regions", "max_frame_bytes", "max_reply_backlog_bytes",
            "cores", "lanes",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise invalid(f"setting {name} must be at least 1, got {getattr(self, name)}")
        if self.lanes > MAX_LANES:
            raise invalid(f"setting lanes must be at most {MAX_LANES}, got {self.lanes}")
        if self.load_models and self.control_mode is not ControlMode.EXPLICIT:
            raise invalid(f"load_models is for control mode explicit, and this one is {self.control_mode.value}")
        if not self.poll_interval_s > 0:
            raise invalid(f"setting poll_interval_s must be above 0, got {self.poll_interval_s}")
        for name in (
            "max_execution_s", "drain_s", "kill_s", "lease_s", "load_threads", "cache_size_bytes", "cache_max_request_bytes",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise invalid(f"setting {name} must not be negative, got {getattr(self, name)}")

    @property
    def instances_at_once(self) -> int:
        """How many instances may be loading at once."""
        return self.load_threads or 2 * self.cores

    @property
    def takes_loads(self) -> bool:
        """Whether clients may load and unload models."""
        return self.control_mode in (ControlMode.OPEN, ControlMode.EXPLICIT)
