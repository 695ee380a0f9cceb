# SPDX-License-Identifier: Apache-2.0
"""What `serve` and `broker` have in common: their options, and running a broker in this process until it is told to stop."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs

from ...ipc.addresses import ADDRESS_VARIABLE, default_local_path, default_zmq_address, ensure_runtime_dir
from ...ipc.processes import die_with_parent
from .failures import NotAllLoaded, Unreachable, failing_as
from .gateway_options import GATEWAY_OPTIONS, take_spec
from .logs import LEVELS, log_to_stderr
from .options import Decorator, in_order, json_option, repositories_argument
from .rendering import model_label, print_json
from .settings_file import config_option

if TYPE_CHECKING:
    from ...runtime.broker import Broker
    from ...runtime.settings import Settings

CONTEXT = {"auto_envvar_prefix": "PENSTOCK", "show_default": True}
"""Every option of these commands can be set by an environment variable too: PENSTOCK_MAX_IN_FLIGHT for --max-in-flight.

And by a file, see settings_file.py.
"""


def _default(name: str) -> Any:
    """What the broker's settings say where nobody says otherwise."""
    from ...runtime.settings import Settings

    return next(field.default for field in structs.fields(Settings) if field.name == name)


def _setting(name: str, minimum: float, text: str) -> Decorator:
    """The option for a number among the broker's settings, which know the default."""
    default = _default(name)
    kind = click.IntRange(int(minimum)) if isinstance(default, int) else click.FloatRange(minimum)
    return click.option(f"--{name.replace('_', '-')}", type=kind, default=default, help=text)


_OPTIONS = (
    repositories_argument,
    config_option,
    click.option(
        "--address",
        "addresses",
        metavar="ADDRESS",
        multiple=True,
        envvar=ADDRESS_VARIABLE,
        show_default="broker.sock and broker.zmq in the runtime directory",
        help="Listen here, and only here: unix:///PATH (local link), ipc:///PATH or tcp://HOST:PORT (ZeroMQ). Repeatable.",
    ),
    click.option(
        "--isolate-system-regions",
        is_flag=True,
        help="Read and write POSIX segments by pread and pwrite: a client that truncates one then harms nobody else.",
    ),
    click.option(
        "--host-policy",
        "host_policies",
        metavar="NAME,KEY=VALUE",
        multiple=True,
        help="Define a host policy for instances that name it (those that name none have the one called cpu, gpu_0, "
        "gpu_1, ...): NAME,cpu-cores=0-3,6 or NAME,numa-node=0. Repeatable.",
    ),
    click.option(
        "--fallback",
        type=click.Choice(["none", "cpu"]),
        default="none",
        help="What becomes of KIND_GPU instances where there is no GPU: an error, or the CPU with a warning.",
    ),
    _setting(
        "lanes",
        1,
        "How many instances of a group on one GPU may share a worker process. They overlap on the GPU without MPS, and share "
        "the model's memory where the backend can; but they die together. A model's parameter `lanes` may say otherwise.",
    ),
    click.option(
        "--busy-wait",
        type=click.Choice(["auto", "always", "never"]),
        default=_default("busy_wait"),
        help="How workers wait for a GPU. always: they poll, which is fast and takes a core each; never: they sleep; "
        "auto: they poll briefly, then sleep.",
    ),
    click.option(
        "--mps",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        help="NVIDIA's Multi-Process Service, by which workers on one GPU run at once; without it they take turns. auto: a "
        "daemon of the broker's own where several workers share a GPU, if one can be had; on: for every GPU worker, or it is "
        "not loaded; off: none is started. One that CUDA_MPS_PIPE_DIRECTORY names is used as it is.",
    ),
    click.option(
        "--control-mode",
        type=click.Choice(["open", "none", "explicit", "poll"]),
        default="open",
        help="What is loaded. open: everything at the start, then whoever loads and unloads; none: everything, and no more; "
        "explicit: --load-model, then whoever loads and unloads; poll: whatever the repositories hold, as they change.",
    ),
    click.option(
        "--load-model",
        "load_models",
        metavar="NAME",
        multiple=True,
        help="With --control-mode explicit: load this model at the start; * is every model. Repeatable.",
    ),
    _setting("poll_interval_s", 0.001, "With --control-mode poll: how often the repositories are looked at."),
    _setting("load_threads", 0, "How many instances may be loading at once; 0: two per core."),
    _setting("max_in_flight", 1, "Requests per client without an outcome."),
    _setting("max_queued_per_principal", 1, "Requests per client and model that wait."),
    _setting("max_shared_regions", 1, "Regions that each user's programs may have registered through gateways at a time."),
    _setting(
        "max_execution_s",
        0,
        "A batch that runs longer costs its worker its life; 0: no limit. A model's configuration may say otherwise.",
    ),
    click.option(
        "--rate-limit",
        type=click.Choice(["off", "execution_count"]),
        default="off",
        help="Whether instances compete for the resources that rate_limiter names, as in Triton; off: it has no effect.",
    ),
    click.option(
        "--rate-limit-resource",
        metavar="NAME:COUNT[:DEVICE]",
        multiple=True,
        help="With execution_count: so much there is, at each device, at this one (a GPU's number; 0 also for the CPU) or "
        "globally (DEVICE: global). Else as much as any one instance needs. Repeatable.",
    ),
    _setting("drain_s", 0, "How long accepted requests may take to finish at the end."),
    _setting("kill_s", 0, "How long workers may then take to leave by themselves."),
    _setting("lease_s", 0, "Silence after which a tcp:// session is over."),
    *GATEWAY_OPTIONS,
    click.option(
        "--gateway-processes",
        type=click.IntRange(1),
        default=1,
        help="How many processes serve --http-port and --grpc-port; the kernel shares connections out among them.",
    ),
    click.option(
        "--metrics-port",
        type=click.IntRange(-1, 65535),
        default=_default("metrics_port"),
        help="Prometheus metrics at http://HOST:PORT/metrics; 0: any free port, which is announced; -1: none.",
    ),
    click.option("--metrics-host", default=_default("metrics_host"), help="The address that --metrics-port is opened on."),
    _setting(
        "cache_size_bytes", 0, "Memory for responses of models whose configuration enables response_cache; 0: none is kept."
    ),
    _setting("cache_max_request_bytes", 0, "A request with more input, or more output, passes the response cache by."),
    click.option(
        "--trace-file",
        metavar="FILE",
        default="",
        help="Where gateways write what clients have traced by Triton's trace extension; without it they can trace nothing.",
    ),
    click.option("--strict", is_flag=True, help="Stop with exit code 3 when some model cannot be loaded."),
    click.option("--log-level", type=click.Choice(LEVELS), default="info", help="Which lines go to standard error."),
    click.option("--parent", type=int, hidden=True, allow_from_autoenv=False, help="Die with this process, which started us."),
    json_option,
)


serving_options = in_order(_OPTIONS)
"""Adds the arguments and options of a broker to a command. Their values are what `run_broker` takes."""


def run_broker(*, log_level: str, as_json: bool, parent: int | None, spawn_workers: bool, strict: bool, **options: Any) -> None:
    """Serves until a signal or `penstock stop`; says on standard output when it is ready. Raises CommandFailed."""
    if parent is not None:
        die_with_parent(parent)
    log_to_stderr(log_level)
    from ...ipc.log_lines import LogSettings
    from ...ipc.trace_settings import TraceSettings
    from ...runtime.broker import Broker

    ready = Announcement(as_json, strict)
    with failing_as(Unreachable):
        trace = TraceSettings(trace_file=options.pop("trace_file"))
        log = LogSettings.from_level(log_level)
        Broker(settings_of(options, spawn_workers=spawn_workers, log=log, trace=trace), ready).run()
    if ready.refused:
        raise NotAllLoaded(f"--strict: {'; '.join(ready.refused)}")


def settings_of(options: dict[str, Any], **others: Any) -> Settings:
    """The broker's settings, from the values of these options, and others that they do not have. Raises PenstockError."""
    from ...runtime.host_policies import read_host_policies
    from ...runtime.scheduling.limits import parse_limit
    from ...runtime.settings import ControlMode, MpsMode, Settings

    return Settings(
        addresses=tuple(options.pop("addresses") or default_addresses()),
        gpu_fallback=options.pop("fallback") == "cpu",
        mps=MpsMode(options.pop("mps")),
        control_mode=ControlMode(options.pop("control_mode")),
        host_policies=read_host_policies(options.pop("host_policies")),
        rate_limit=options.pop("rate_limit") == "execution_count",
        gateways=take_spec(options),
        resource_limits=tuple(parse_limit(text) for text in options.pop("rate_limit_resource")),
        **options,
        **others,
    )


def default_addresses() -> tuple[str, ...]:
    """Both links, in the runtime directory, which is made if need be. Raises PenstockError."""
    ensure_runtime_dir()
    return f"unix://{default_local_path()}", default_zmq_address()


class Announcement:
    """Called by the broker once all is up, or has failed to be; prints the line that scripts wait for."""

    def __init__(self, as_json: bool, strict: bool) -> None:
        self._as_json = as_json
        self._strict = strict
        #: what the broker was stopped again for
        self.refused: list[str] = []

    def __repr__(self) -> str:
        return f"<Announcement {'strict, ' if self._strict else ''}refused {self.refused}>"

    def __call__(self, broker: Broker) -> None:
        """Prints the line, or under --strict stops a broker that could not load everything."""
        models, gateways = broker.index(), broker.gateways
        failed = [
            f"not loaded: {model_label(model)} ({model['reason']})" for model in models if model["state"] == "UNAVAILABLE"
        ]
        failed += [f"given up: {name} ({reason})" for name, reason in gateways.lost.items()]
        if self._strict and failed:
            self.refused = failed
            broker.stop()
            return
        places = {
            "http": gateways.http,
            "grpc": gateways.grpc,
            "metrics": broker.metrics.address if broker.metrics else "",
        }
        if self._as_json:
            print_json({"pid": os.getpid(), "addresses": broker.addresses, **places, "models": models})
            return
        ready = [model_label(model) for model in models if model["state"] == "READY"]
        click.echo(f"ready: {', '.join(broker.addresses)}; models {', '.join(ready) or 'none'}; process {os.getpid()}")
        for line in (*(f"{what}: {place}" for what, place in places.items() if place), *failed):
            click.echo(line)
