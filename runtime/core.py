# SPDX-License-Identifier: Apache-2.0
"""The broker without its sockets: messages in, messages out, time as a function.

Everything a client or a worker says comes in here as a message; what must be said in return is put into the links, which the
event loop (broker.py) flushes once its inbox is drained. With scripted links and a clock of its own a test drives the whole
broker in one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ..ipc.errors import BrokerError, PenstockError
from ..ipc.messages import BatchDone, Loaded, LoadFailed, Ready, RegionMapped, RegionUnmapped
from .adjustments import Adjustments
from .cached_answers import CachedAnswers
from .delivery import Delivery
from .device_regions import DeviceRegions
from .fleet import Fleet
from .flushing import Flushing
from .gateways import Gateways
from .gpu_survey import GpuSurvey
from .host import Host
from .instances import Instance
from .loads import Loads
from .models import ModelState, ModelTable
from .reception import Reception
from .regions import RegionRegistry
from .replies import Replies
from .repository.placement import Placing
from .requests import InferRequest
from .response_cache import LocalCache
from .scheduling.commands import AnyCommand
from .scheduling.events import AnyEvent, Arrived, ArrivedTogether, BatchEnded, InstanceGone, ModelDown, Tick
from .scheduling.requests import Request
from .scheduling.scheduler import Scheduler
from .sessions import Session
from .settings import Settings
from .shared_regions import SharedRegions
from .surveys import Surveys
from .tracing import Traces


class Core:
    """One broker: its sessions, regions, models, instances and the scheduler, wired together."""

    def __init__(self, settings: Settings, host: Host, clock: Callable[[], int]) -> None:
        self.settings = settings
        self.clock = clock
        self.identity = os.urandom(16)  # fresh per start: a client that meets another one registers its regions again
        self.regions = RegionRegistry()
        self.shared = SharedRegions(settings.max_shared_regions, self._forget_bindings)
        self.models = ModelTable(has_cache=settings.cache_size_bytes > 0)
        self.scheduler = Scheduler(settings.resource_limits)
        self.gpu_survey = GpuSurvey()
        placing = Placing(self.gpu_survey.look, settings.gpu_fallback, settings.lanes)
        self.fleet = Fleet(settings, host, self.regions, self.feed, clock, placing)
        self.loads = Loads(settings, host, self.models, self.fleet, self._switched)
        self.fleet.report_to(self.loads)
        self.surveys = Surveys(settings, host, self.models, self.loads, clock)
        self.adjustments = Adjustments(self)
        self.reception = Reception(self)
        self.device_regions = DeviceRegions(self.regions, self.fleet.instances, self.fleet.unflushed, self.reception.send)
        self._flushing = Flushing(self.fleet, self.reception, settings.max_reply_backlog_bytes)
        self.traces = Traces()
        self.cache = LocalCache(settings.cache_size_bytes)
        self.answers = CachedAnswers(self.cache, settings.cache_max_request_bytes, self.reception.unflushed, clock)
        replies = Replies(self.models, self.regions, self.fleet, self.reception.unflushed, self.answers)
        self.delivery = Delivery(self.models, self.regions, self.fleet, replies, self.traces, clock)
        spec = settings.gateways
        self.gateways = Gateways(spec.processes if spec else 0, host.launch_gateway, host.lose_gateway, clock)
        self.stopping = False
        self.host = host
        #: accepted requests that the scheduler has not been told of yet
        self.arrived: list[Request] = []
        self._worker_handlers: dict[type, Callable[[Instance, Any], None]] = {
            BatchDone: self._batch_done,
            Loaded: self.fleet.loaded,
            LoadFailed: self.fleet.load_failed,
            Ready: self._ready,
            RegionMapped: self.device_regions.mapped,
            RegionUnmapped: self.device_regions.unmapped,
        }

    def __repr__(self) -> str:
        return f"<Core {self.reception!r}, {self.regions!r}, {self.models!r}, {self.fleet!r}>"

    def check_invariants(self) -> None:
        """Checks every part, and what they say of each other."""
        self.scheduler.check_invariants()
        self.regions.check_invariants()
        self.models.check_invariants()
        self.fleet.check_invariants()
        self.delivery.check_invariants()
        self.loads.check_invariants()
        self.surveys.check_invariants()
        self.gpu_survey.check_invariants()
        self.reception.check_invariants()
        self.device_regions.check_invariants()
        self.traces.check_invariants()
        self.adjustments.check_invariants()
        self.cache.check_invariants()
        self.gateways.check_invariants()
        named = {region.number for session in self.reception.sessions.values() for region in session.regions}
        named |= {region.number for _, region in self.shared}
        for session in self.reception.sessions.values():
            for region in (region for binding in session.bindings.values() for region in binding.regions):
                assert self.regions.find(region.number) is region, f"{session} remembers a placement in {region}, which is gone"
        used: dict[int, int] = {}
        for session in self.reception.sessions.values():
            for request in session.in_flight.values():
                for region in request.binding.regions:
                    used[region.number] = used.get(region.number, 0) + 1
        for region in self.regions:
            assert region.closing or region.number in named, f"{region} belongs to nobody"
            assert region.in_flight >= used.get(region.number, 0), region

    def feed(self, event: AnyEvent) -> None:
        """Hands one event to the scheduler, after all that came before it, and carries out what it commands.

        The end of an instance goes before what waits to be handed over: nothing can be sent there any more.
        """
        if type(event) is not InstanceGone:
            self._settle()
        self.carry_out(self.scheduler.handle(event, self.clock()))

    def _forget_bindings(self) -> None:
        """A shared region is gone, which the placements of any session that has named such regions may name."""
        for session in self.reception.sessions.values():
            if session.names_shared:
                session.bindings.clear()
                session.names_shared = False

    def _settle(self) -> None:
        """Requests read in one go reach the scheduler in one go: what is there together can be batched together."""
        if self.arrived:
            arrived, self.arrived = self.arrived, []
            event = ArrivedTogether(arrived) if len(arrived) > 1 else Arrived(arrived[0])
            self.carry_out(self.scheduler.handle(event, self.clock()))

    def carry_out(self, commands: Sequence[AnyCommand]) -> None:
        """Turns the scheduler's commands into messages."""
        for command in commands:
            self.delivery.carry_out(command)

    def answered(self, request: InferRequest) -> bool:
        """Whether the response cache had the answer; its memory is then the client's again."""
        is_hit = self.answers.answer(request)
        if is_hit:
            self.fleet.unflushed.update(self.regions.release(request.binding.regions))
        return is_hit

    # --- workers ---------------------------------------------------------------------------------------------------------

    def receive_from_worker(self, instance: Instance, messages: Sequence[Any]) -> None:
        """Carries out what a worker said. A worker that breaks the protocol is replaced."""
        for message in messages:
            handler = self._worker_handlers.get(type(message))
            if handler is None:
                instance.kill(f"worker broke the protocol: {message!r:.200}")
                return
            try:
                handler(instance, message)
            except PenstockError as error:
                instance.kill(f"worker broke the protocol: {error.message}")
                return

    def _batch_done(self, instance: Instance, message: BatchDone) -> None:
        fds = instance.link.take_fds(message.fds) if message.fds else []
        try:
            self._settle()
            now = self.clock()
            commands = self.scheduler.handle(BatchEnded(_lane_of(instance, message), message.batch), now)
            self.delivery.batch_done(commands, message, fds, now)
        finally:
            for fd in fds:
                os.close(fd)

    def _ready(self, instance: Instance, message: Ready) -> None:
        if message.on_host:
            instance.gpu = ""
        self.device_regions.greet(instance)  # first: batches may follow at once
        instance.about = message.about
        self.fleet.ready(instance, message)

    def worker_exited(self, instance: Instance) -> None:
        """The process is dead and its socket drained."""
        self.fleet.exited(instance)
        self.device_regions.gone(instance)

    # --- models ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Reads the repositories, starts workers where it is this broker's job, and gateways."""
        self.surveys.start()
        self.gateways.start()

    def _switched(self) -> None:
        """What clients remembered to be checked may be about another version than they would get now."""
        for session in self.reception.sessions.values():
            session.bindings.clear()

    def abandon(self, why: str) -> None:
        """Fails loads, and what waits for an instance; what runs may still end by itself."""
        self.surveys.abandon()
        self.gpu_survey.abandon()
        self.loads.abandon(why)
        for model in self.models:
            if model.accepts:
                model.become(ModelState.UNAVAILABLE, why)
            if model.is_added:
                self.feed(ModelDown(model.number, why))

    # --- time and flushing -----------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When `tick` must be called at the latest, in the clock's ns; None: no need."""
        earliest_ns = self.scheduler.next_deadline()
        for due_ns in (self.fleet.next_deadline(), self.surveys.due_ns, self.gateways.due_ns):
            if due_ns is not None and (earliest_ns is None or due_ns < earliest_ns):
                earliest_ns = due_ns
        return earliest_ns

    def tick(self, now_ns: int) -> None:
        """Does what has become due."""
        self.carry_out(self.scheduler.handle(Tick(), now_ns))
        self.fleet.tick(now_ns)
        self.surveys.tick(now_ns)
        self.gateways.tick(now_ns)

    def flush(self) -> tuple[list[Session], list[Instance]]:
        """Sends what is queued. Returns those whose sockets are full, to be tried again when there is room."""
        self._settle()
        return self._flushing.flush()

    def is_settled(self) -> bool:
        """Whether what is to be loaded at the start is loaded or has failed to be, and every gateway serves or is given up."""
        return self.surveys.has_begun and self.loads.is_idle and self.gateways.are_settled

    def is_idle(self) -> bool:
        """Whether no accepted request waits for an outcome or a release."""
        return not any(session.in_flight for session in self.reception.sessions.values())


def _lane_of(instance: Instance, message: BatchDone) -> int:
    """The scheduler's number for where a batch was executed. Raises BrokerError for a lane that the worker has not."""
    if not 0 <= message.lane < instance.lanes:
        raise BrokerError(f"{instance.name} has no lane {message.lane}")
    return instance.number + message.lane
