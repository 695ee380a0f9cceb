# SPDX-License-Identifier: Apache-2.0
"""What `penstock perf` measures: a broker that runs, one that is started for it, or another server that speaks KServe v2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ...ipc.errors import BrokerError, PenstockError
from .connecting import connected
from .failures import CommandFailed, Unreachable, failing_as
from .perf_asked import KSERVE_LINKS, Options

if TYPE_CHECKING:
    from ..client import Client
    from ..perf.configuration import Served
    from ..perf.plan import Memory
    from ..perf.run_file import Machine
    from ..perf.target import Target, TargetSpec


class Opened(NamedTuple):
    """A connection to the model that is to be measured, and what is known beside it."""

    target: Target
    memory: Memory
    status: dict[str, Any] | None  # the broker's; None: the server is none of ours

    @property
    def gpus(self) -> tuple[str, ...]:
        """Of the server's machine, by name, as far as it has looked for them."""
        return tuple(gpu["name"] for gpu in (self.status or {}).get("gpus") or ())

    def served(self, machine: Machine) -> Served:
        """How the model is served, as far as the server says. `machine` is this one."""
        from ..perf.configuration import Served
        from ..perf.machine import in_words

        spec, model = self.target.spec, self.target.model
        here = in_words(machine) if _is_here(spec.address) else ""
        return Served(here) if self.status is None else Served.from_status(self.status, model.name, model.version, here)


def _is_here(address: str) -> bool:
    """Whether it is this machine that an address leads to."""
    scheme, separator, rest = address.rpartition("://")
    if separator and scheme != "tcp":
        return True
    return rest.rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]")


@contextmanager
def opened(model: str, options: Options) -> Iterator[Opened]:
    """Until the block ends. What the link cannot do is said before anything is started, or connected to."""
    with ExitStack() as held:
        with failing_as(Unreachable):
            spec, status, memory = held.enter_context(_found(model, options))
        yield Opened(held.enter_context(_target(spec)), memory, status)


@contextmanager
def _target(spec: TargetSpec) -> Iterator[Target]:
    from ..perf.targets import open_target

    try:
        target = open_target(spec)
    except BrokerError as error:
        raise Unreachable(str(error)) from error
    except PenstockError as error:
        raise CommandFailed(str(error)) from error
    try:
        yield target
    finally:
        target.close()


@contextmanager
def _found(model: str, options: Options) -> Iterator[tuple[TargetSpec, dict[str, Any] | None, Memory]]:
    from ...ipc.addresses import parse_address
    from ..perf.plan import address_of_link, memory_over
    from ..perf.target import TargetSpec

    link = options["link"] or ("local" if options["repository"] else parse_address(options["address"]).kind)
    memory = memory_over(link, options["shared_memory"])
    if link in KSERVE_LINKS:
        from ..perf.targets.kserve import PORTS

        yield TargetSpec(link=link, address=options["url"] or f"localhost:{PORTS[link]}", model=model), None, memory
        return
    with ExitStack() as held:
        with _broker(held, options) as client:
            status, address = client.status(), client.address
        if address.kind != link:
            address = address_of_link(status["addresses"], link)
        with failing_as(CommandFailed):
            memory = memory_over(link, options["shared_memory"], address.is_tcp)
        yield TargetSpec(link=link, address=str(address), model=model), status, memory


@contextmanager
def _broker(held: ExitStack, options: Options) -> Iterator[Client]:
    """The one that runs, or one that is started and stays until `held` is closed."""
    if options["repository"]:
        from .own_broker import own_broker

        address, _ = held.enter_context(own_broker(options["repository"]))
    else:
        address = options["address"]
    with ExitStack() as connection:
        try:
            client = connection.enter_context(connected(address))
        except Unreachable as error:
            raise Unreachable(f"{error.message}; start one (penstock serve REPOSITORY), or give --serve REPOSITORY") from error
        yield client
