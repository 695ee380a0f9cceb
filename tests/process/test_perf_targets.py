# SPDX-License-Identifier: Apache-2.0
"""What load generators know of a server, over every link: the same stories for a broker, and for a KServe v2 server of the tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from running import Program, RunningBroker

from penstock.clients.perf.plan import Link, Memory, Plan, Point
from penstock.clients.perf.target import Answer, Requests, Target, TargetSpec
from penstock.clients.perf.targets import open_target
from penstock.ipc.errors import BrokerError, CallerError, Code, ModelError

KSERVE: tuple[Link, ...] = ("http", "grpc")
MODEL = """
name: "{name}" backend: "identity" max_batch_size: {most}
input [ {{ name: "x" data_type: {kind} dims: [ {dims} ] }} ]
output [ {{ name: "y" data_type: {kind} dims: [ {dims} ] }} ]
"""
MODELS = {
    "numbers": ("TYPE_FP32", 4, 8),
    "strings": ("TYPE_STRING", 2, 8),
    "halves": ("TYPE_BF16", 3, 8),
    "no_batch": ("TYPE_INT64", -1, 0),
}
"""Those of programs/kserve/kserve_models.py."""
WAYS: list[tuple[Link, Memory]] = [
    ("http", "none"), ("http", "system"), ("grpc", "none"), ("grpc", "system"), ("local", "memfd"), ("local", "system"),
    ("zmq", "none"), ("zmq", "system"),
]  # fmt: skip
SECOND_NS = 1_000_000_000


class KServe(Program):
    """The KServe v2 server of the tests, with these faults."""

    def __init__(self, *faults: str) -> None:
        super().__init__("kserve/serves_kserve", *faults)
        self.addresses = self.say()

    def open(self, link: Link, model: str = "numbers", version: int = -1) -> Target:
        return open_target(TargetSpec(link=link, address=self.addresses[link], model=model, version=version))

    def ask(self, word: str) -> dict[str, Any]:
        self.tell(word)
        return self.say()


def plan_of(memory: Memory = "none", **options: Any) -> Plan:
    return Plan(points=(), memory=memory, **options)


def answers_of(requests: Requests, numbers: list[int]) -> list[Answer]:
    """All of them sent at once, all answers taken."""
    requests.send(numbers)
    found: list[Answer] = []
    while len(found) < len(numbers):
        found += requests.take()
    return found


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of a broker and of a KServe v2 server, with the same models."""
    folder = tmp_path_factory.mktemp("targets")
    for name, (kind, dims, most) in MODELS.items():
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "config.pbtxt").write_text(MODEL.format(name=name, kind=kind, dims=dims, most=most))
    with RunningBroker(folder, folder / "models") as broker, KServe() as kserve:
        yield broker.addresses | kserve.addresses


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """gevent's loop, and what grpc polls with, stay with the process that has used them once."""
    with KServe() as kserve:
        for link in KSERVE:
            kserve.open(link).close()


@pytest.mark.parametrize(("link", "memory"), WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_every_request_is_answered_with_what_it_sent(addresses: dict[str, str], link: Link, memory: Memory, model: str) -> None:
    # Given six requests in flight of what the server says the model takes
    target = open_target(TargetSpec(link=link, address=addresses[link], model=model))
    assert target.model.max_batch_size == MODELS[model][2]
    shapes = {"x": (5,)} if model == "no_batch" else {}
    with target.prepare(plan_of(memory, verify=True, shapes=shapes), Point(1 if shapes else 3, 6)) as requests:
        target.counts(0)
        # When all are sent several times, and every answer is compared with its request
        for _ in range(3):
            answers = answers_of(requests, list(range(6)))
            # Then each is answered once, at a time of its own
            assert sorted(answer.number for answer in answers) == list(range(6))
            assert all(answer.error is None and answer.read_ns <= answer.ended_ns for answer in answers)
        requests.check_invariants()  # type: ignore[attr-defined]
    # And nothing is left, nor is anything lost by closing twice
    target.close()
    target.close()


@pytest.mark.parametrize("link", ["http", "grpc", "local", "zmq"])
def test_the_server_has_counted_what_it_has_answered(addresses: dict[str, str], link: Link) -> None:
    target = open_target(TargetSpec(link=link, address=addresses[link], model="no_batch", version=1))
    with target.prepare(plan_of("none" if link != "local" else "memfd", shapes={"x": (1,)}), Point(1, 2)) as requests:
        before = target.counts(0)
        answers_of(requests, [0, 1])
        answers_of(requests, [2])
        assert target.counts(3).since(before).succeeded == 3
    target.close()


# --- what only other servers do -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", KSERVE)
def test_durations_are_those_that_the_server_has_counted(addresses: dict[str, str], link: Link) -> None:
    target = open_target(TargetSpec(link=link, address=addresses[link], model="strings"))
    before = target.counts(0)
    with target.prepare(plan_of(), Point(2, 4)) as requests:
        answers_of(requests, [0, 1, 2, 3])
    # The tests' server counts 15, 1, 2, 3 and 4 us for each
    assert target.counts(4).since(before) == (4, 60_000, 4_000, 8_000, 12_000, 16_000, 0, 0)
    assert (target.server.name, target.server.version, target.server.notes) == ("triton", "2.51.0", ())
    assert target.configuration()["backend"] == "python"
    target.close()


@pytest.mark.parametrize("link", KSERVE)
def test_a_server_that_counts_late_is_asked_again(link: Link) -> None:
    with KServe("--count-late-s", "0.3") as kserve:
        target = kserve.open(link)
        with target.prepare(plan_of(), Point(1, 4)) as requests:
            # Given answers before the first look at the counters
            answers_of(requests, [0, 1])
            # When the counters are read
            before = target.counts(2)
            answers_of(requests, [2, 3, 4])
            # Then they hold what was answered by then, and no less
            assert target.counts(3).since(before).succeeded == 3
        target.close()


@pytest.mark.parametrize("link", KSERVE)
def test_a_server_without_statistics_is_measured_by_the_client_alone(link: Link) -> None:
    with KServe("--no-statistics") as kserve:
        target = kserve.open(link)
        before = target.counts(0)
        with target.prepare(plan_of(), Point(1, 2)) as requests:
            answers_of(requests, [0, 1])
        assert target.counts(2).since(before) == (2, 0, 0, 0, 0, 0, 0, 0)
        (note,) = target.server.notes
        assert "the server has no statistics" in note
        target.close()


@pytest.mark.parametrize("link", KSERVE)
def test_a_server_without_configurations_takes_whole_shapes(link: Link) -> None:
    with KServe("--no-configuration") as kserve:
        target = kserve.open(link)
        assert (target.model.max_batch_size, target.model.inputs[0].dims) == (0, (-1, 4))
        with target.prepare(plan_of(verify=True, shapes={"x": (2, 4)}), Point(1, 1)) as requests:
            assert answers_of(requests, [0])[0].error is None
        assert "no model configuration" in target.server.notes[0] and target.configuration() == {}
        target.close()


@pytest.mark.parametrize("link", KSERVE)
def test_one_waits_no_longer_than_was_said(link: Link) -> None:
    # Given a server that holds the second request
    with KServe("--hold-nth", "2") as kserve:
        target = kserve.open(link)
        with target.prepare(plan_of(), Point(1, 2)) as requests:
            assert len(answers_of(requests, [0])) == 1
            requests.send([1])
            # When one waits for a moment, there is nothing
            assert list(requests.take(1_000_000)) == []
            # And when it is answered, that is what there is
            kserve.ask("release")
            (answer,) = requests.take(60 * SECOND_NS)
            assert (answer.number, answer.error) == (1, None)
        target.close()


@pytest.mark.parametrize("link", KSERVE)
def test_requests_that_nobody_waits_for_any_more_do_not_keep_the_memory(link: Link) -> None:
    with KServe("--hold-nth", "1") as kserve:
        target = kserve.open(link)
        with target.prepare(plan_of("system"), Point(1, 1)) as requests:
            requests.send([0])
        # Their region is unregistered, and what follows is not disturbed by them
        assert kserve.ask("release")["regions"] == []
        with target.prepare(plan_of(verify=True), Point(1, 2)) as requests:
            assert [answer.error for answer in answers_of(requests, [0, 1])] == [None, None]
        target.close()


@pytest.mark.parametrize(
    ("fault", "kind", "code", "said"),
    [
        ("--fail-nth", ModelError, Code.INTERNAL, "the model fails this one"),
        ("--reject-nth", BrokerError, Code.UNAVAILABLE, "Exceeds maximum queue size"),
    ],
)
@pytest.mark.parametrize("link", KSERVE)
def test_a_request_that_fails_does_so_alone(link: Link, fault: str, kind: type[Exception], code: Code, said: str) -> None:
    with KServe(fault, "2") as kserve:
        target = kserve.open(link)
        before = target.counts(0)
        with target.prepare(plan_of("system"), Point(1, 1)) as requests:
            errors = [answers_of(requests, [number])[0].error for number in range(3)]
        assert [error is None for error in errors] == [True, False, True]
        assert isinstance(errors[1], kind) and errors[1].code == code and said in errors[1].message
        assert target.counts(2).since(before).succeeded == 2
        target.close()


@pytest.mark.parametrize("memory", ["none", "system"])
@pytest.mark.parametrize("link", KSERVE)
def test_a_wrong_answer_is_noticed(link: Link, memory: Memory) -> None:
    with KServe("--garble-nth", "3") as kserve:
        target = kserve.open(link)
        wrong = pytest.raises(ModelError, match="output 'y' is not what input 'x' of the same request begins with")
        with target.prepare(plan_of(memory, verify=True), Point(1, 4)) as requests, wrong:
            answers_of(requests, [0, 1, 2, 3])
        target.close()


@pytest.mark.parametrize("link", KSERVE)
def test_the_region_is_registered_while_it_is_used_and_has_no_name_by_then(link: Link) -> None:
    with KServe() as kserve:
        target = kserve.open(link)
        with target.prepare(plan_of("system"), Point(2, 3)) as requests:
            (name,) = kserve.ask("regions")["regions"]
            assert not [key for key in os.listdir("/dev/shm") if name in key]
            assert len(requests) >= 3
        assert kserve.ask("regions") == {"regions": [], "registered": [name]}
        target.close()


class Interrupted(BaseException):
    """As KeyboardInterrupt is one."""


@pytest.mark.parametrize("how", [None, Interrupted, BrokerError("of one request, by a server that lives")])
@pytest.mark.parametrize("link", KSERVE)
def test_a_region_that_is_in_use_is_unregistered_later_however_it_ends(link: Link, how: Any) -> None:
    # Given a server that lets a region go at the third time of asking: requests in it are not done
    with KServe("--in-use", "2") as kserve:
        target = kserve.open(link)
        # When the measurement ends
        with suppress(Interrupted, BrokerError), target.prepare(plan_of("system"), Point(1, 1)) as requests:
            requests.send([0])
            if how is not None:
                raise how
        # Then nothing of it is left
        said = kserve.ask("regions")
        assert said["regions"] == [] and len(said["registered"]) == 1
        target.close()


@pytest.mark.parametrize("link", KSERVE)
def test_shared_memory_that_the_server_refuses_is_refused_with_the_way_out(link: Link) -> None:
    with KServe("--no-client-shm") as kserve:
        target = kserve.open(link)
        for memory, code, said in (
            ("system", Code.UNSUPPORTED, "Client shared memory is disabled"),
            ("memfd", Code.UNSUPPORTED, f"--shared-memory memfd over {link}"),
        ):
            with pytest.raises(CallerError) as refused, target.prepare(plan_of(memory), Point(1, 1)):  # type: ignore[arg-type]
                pass
            assert refused.value.code == code and said in refused.value.message
            assert (
                "--shared-memory none" in refused.value.message
                or "use --shared-memory system, cuda or none" in refused.value.message
            )
        target.close()


def before(error: BaseException) -> list[BaseException]:
    """What was being handled when it was raised."""
    return [] if error.__context__ is None else [error.__context__, *before(error.__context__)]


def go_on_without_it(kserve: KServe, requests: Requests) -> None:
    requests.send([0, 1])
    kserve.kill()
    while True:
        requests.send([answer.number for answer in requests.take()])


@pytest.mark.parametrize("memory", ["none", "system"])
@pytest.mark.parametrize("link", KSERVE)
def test_a_server_that_vanishes_is_named_and_nothing_is_left(link: Link, memory: Memory) -> None:
    with KServe("--hold-nth", "1") as kserve:
        target = kserve.open(link)
        # When the server is killed with requests in flight
        with pytest.raises(BrokerError) as lost, target.prepare(plan_of(memory), Point(1, 2)) as requests:
            go_on_without_it(kserve, requests)
        # Then they fail, or the next to be sent
        assert kserve.addresses[link] in lost.value.message and lost.value.code == Code.UNAVAILABLE
        # And that it is gone is not told to it
        assert not [error for error in before(lost.value) if isinstance(error, BrokerError)]
        target.close()


@pytest.mark.parametrize("link", KSERVE)
def test_a_model_or_a_server_that_is_not_there_is_named(addresses: dict[str, str], link: Link) -> None:
    with pytest.raises(CallerError, match="unknown model: 'nosuch'") as unknown:
        open_target(TargetSpec(link=link, address=addresses[link], model="nosuch"))
    assert unknown.value.code == Code.NOT_FOUND
    with pytest.raises(BrokerError, match="127.0.0.1:1"):
        open_target(TargetSpec(link=link, address="127.0.0.1:1", model="numbers"))


@pytest.mark.parametrize("link", KSERVE)
def test_without_tritonclient_it_is_said_what_to_install(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"tritonclient.{link}", None)
    monkeypatch.delitem(sys.modules, f"penstock.clients.perf.targets.kserve_{link}")
    with pytest.raises(CallerError, match=r"--link .* needs tritonclient, .*: pip install 'penstock\[gateway\]'") as refused:
        open_target(TargetSpec(link=link, address="127.0.0.1:1", model="m"))
    assert refused.value.code == Code.UNSUPPORTED


# --- HTTP -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["--chunked", "--one-request"])
def test_whatever_form_http_gives_an_answer(fault: str) -> None:
    with KServe(fault) as kserve:
        target = kserve.open("http")
        with target.prepare(plan_of(verify=True), Point(2, 3)) as requests:
            for _ in range(3):
                assert [answer.error for answer in answers_of(requests, [0, 1, 2])] == [None] * 3
        target.close()


def test_a_connection_that_is_closed_instead_of_an_answer_fails_its_request_alone() -> None:
    with KServe("--hang-up-nth", "2") as kserve:
        target = kserve.open("http")
        with target.prepare(plan_of(), Point(1, 1)) as requests:
            errors = [answers_of(requests, [number])[0].error for number in range(3)]
        assert [error is None for error in errors] == [True, False, True]
        assert "connection closed before it had answered" in str(errors[1])
        target.close()


def test_large_requests_are_sent_while_answers_come(addresses: dict[str, str]) -> None:
    # Given requests and answers that are larger than what a socket holds
    target = open_target(TargetSpec(link="http", address=addresses["http"], model="no_batch"))
    with target.prepare(plan_of(verify=True, shapes={"x": (1_000_000,)}), Point(1, 4)) as requests:
        assert [answer.error for answer in answers_of(requests, [0, 1, 2, 3])] == [None] * 4
    target.close()


@pytest.mark.parametrize("url", ["https://host", "host:port", "//", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(CallerError, match="--url"):
        open_target(TargetSpec(link="http", address=url, model="m"))


def test_an_address_with_a_path_is_asked_there(addresses: dict[str, str]) -> None:
    with pytest.raises(CallerError, match="there is no /base/"):
        open_target(TargetSpec(link="http", address=f"http://{addresses['http']}/base/", model="numbers"))
