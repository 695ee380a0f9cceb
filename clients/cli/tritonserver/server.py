# SPDX-License-Identifier: Apache-2.0
"""Running a broker with gateways in the place of `tritonserver`: its log lines, its last words, its exit codes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from importlib.metadata import version
from typing import IO, TYPE_CHECKING, Any

import click

from ....ipc.addresses import default_local_path
from ....ipc.errors import Code, PenstockError
from ....ipc.log_lines import TABLE, LogSettings, write_log
from ..serving import default_addresses, settings_of
from .flags import FLAGS
from .plan import Plan
from .tables import drawn

if TYPE_CHECKING:
    from ....runtime.broker import Broker
    from ....runtime.settings import Settings

log = logging.getLogger("penstock.tritonserver")

NOT_LOADED = "failed to load all models"
KINDS = {
    Code.INVALID_ARG: "Invalid argument", Code.NOT_FOUND: "Not found", Code.ALREADY_EXISTS: "Already exists",
    Code.UNAVAILABLE: "Unavailable", Code.UNSUPPORTED: "Unsupported", Code.INTERNAL: "Internal",
}  # fmt: skip
"""What Triton calls the codes in its log."""


class ServerFailed(click.ClickException):
    """The server is not there, or not any more; with Triton's exit code."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints Triton's last line."""
        click.echo(f"error: creating server: {self.format_message()}", file=file, err=file is None)


def serve_as_triton(plan: Plan) -> None:
    """Serves until a signal or `penstock stop`. Raises ServerFailed."""
    from ....ipc.trace_settings import TraceSettings
    from ....runtime.broker import Broker

    for warning in plan.warnings:
        click.echo(warning, err=True)
    lines = LogSettings(**plan.log)
    try:
        write_log(lines)
    except OSError as error:
        raise ServerFailed(f"Unavailable - cannot open the log file {lines.log_file}: {error.strerror}") from error
    for name in plan.idle:
        log.debug("--%s has no effect here: %s", name, FLAGS[name].text)
    started = Started(plan.exit_on_error)
    options = _options(plan)
    try:
        with _own_socket() if not options["addresses"] else nullcontext(options["addresses"]) as options["addresses"]:
            Broker(_settings(plan, options, log=lines, trace=TraceSettings(**plan.trace)), started).run()
    except PenstockError as error:
        raise ServerFailed(f"{KINDS.get(error.code, 'Internal')} - {error.message}") from error
    if started.failed:
        raise ServerFailed(started.failed)


def _options(plan: Plan) -> dict[str, Any]:
    """What the options of `serve` are: from the words, and what they leave out from the environment. Raises ServerFailed."""
    from ..serve_command import serve

    repositories = plan.serve[plan.serve.index("--") + 1 :]
    if not repositories:
        raise ServerFailed("Invalid argument - --model-repository must be specified")
    for repository in repositories:
        if not os.path.isdir(repository):
            raise ServerFailed(f"Internal - failed to stat file {repository}")
    try:
        options = serve.make_context("serve", list(plan.serve)).params
    except click.UsageError as error:
        raise ServerFailed(f"Invalid argument - {error.format_message()}") from error
    for name in ("log_level", "as_json", "parent", "strict", "trace_file"):
        options.pop(name)
    return options


def _settings(plan: Plan, options: dict[str, Any], **others: Any) -> Settings:
    from msgspec.structs import replace

    settings = settings_of(options, **others)
    if settings.gateways is None:
        return settings
    return replace(settings, gateways=replace(settings.gateways, told={**settings.gateways.told, **plan.told}))


@contextmanager
def _own_socket() -> Iterator[tuple[str, ...]]:
    """Where Penstock's own clients come in: by default; or, where another broker is, in a directory that ends with this one.

    So that several servers run beside each other, as they do with Triton, whose ports alone must differ. Raises PenstockError.
    """
    from ....ipc.socket_paths import ListeningPath
    from ....runtime.repository.private_directories import PrivateDirectory

    addresses = default_addresses()
    try:
        ListeningPath(str(default_local_path())).close()
    except PenstockError:
        with closing(PrivateDirectory.create(0)) as directory:
            yield (f"unix://{directory.path}/broker.sock",)
    else:
        yield addresses


class Started:
    """Called by the broker once all is up, or has failed to be: writes what Triton writes then."""

    def __init__(self, exit_on_error: bool) -> None:
        self._exit_on_error = exit_on_error
        #: why the broker was stopped again; "": it was not
        self.failed = ""

    def __repr__(self) -> str:
        return f"<Started, {self.failed or 'and not stopped'}>"

    def __call__(self, broker: Broker) -> None:
        """Tables, then where what is served; or stops a broker that could not load everything."""
        models = [model for model in broker.index() if model["state"]]
        log.info("", extra={TABLE: drawn([("Model", "Version", "Status"), *map(_row, models)])})
        log.info("", extra={TABLE: drawn([("Option", "Value"), *_options_of(broker)])})
        lost = "; ".join(f"{name}: {reason}" for name, reason in broker.gateways.lost.items())
        if lost:
            log.error("failed to start GRPC or HTTP service: Unavailable - %s", lost)
            self.failed = f"Unavailable - {lost}"
        elif any(model["state"] == "UNAVAILABLE" for model in models):
            if self._exit_on_error:
                self.failed = f"Internal - {NOT_LOADED}"
            else:
                log.error("Internal: %s", NOT_LOADED)
        if self.failed:
            broker.stop()
            return
        for service, place in (
            ("GRPCInferenceService", broker.gateways.grpc),
            ("HTTPService", broker.gateways.http),
            ("Metrics Service", broker.metrics.address.split("/")[2] if broker.metrics else ""),
        ):
            if place:
                log.info("Started %s at %s", service, place)


def _row(model: dict[str, Any]) -> tuple[str, str, str]:
    reason = f": {model['reason']}" if model["reason"] else ""
    return model["name"], model["version"], f"{model['state']}{reason}"


def _options_of(broker: Broker) -> list[tuple[str, str]]:
    settings = broker.settings
    told = settings.gateways.told if settings.gateways else {}
    return [
        ("server_id", str(told.get("server_id", "triton"))),
        ("server_version", version("penstock")),
        *((f"model_repository_path[{number}]", path) for number, path in enumerate(settings.repositories)),
        ("model_control_mode", f"MODE_{settings.control_mode.value.upper()}"),
        *((f"startup_models_{number}", name) for number, name in enumerate(settings.load_models)),
        ("strict_model_config", "0"),
        ("rate_limit", "EXEC_COUNT" if settings.rate_limit else "OFF"),
        ("strict_readiness", str(int(told.get("strict_readiness", True)))),
        ("exit_timeout", f"{settings.drain_s:g}"),
        ("cache_enabled", str(int(settings.cache_size_bytes > 0))),
    ]
