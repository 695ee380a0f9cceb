# SPDX-License-Identifier: Apache-2.0
"""A short document is read once: what is remembered of it depends on nothing that is not looked up by."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from penstock.ipc.errors import CallerError
from penstock.runtime.gateway.callers import Caller
from penstock.runtime.gateway.over_http import inference
from penstock.runtime.gateway.over_http.exchange import Call, Response
from penstock.runtime.gateway.over_http.infer_request import LENGTH_HEADER
from penstock.runtime.gateway.over_http.inference import MOST_REMEMBERED, SHORT_BYTES, HttpInference
from penstock.runtime.gateway.requests import InferAnswer, InferRequest, InRegion

PATTERN = SimpleNamespace(http_header_forward_pattern="x-.*")


class PaperInference:
    """Answers with no outputs; `made` is what it was asked, and by whom."""

    def __init__(self) -> None:
        self.made: list[tuple[InferRequest, str]] = []

    async def infer(self, request: InferRequest, caller: Caller) -> InferAnswer:
        self.made.append((request, caller.principal))
        return InferAnswer(request.model, 1, request.id, ())


class PaperLink:
    """Knows every model."""

    async def query(self, *_: Any) -> None:
        """Its metadata, which nobody reads here."""


class Story:
    """HttpInference on paper; `read` is the documents that were read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.executed = PaperInference()
        self.http = HttpInference(SimpleNamespace(link=PaperLink(), inference=self.executed, settings=PATTERN))  # type: ignore[arg-type]
        self.read: list[bytes] = []
        asked = inference.asked

        def counted(written: bytes, *rest: Any) -> Any:
            self.read.append(written)
            return asked(written, *rest)

        monkeypatch.setattr(inference, "asked", counted)

    def post(self, body: bytes, model: str = "m", caller: str = "http:a", **headers: str) -> Response:
        call = Call("POST", "/v2/models/m/infer", headers, body, Caller(caller))
        return run(self.http.infer(call, model, None))


def run(coroutine: Coroutine[Any, Any, Response]) -> Response:
    """Drives what never waits."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        response: Response = ended.value
        return response
    raise AssertionError("it waits for something")


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(monkeypatch)


def document(name: str = "r", **more: Any) -> bytes:
    parameters = {"shared_memory_region": name, "shared_memory_byte_size": 8}
    given = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": parameters}
    return json.dumps({"inputs": [given], **more}).encode()


def test_the_same_bytes_are_read_once(story: Story) -> None:
    """Given a document from two callers for two models, then it is read once for each model, and each has its own request."""
    for model, caller in (("m", "http:a"), ("m", "http:b"), ("n", "http:b"), ("m", "http:a")):
        story.post(document(id="7"), model, caller)
    assert len(story.read) == 2
    assert [(request.model, caller) for request, caller in story.executed.made] == [
        ("m", "http:a"), ("m", "http:b"), ("n", "http:b"), ("m", "http:a"),
    ]  # fmt: skip
    assert all(request.inputs[0].content == InRegion("r", 0, 8) and request.id == "7" for request, _ in story.executed.made)


def test_other_bytes_are_another_request(story: Story) -> None:
    for name in ("r", "s", "r"):
        story.post(document(name))
    regions = [request.inputs[0].content for request, _ in story.executed.made]
    assert regions == [InRegion("r", 0, 8), InRegion("s", 0, 8), InRegion("r", 0, 8)]


def test_a_document_that_is_said_to_be_all_is_another_than_one_of_unsaid_length(story: Story) -> None:
    """Given an input whose content should follow and does not, then what is said of that depends on the header."""
    given = {"name": "x", "datatype": "FP32", "shape": [0], "parameters": {"binary_data_size": 0}}
    body = json.dumps({"inputs": [given]}).encode()
    story.post(body, **{LENGTH_HEADER: str(len(body))})
    assert len(story.executed.made) == 1, "nothing is to follow, and nothing does"
    with pytest.raises(CallerError, match="must specify valid 'Infer-Header-Content-Length'"):
        story.post(body)


def test_forwarded_headers_are_not_remembered(story: Story) -> None:
    for value in ("1", "2"):
        story.post(document(), **{"x-trace": value})
    story.post(document())
    assert [request.parameters for request, _ in story.executed.made] == [{"x-trace": "1"}, {"x-trace": "2"}, {}]


def test_what_is_long_or_many_is_not_kept(story: Story) -> None:
    """Given documents too long to be kept, and more short ones than are kept, then they are read again."""
    for _ in range(2):
        story.post(document(id="7" * SHORT_BYTES))
    assert len(story.read) == 2
    for number in range(MOST_REMEMBERED + 1):
        story.post(document(id=str(number)))
    story.read.clear()
    story.post(document(id="0"))
    assert len(story.read) == 1
