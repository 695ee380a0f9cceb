# SPDX-License-Identifier: Apache-2.0
"""HTTP connections as careless and hostile clients use them: what is half sent, too large, too slow, too many or no HTTP."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from gateways import RunningGateway
from running import Barrier, RunningBroker, add_model, eventually, resident_bytes

LIMIT = 8 << 20
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}).encode()
ECHO = "/v2/models/echo/infer"
ENDS_S = 10.0


class Served(NamedTuple):
    broker: RunningBroker
    gateway: RunningGateway
    gate: Path  # where the held model's barrier is looked for

    @property
    def pid(self) -> int:
        assert self.gateway.process is not None
        return self.gateway.process.pid


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for all stories; "held" is executed until it is let go."""
    folder = tmp_path_factory.mktemp("connections")
    repository = folder / "models"
    gate = folder / "gate"
    add_model(repository, "echo")
    add_model(repository, "wide", width=-1)
    add_model(repository, "held", mode="barrier", max_batch_size=1, barrier_path=gate)
    options = ("--http-max-input-size", str(LIMIT), "--log-level", "debug")
    with (
        RunningBroker(folder, repository) as broker,
        RunningGateway(folder, broker.addresses["local"], *options) as gateway,
    ):
        yield Served(broker, gateway, gate)


class Wire:
    """One connection, byte by byte."""

    def __init__(self, served: Served) -> None:
        host, _, port = served.gateway.http.partition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=30)
        self._read = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, head: str, body: bytes = b"", **headers: str) -> None:
        lines = [head, "Host: x", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()), "", ""]
        self.sock.sendall("\r\n".join(lines).encode() + body)

    def post(self, body: bytes, path: str = ECHO, **headers: str) -> None:
        self.send(f"POST {path} HTTP/1.1", body, Content_Length=str(len(body)), **headers)

    def _line(self) -> bytes:
        while b"\r\n" not in self._read:
            self._more()
        line, _, self._read = self._read.partition(b"\r\n")
        return line

    def _more(self) -> None:
        found = self.sock.recv(1 << 16)
        assert found, f"the connection ended after {self._read!r}"
        self._read += found

    def answer(self) -> tuple[int, bytes]:
        """The next response's status and body."""
        status = int(self._line().split()[1])
        size = 0
        while line := self._line():
            if line.lower().startswith(b"content-length:"):
                size = int(line.split(b":")[1])
        while len(self._read) < size:
            self._more()
        body, self._read = self._read[:size], self._read[size:]
        return status, body

    def has_ended(self) -> bool:
        """Waits until the other side closes it."""
        try:
            while found := self.sock.recv(1 << 16):
                self._read += found
        except ConnectionResetError:
            pass
        return True


@pytest.fixture
def wire(served: Served) -> Iterator[Wire]:
    with Wire(served) as made:
        yield made


def error_of(answer: tuple[int, bytes]) -> tuple[int, str]:
    status, body = answer
    return status, json.loads(body)["error"]


def is_served(served: Served) -> bool:
    with Wire(served) as other:
        other.post(BODY)
        return other.answer()[0] == 200


# --- bodies -------------------------------------------------------------------------------------------------------------------


def test_a_connection_serves_one_request_after_the_other_also_when_they_come_together(wire: Wire) -> None:
    # Given three requests in one write
    request = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (ECHO.encode(), len(BODY), BODY)
    wire.sock.sendall(request * 3)
    # Then each has its answer, in order
    assert [wire.answer()[0] for _ in range(3)] == [200, 200, 200]


def test_a_body_may_come_in_chunks_and_byte_by_byte(wire: Wire) -> None:
    wire.send(f"POST {ECHO} HTTP/1.1", Transfer_Encoding="chunked")
    for at in range(0, len(BODY), 7):
        piece = BODY[at : at + 7]
        wire.sock.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
    wire.sock.sendall(b"0\r\n\r\n")
    assert wire.answer()[0] == 200
    wire.send(f"POST {ECHO} HTTP/1.1", Content_Length=str(len(BODY)))
    for byte in BODY:
        wire.sock.sendall(bytes([byte]))
    assert wire.answer()[0] == 200


@pytest.mark.parametrize("length_header", [{}, {"Inference_Header_Content_Length": "0"}])
def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(
    served: Served, wire: Wire, length_header: dict[str, str]
) -> None:
    # Given nothing but the announcement
    wire.send(f"POST {ECHO} HTTP/1.1", Content_Length=str(LIMIT + 1), **length_header)
    # Then it is refused in Triton's words
    what = (
        f"Raw input has a byte_size ({LIMIT + 1}) that exceeds"
        if length_header
        else f"request JSON size of {LIMIT + 1} bytes exceeds"
    )
    said = f"{what} the maximum allowed input size of {LIMIT} bytes. Use --http-max-input-size to increase the limit."
    assert error_of(wire.answer()) == (400, said)
    assert is_served(served)


def test_chunks_that_become_too_large_are_refused_when_they_do(served: Served, wire: Wire) -> None:
    # Given a body without end
    wire.send(f"POST {ECHO} HTTP/1.1", Transfer_Encoding="chunked")
    chunk = b"10000\r\n%s\r\n" % bytes(1 << 16)
    for _ in range(LIMIT // (1 << 16) + 1):
        wire.sock.sendall(chunk)
    # Then it is refused while it goes on
    status, said = error_of(wire.answer())
    assert status == 400
    assert said.startswith(f"request JSON size of more than {LIMIT} bytes exceeds the maximum allowed input size")
    assert is_served(served)


def test_a_body_of_just_the_size_is_taken(wire: Wire) -> None:
    wire.post(BODY.ljust(LIMIT))
    assert wire.answer()[0] == 200


def test_half_a_body_costs_nobody_anything(served: Served) -> None:
    # Given clients that send half of what they announce, and go
    for _ in range(20):
        with Wire(served) as half:
            half.send(f"POST {ECHO} HTTP/1.1", BODY[:50], Content_Length=str(len(BODY)))
    # And one that stays
    with Wire(served) as waiting:
        waiting.send(f"POST {ECHO} HTTP/1.1", BODY[:50], Content_Length=str(len(BODY)))
        assert is_served(served)
        # Then it is answered when the rest has come
        waiting.sock.sendall(BODY[50:])
        assert waiting.answer()[0] == 200


@pytest.mark.parametrize("expects", ["100-continue", "100-Continue"])
def test_who_waits_to_be_told_to_go_on_is_told(wire: Wire, expects: str) -> None:
    wire.send(f"POST {ECHO} HTTP/1.1", Content_Length=str(len(BODY)), Expect=expects)
    assert wire.answer() == (100, b"")
    wire.sock.sendall(BODY)
    assert wire.answer()[0] == 200


def test_who_waits_with_too_much_is_refused_instead(wire: Wire) -> None:
    wire.send(f"POST {ECHO} HTTP/1.1", Content_Length=str(LIMIT + 1), Expect="100-continue")
    assert wire.answer()[0] == 400


def test_an_empty_expectation_is_none(wire: Wire) -> None:  # as Triton's client in C++ sends it
    wire.post(BODY, Expect="")
    assert wire.answer()[0] == 200


OVERSIZED = "n" * 5_000_000


@pytest.mark.parametrize(
    ("request_body", "status"),
    [
        ({"inputs": [{"name": OVERSIZED, "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}, 400),
        ({"inputs": [], "outputs": [{"name": OVERSIZED}]}, 400),
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"shared_memory_region": OVERSIZED}}]},
            404,
        ),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1] * 500_000, "data": [1]}]}, 400),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}] * 50_000}, 400),
    ],
)
def test_a_request_that_the_broker_cannot_be_told_costs_nobody_else_anything(
    served: Served, wire: Wire, request_body: dict[str, Any], status: int
) -> None:
    # Given a request that is executed
    with Barrier(served.gate) as gate, Wire(served) as other:
        other.post(BODY, "/v2/models/held/infer")
        batch = gate.entered()
        # When another one is larger than a message to the broker
        wire.post(json.dumps(request_body).encode())
        assert wire.answer()[0] == status
        # Then the first has its answer nevertheless: the gateway keeps its connection
        batch.let_go()
        assert other.answer()[0] == 200


# --- HTTP ---------------------------------------------------------------------------------------------------------------------


def test_a_client_of_http_1_0_is_served_and_its_connection_ends(wire: Wire) -> None:
    wire.send(f"POST {ECHO} HTTP/1.0", BODY, Content_Length=str(len(BODY)))
    assert wire.answer()[0] == 200
    assert wire.has_ended()


def test_a_connection_that_is_to_be_closed_is(wire: Wire) -> None:
    wire.post(BODY, Connection="close")
    assert wire.answer()[0] == 200
    assert wire.has_ended()


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_another_verb_is_not_allowed(wire: Wire, verb: str) -> None:
    wire.send(f"{verb} {ECHO} HTTP/1.1")
    assert error_of(wire.answer()) == (405, "Method Not Allowed")
    wire.send(f"{verb} /nowhere HTTP/1.1")
    assert error_of(wire.answer()) == (404, "Not Found")


def test_the_head_of_an_answer_has_no_body(wire: Wire) -> None:
    wire.send(f"HEAD {ECHO} HTTP/1.1", Connection="close")
    wire.has_ended()
    assert wire._read.startswith(b"HTTP/1.1 405") and wire._read.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # the beginning of TLS
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n" % ECHO.encode(),
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n" % ECHO.encode(),
        b"GET / HTTP/1.1\r\nHost: x\r\nLong: " + b"x" * 20000 + b"\r\n\r\n",
        b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" % ECHO.encode(),
    ],
)
def test_what_is_no_http_is_answered_400_and_leaves_no_trace_in_the_log(served: Served, wire: Wire, sent: bytes) -> None:
    wire.sock.sendall(sent)
    status, said = error_of(wire.answer())
    assert status == 400 and said
    assert wire.has_ended()
    assert "Traceback" not in served.gateway.log()
    assert is_served(served)


def test_a_header_that_is_no_text_is_quoted_as_well_as_it_can_be(served: Served, wire: Wire) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: \xce1\r\nContent-Length: 2\r\n\r\n{}"
    wire.sock.sendall(head % ECHO.encode())
    assert error_of(wire.answer()) == (400, "Unable to parse Inference-Header-Content-Length, got: ?1")
    assert "Traceback" not in served.gateway.log()


# --- waiting, going away, and being many --------------------------------------------------------------------------------------


def test_a_client_that_goes_away_cancels_its_request(served: Served) -> None:
    # Given a model that executes one request, has another at hand, and a third one in its queue
    with (
        Barrier(served.gate) as gate,
        Wire(served) as first,
        Wire(served) as second,
        served.broker.client("local") as bystander,
    ):

        def queued() -> int:
            found: int = bystander.query("status")["queued"]["held/1"]
            return found

        first.post(BODY, "/v2/models/held/infer")
        batch = gate.entered()
        second.post(BODY, "/v2/models/held/infer")
        with Wire(served) as third:
            third.post(BODY, "/v2/models/held/infer")
            eventually(lambda: queued() == 1, ENDS_S, "the third request is queued")
        # When its client goes, then it is queued no more
        eventually(lambda: queued() == 0, ENDS_S, "the third request is cancelled")
        # And is never executed
        batch.let_go()
        assert first.answer()[0] == 200
        gate.entered().let_go()
        assert second.answer()[0] == 200
        assert not gate.is_somebody_there()


def test_a_response_that_is_not_read_holds_its_own_bytes_and_nobody_up(served: Served) -> None:
    # Given clients that ask for much and read nothing
    numbers = LIMIT // 16
    body = json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, numbers], "data": [0] * numbers}]}, separators=(",", ":")
    ).encode()
    deaf = [Wire(served) for _ in range(10)]
    for wire in deaf:
        wire.post(body, "/v2/models/wide/infer")
    # Then others are served
    assert is_served(served)
    # And those, when they read
    for wire in deaf:
        status, said = wire.answer()
        assert status == 200 and len(said) > LIMIT // 8
        wire.sock.close()


def test_a_thousand_idle_connections_are_cheap(served: Served) -> None:
    # Given what the gateway takes with none
    assert is_served(served)
    before = resident_bytes(served.pid)
    # When there are a thousand, which have been served once
    idle = [Wire(served) for _ in range(1000)]
    try:
        for wire in idle:
            wire.send("GET /v2/health/live HTTP/1.1")
        assert all(wire.answer()[0] == 200 for wire in idle)
        # Then they take little, and others are served
        assert resident_bytes(served.pid) - before < 1000 * 64 * 1024
        assert is_served(served)
    finally:
        for wire in idle:
            wire.sock.close()
