# SPDX-License-Identifier: Apache-2.0
"""A whole broker through random stories: clients and their memory, on GPUs too; workers that come and die; loads and unloads.

`paper_world` insists on what workers and clients are promised, `ScriptedBroker.settle` on every invariant, after each step. This
adds the stories, and the end: when every worker does what it is told, everything that was asked is answered, and nothing is left.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec import Raw, structs
from paper_world import Ask, PaperClient, PaperWorker, PaperWorld
from scripted import CONFIG, ROW_BYTES, ScriptedBroker, ScriptedLink

from penstock.ipc.codec import encode
from penstock.ipc.gpus import GpuInfo, Gpus
from penstock.ipc.messages import (
    Cancel,
    Hello,
    Infer,
    InputTensor,
    Load,
    Loaded,
    LoadFailed,
    Message,
    OutputPlace,
    Ready,
    RegionMapped,
    Register,
    Unload,
    Unregister,
)
from penstock.ipc.peers import Peer
from penstock.runtime.mps.daemon import MpsState
from penstock.runtime.settings import MpsMode

U = [f"GPU-00000000-0000-0000-0000-00000000000{at}" for at in range(2)]
GPUS = Gpus(tuple(GpuInfo(at, uuid, "H100", 1, (9, 0), "", False, False) for at, uuid in enumerate(U)), "")
ON_CPU = "instance_group [ { count: 1 kind: KIND_CPU } ]"
LIMITER = 'rate_limiter { resources { name: "R" count: 1 } }'
GROUPS = {
    "plain": "{ count: %d kind: KIND_CPU }",
    "one": "{ count: %d kind: KIND_GPU gpus: [ 0 ] }",
    "wide": "{ count: %d kind: KIND_GPU gpus: [ 0, 1 ] }",
    "mixed": "{ count: %d kind: KIND_GPU gpus: [ 1 ] }, { count: 1 kind: KIND_CPU }",
    "limited": "{ count: %d kind: KIND_GPU gpus: [ 0, 1 ] " + LIMITER + " }",
}
#: name -> where a request's input and output may be: "r" is host memory, "a" lies on GPU 0, "b" on GPU 1; mostly it can be served
MEMORY = {
    "plain": ("rr", "rr", "rr", "ra"),
    "one": ("rr", "aa", "ra", "bb"),
    "wide": ("rr", "aa", "bb", "ab"),
    "mixed": ("rr", "bb", "rb", "ar"),
    "limited": ("rr", "aa", "bb", "br"),
}
QUEUES = "default_queue_policy { default_timeout_microseconds: 2000 max_queue_size: 3 }"
BATCHING = (
    "",
    "dynamic_batching { max_queue_delay_microseconds: 500 }",
    "dynamic_batching { preserve_ordering: true }",
    f"dynamic_batching {{ priority_levels: 2 default_priority_level: 1 {QUEUES} }}",
)
SLOTS = st.integers(0, 1)
REGIONS = st.sampled_from(["r", "a", "b"])
ANY = st.integers(0, 30)
USERS = (os.geteuid(), 4242)
"""Whose regions gateways may speak for: the broker's own user's, and another's."""
OURSELVES = Peer(os.getpid(), os.getuid(), os.getgid(), None)


def config(name: str, count: int, batching: str, lanes: int) -> str:
    groups = f"instance_group [ {GROUPS[name] % count} ]"
    parameters = f'parameters {{ key: "lanes" value {{ string_value: "{lanes}" }} }} {batching}'
    return CONFIG.replace('"echo"', f'"{name}"').replace(ON_CPU, groups) + parameters


class CoreMachine(RuleBasedStateMachine):
    """Two models out of five, two clients and two GPUs."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = 0

    # --- the beginning ---

    @initialize(
        names=st.lists(st.sampled_from(sorted(GROUPS)), min_size=2, max_size=2, unique=True),
        mps=st.sampled_from(MpsMode), batching=st.sampled_from(BATCHING), lanes=st.integers(1, 2),
        count=st.sampled_from([2, 4, 1, 3]),
    )  # fmt: skip
    def begin(self, names: list[str], mps: MpsMode, batching: str, lanes: int, count: int) -> None:
        self.names = names
        configs = [config(name, count, batching, lanes) for name in names]
        self.broker = ScriptedBroker(
            *configs, gpus=GPUS, mps=mps, rate_limit=True, load_threads=8, max_in_flight=40, max_execution_s=1.0
        )
        self.world = PaperWorld(self.broker)
        self.world.listen()
        for _ in range(2):
            self._client_comes()
        self._run_out()

    def _client_comes(self) -> None:
        """It has "r" in host memory, and "a" and "b" each on a GPU."""
        client = PaperClient(self.broker.client())
        self.world.clients.append(client)
        for gpu, name in enumerate("ab"):
            self._ask(client, self._on_gpu(name, gpu), Ask())

    def _ask(self, client: PaperClient, message: Message, ask: Ask) -> None:
        client.asked[self.ids] = ask
        self.broker.core.reception.receive(client.session, [message])
        self.world.listen()

    def _next_id(self) -> int:
        self.ids += 1
        return self.ids

    def _on_gpu(self, name: str, gpu: int) -> Register:
        return Register(self._next_id(), name, "cuda", 4096, handle=U[gpu].encode().ljust(64, b"\0"), uuid=U[gpu])

    # --- clients ---

    def _client(self, which: int) -> PaperClient:
        return self.world.clients[which % len(self.world.clients)]

    @rule(
        which=ANY, slot=SLOTS, at=st.integers(0, 3), rows=st.integers(1, 4),
        priority=st.integers(0, 2), deadline_us=st.sampled_from([0, 0, 0, 700, 4000]), count=st.sampled_from([1, 2, 4, 8]),
        user=st.sampled_from([None, None, *USERS]),
    )  # fmt: skip
    def infer(
        self, which: int, slot: int, at: int, rows: int, priority: int, deadline_us: int, count: int, user: int | None
    ) -> None:
        """With a `user` what lies on GPUs is that user's, shared; host memory is the client's own."""
        client, model = self._client(which), self.names[slot]
        source, target = MEMORY[model][at]
        is_shared = {name: user is not None and name != "r" for name in (source, target)}
        names = self.broker.core.shared.of(user) if user is not None and is_shared[target] else client.session.regions
        region = next((region for region in names if region.name == target), None)
        for _ in range(count):
            place = self.world.free_place(0 if region is None else region.number)
            inputs = [InputTensor("x", "FP32", [rows, 2], source, 4000, rows * ROW_BYTES, is_shared[source])]
            outputs = [OutputPlace("y", target, place.offset, rows * ROW_BYTES, shared=is_shared[target])]
            message = Infer(
                self._next_id(), model, Raw(encode(inputs)), Raw(encode(outputs)), priority=priority, deadline_us=deadline_us,
                on_behalf=-1 if user is None else user,
            )  # fmt: skip
            self._ask(client, message, Ask(place))

    @rule(
        which=ANY, name=REGIONS, gpu=st.integers(0, 2), what=st.sampled_from(["cuda", "number", "host", "forget", "forget all"])
    )
    def memory(self, which: int, name: str, gpu: int, what: str) -> None:
        """Of the GPU with a number it is asked first which one that is, which takes until `survey_ends`."""
        client = self._client(which)
        if what == "cuda":
            self._ask(client, self._on_gpu(name, gpu % 2), Ask())
        elif what == "number":
            if self.broker.reads:
                self.broker.core.gpu_survey.found, self.broker.reads = None, False
            message = structs.replace(self._on_gpu(name, gpu % 2), uuid="", device_id=gpu)
            self._ask(client, message, Ask())
        elif what == "host":
            client.asked[900] = Ask()  # the id that ScriptedBroker.register gives it
            self.broker.register(client.session, name)
            self.world.listen()
        else:
            name = name if what == "forget" else ""
            named = [each for each in client.session.regions if name in ("", each.name)]
            numbers = frozenset(each.number for each in named if each.gpu)
            self._ask(client, Unregister(self._next_id(), name), Ask(numbers=numbers))

    @rule(
        which=ANY,
        name=st.sampled_from(["a", "b", ""]),
        user=st.sampled_from(USERS),
        what=st.sampled_from(["cuda", "number", "forget"]),
    )
    def shared_memory(self, which: int, name: str, user: int, what: str) -> None:
        """Of a user, through any client. What is in use when it is to be forgotten stays, and is not waited for."""
        client = self._client(which)
        if what == "forget":
            idle = [each for each in self.broker.core.shared.of(user) if name in ("", each.name) and not each.in_flight]
            numbers = frozenset(each.number for each in idle)
            self._ask(client, Unregister(self._next_id(), name, user), Ask(numbers=numbers))
            return
        message = structs.replace(self._on_gpu(name, name == "b"), on_behalf=user)
        if what == "number":
            if self.broker.reads:
                self.broker.core.gpu_survey.found, self.broker.reads = None, False
            message = structs.replace(message, uuid="", device_id=int(name == "b"))
        self._ask(client, message, Ask())

    @precondition(lambda self: not self.broker.reads)
    @rule()
    def survey_ends(self) -> None:
        self.broker.core.gpu_survey.found, self.broker.reads = GPUS, True
        self.broker.read()
        self.world.listen()

    @rule(which=ANY, back=ANY)
    def cancel(self, which: int, back: int) -> None:
        client = self._client(which)
        self.broker.core.reception.receive(client.session, [Cancel(max(1, self.ids - back))])
        self.world.listen()

    # --- models ---

    @rule(
        which=ANY, slot=SLOTS, what=st.sampled_from(["resize", "resize", "change", "unload"]), count=st.sampled_from([2, 4, 1, 3]),
        batching=st.sampled_from(BATCHING), lanes=st.integers(1, 2),
    )  # fmt: skip
    def model_changes(self, which: int, slot: int, what: str, count: int, batching: str, lanes: int) -> None:
        """The instances alone, or everything."""
        name = self.names[slot]
        message = Unload(self._next_id(), name) if what == "unload" else Load(self._next_id(), name)
        if what == "change":
            self.broker.disk.write(config(name, count, batching, lanes), 1)
        elif what == "resize":
            text, shared, stamps = self.broker.disk.models[name]
            start = text.index("count: ") + len("count: ")
            self.broker.disk.models[name] = f"{text[:start]}{count}{text[start + 1 :]}", shared, stamps
        self._ask(self._client(which), message, Ask())

    # --- workers ---

    def _loading(self) -> list[PaperWorker]:
        return [each for each in self.world.workers if each.order and not each.is_ready and not each.stopped]

    @rule(which=st.lists(ANY, min_size=1, max_size=8), fails=ANY)
    def workers_work(self, which: list[int], fails: int) -> None:
        """Whatever is due, in any order; one of them may fail at it."""
        for step, at in enumerate(which):
            due = self._due()
            if due:
                self._do(due[at % len(due)], fails=fails == step)

    @rule(what=st.sampled_from(["worker dies", "worker dies", "client dies", "worker attaches", "mps", "mps dies"]), which=ANY)
    def mishap(self, what: str, which: int) -> None:
        """And whatever else happens once in a while."""
        if what == "worker dies" and self.world.workers:
            worker = self.world.workers[which % len(self.world.workers)]
            worker.process.killed = True
            self.world.bury(worker)
        elif what == "client dies":
            client = self._client(which)
            self.world.clients.remove(client)
            self.broker.core.reception.end(client.session, "its process died")
            self._client_comes()
        elif what == "worker attaches":
            self._attach(self.names[which % 2])
        else:
            self._mps_daemon(ends=what == "mps dies")

    def _attach(self, name: str) -> None:
        if any(worker.process.name == name for worker in self.world.workers) or not self.broker.core.models.current(name):
            return
        session = self.broker.core.reception.open(ScriptedLink(), OURSELVES, takes_fds=True)
        self.broker.core.reception.receive(session, [Hello(bytes(16), role="worker", name=name)])
        self.world.listen()

    def _mps_daemon(self, ends: bool) -> None:
        mps = self.broker.core.fleet.mps
        if ends and mps.state in (MpsState.STARTING, MpsState.RUNNING):
            mps.ended("it died", self.broker.now_ns)
        elif mps.state is MpsState.STARTING:
            mps.answers()
        self.world.listen()

    @rule(ms=st.sampled_from([0.1, 1.0, 5.0, 120.0, 800.0]))
    def time_passes(self, ms: float) -> None:
        end_ns = self.broker.now_ns + int(ms * 1e6)
        while (due_ns := self.broker.core.next_deadline()) is not None and due_ns <= end_ns:
            self.broker.now_ns = max(self.broker.now_ns, due_ns)
            self.world.listen()
        self.broker.now_ns = end_ns
        self.world.listen()

    def _due(self) -> list[tuple[str, PaperWorker, int]]:
        """What a worker has to do next: say what became of a region, answer a batch (of a lane), come up, or go."""
        due: list[tuple[str, PaperWorker, int]] = []
        for worker in self.world.workers:
            if worker.process.killed:
                due.append(("end", worker, 0))
                continue
            busy = [lane for lane, line in sorted(worker.batches.items()) if line]
            due += [("answer", worker, lane) for lane in busy]
            if worker.reports:
                due.append(("report", worker, 0))
            if worker.order and not worker.is_ready and not worker.stopped:
                due.append(("load", worker, 0))
            if worker.stopped and not worker.reports and not busy:
                due.append(("end", worker, 0))
        return due

    def _do(self, step: tuple[str, PaperWorker, int], fails: bool = False) -> None:
        what, worker, lane = step
        if what == "answer":
            fields: dict[str, Any] = {"code": "INTERNAL", "message": "it raised"} if fails else {}
            self.broker.now_ns += 300_000
            self.world.say(worker, worker.answer(lane, self.broker.now_ns, **fields))
        elif what == "report":
            report = worker.reports.popleft()
            if fails and isinstance(report, RegionMapped):
                report = RegionMapped(report.region, "INVALID_ARG", "no such memory", "caller")
            self.world.say(worker, report)
        elif what == "end":
            self.world.bury(worker)
        elif fails:
            self.world.say(worker, LoadFailed("no such file"))
        elif worker.started:
            worker.is_ready = True
            self.world.say(worker, Ready(mps=worker.gpu != ""))
        else:
            self.world.say(worker, Loaded(worker.process.pid))

    # --- the end ---

    def _run_out(self) -> None:
        """Everything that is due is done, and all time that is waited for passes."""
        for _ in range(2000):
            if due := self._due():
                self._do(due[0])
            elif self.broker.core.fleet.mps.state is MpsState.STARTING:
                self._mps_daemon(ends=False)
            elif (due_ns := self.broker.core.next_deadline()) is not None:
                self.broker.now_ns = max(self.broker.now_ns, due_ns)
                self.world.listen()
            else:
                return
        raise AssertionError(f"it never ends: {self.broker.core!r}")

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        if not self.broker.reads:
            self.survey_ends()
        self._run_out()
        assert not any(client.asked for client in self.world.clients), [client.asked for client in self.world.clients]
        assert self.broker.core.is_idle()
        for name in self.names:
            self._ask(self._client(0), Unload(self._next_id(), name), Ask())
        self._run_out()
        assert not self._client(0).asked and not self.world.workers, self.world.workers
        for user in USERS:
            self._ask(self._client(0), Unregister(self._next_id(), "", user), Ask())
        self._run_out()
        assert not self._client(0).asked and not list(self.broker.core.shared)
        self.broker.end_sessions()
        core = self.broker.core
        assert not len(core.regions) and not list(core.models) and not core.fleet.instances and not core.fleet.lanes
        assert repr(core.device_regions) == "<DeviceRegions 0 to be opened, 0 to be closed>"
        assert core.scheduler.next_deadline() is None
        super().teardown()


TestCore = CoreMachine.TestCase
TestCore.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
