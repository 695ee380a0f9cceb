# SPDX-License-Identifier: Apache-2.0
"""A model of a server that speaks KServe v2 with Triton's extensions, over either link (wire.py)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Any, Literal

from ....ipc.errors import ModelError, PenstockError
from ...models import Array, ModelInfo
from ...regions import Region, make_region
from ..inputs import prepared_inputs
from ..plan import Plan, Point, memory_over
from ..region_slots import RegionLayout
from ..stages import ServerCounts
from ..target import Requests, ServerInfo, TargetSpec
from ..verifying import IdentityCheck
from .kserve import CONFIGURATION, NO_CONFIGURATION, NO_STATISTICS, STATISTICS, counts_of, model_of
from .kserve_requests import KServeRequests
from .wire import InputPart, OutputPart, Wire

COUNTED_WITHIN_S = 1.0
"""Triton counts a request after it has answered it."""
UNREGISTERED_WITHIN_S = 10.0
"""Triton refuses it while a request uses the region, also one whose client has gone."""
ASKED_EVERY_S = 0.005


class KServeTarget:
    """A connection to one model of such a server."""

    def __init__(
        self, spec: TargetSpec, wire: Wire, max_in_flight: int, model: ModelInfo, server: ServerInfo,
        configuration: Mapping[str, Any], counted: ServerCounts | None,
    ) -> None:  # fmt: skip
        self.spec = spec
        self.model = model
        self.server = server
        self.max_in_flight = max_in_flight
        self._wire = wire
        self._configuration = configuration
        self._counted = counted  # at the last look; None: the server has no statistics
        self._answered = 0

    @classmethod
    def open(cls, spec: TargetSpec, wire: Wire, max_in_flight: int) -> KServeTarget:
        """Asks the server for the model. The wire is the target's, and closed where this fails. Raises PenstockError."""
        try:
            metadata = wire.server()
            extensions = metadata.get("extensions", ())
            configuration = wire.configuration(spec.model, spec.version) if CONFIGURATION in extensions else {}
            model = model_of(wire.metadata(spec.model, spec.version), configuration, spec.version)
            counted = counts_of(wire.statistics(model.name, model.version), model) if STATISTICS in extensions else None
        except BaseException:
            wire.close()
            raise
        lacking = [
            note for name, note in ((CONFIGURATION, NO_CONFIGURATION), (STATISTICS, NO_STATISTICS)) if name not in extensions
        ]
        server = ServerInfo(metadata.get("name", "unknown"), metadata.get("version", ""), tuple(lacking))
        return cls(spec, wire, max_in_flight, model, server, configuration, counted)

    def __repr__(self) -> str:
        return f"<KServeTarget '{self.model.name}' of {self.server.name} {self.server.version} at {self._wire.url}>"

    def check_invariants(self) -> None:
        """There is a model, and what it was found to be."""
        assert self.model.name == self.spec.model and self.max_in_flight > 0, self

    @contextmanager
    def prepare(self, plan: Plan, point: Point) -> Iterator[Requests]:
        """Inputs made and placed in the plan's memory; given back when the block ends. Raises PenstockError."""
        arrays = prepared_inputs(self.model, plan, point)
        check = IdentityCheck(self.model, {}) if plan.verify else None
        with ExitStack() as held:
            parts = self._parts(held, plan, point.batch, arrays)
            messages = [self._wire.message(self.model, inputs, outputs) for inputs, outputs in parts]
            flights = self._wire.flights(point.concurrency if point.request_rate is None else 1)
            held.callback(flights.close)
            places = [{output.name: output.placed for output in outputs} for _, outputs in parts]
            yield KServeRequests(self._wire, flights, self.model, messages, places, arrays, check)

    def counts(self, answered: int) -> ServerCounts:
        """What the server has counted of the model, once it has counted `answered` more than at the last look.

        A server without statistics is taken to have counted just these, in no time.
        """
        self._answered += answered
        if self._counted is None:
            return ServerCounts(self._answered, 0, 0, 0, 0, 0, 0)
        deadline = time.monotonic() + COUNTED_WITHIN_S
        while True:
            found = counts_of(self._wire.statistics(self.model.name, self.model.version), self.model)
            if found.succeeded - self._counted.succeeded >= answered or time.monotonic() > deadline:
                self._counted = found
                return found
            time.sleep(ASKED_EVERY_S)

    def configuration(self) -> Mapping[str, Any]:
        """The model's configuration as the server has it, in Triton's JSON; nothing where it has none."""
        return self._configuration

    def close(self) -> None:
        """Idempotent."""
        self._wire.close()

    def _parts(
        self, held: ExitStack, plan: Plan, batch: int, arrays: Sequence[Mapping[str, Array]]
    ) -> list[tuple[list[InputPart], list[OutputPart]]]:
        """What each request consists of: in one region of the plan's kind, or in the request itself."""
        model = self.model
        if memory_over(self.spec.link, plan.memory) == "none":
            outputs = [OutputPart(spec.name, None) for spec in model.outputs]
            return [([InputPart(spec, made[spec.name], None) for spec in model.inputs], outputs) for made in arrays]
        layout = RegionLayout(model, batch, arrays)
        region = self._region(held, plan.memory, max(layout.byte_size, 1))
        return [
            (
                [InputPart(spec, made[spec.name], inputs[spec.name]) for spec in model.inputs],
                [OutputPart(spec.name, outputs[spec.name]) for spec in model.outputs],
            )
            for made, (inputs, outputs) in zip(arrays, layout.place(region), strict=True)
        ]

    def _region(self, held: ExitStack, memory: str, byte_size: int) -> Region:
        """Made and registered, to be unregistered when `held` ends. Raises PenstockError."""
        region = make_region("system" if memory == "system" else "cuda", f"perf-{os.urandom(6).hex()}", byte_size)
        held.callback(region.close)

        def leave(
            kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
        ) -> Literal[False]:
            with suppress(PenstockError) if kind else nullcontext():  # what ended it is said, not what came of it
                self._unregister(region)
            return False

        held.push(leave)  # by now: registering may be interrupted when the server has done it
        try:
            self._wire.register(region)
        except PenstockError as error:
            raise type(error)(
                f"{error.message}; to use --shared-memory {memory} the server must allow it (Triton: --allow-client-shm=true) "
                "and run on this machine with the same /dev/shm: else use --shared-memory none",
                error.code,
            ) from error
        finally:
            region.unlink()  # the server has it open, or never will: should this process be killed, no name is left behind
        return region

    def _unregister(self, region: Region) -> None:
        """As soon as the server lets it go. Raises PenstockError."""
        deadline = time.monotonic() + UNREGISTERED_WITHIN_S
        while True:
            try:
                return self._wire.unregister(region)
            except ModelError:  # INTERNAL: "it is currently in use"
                if time.monotonic() > deadline:
                    raise
            time.sleep(ASKED_EVERY_S)
