# SPDX-License-Identifier: Apache-2.0
"""What a gateway makes of the broker's documents and errors, without a broker."""

from __future__ import annotations

import os
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from penstock.ipc.errors import BrokerError, CallerError, Code, ModelError, PenstockError, not_found
from penstock.ipc.messages import Load, Message, Unload
from penstock.runtime.gateway.callers import Caller
from penstock.runtime.gateway.documents import Documents, version_of
from penstock.runtime.gateway.over_http import fields
from penstock.runtime.gateway.repository import Repository, is_file
from penstock.runtime.gateway.settings import GatewaySettings, ModelControl
from penstock.runtime.gateway.unknown_models import as_triton, check_model_name

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drives what never waits."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        value: T = ended.value
        return value
    raise AssertionError("it waits for something")


class PaperLink:
    """A broker on paper: `answers` by what is asked, an exception is raised; `asked` is what came."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[Any] = []

    async def query(self, what: str, model: str = "", version: int = -1) -> Any:
        self.asked.append((what, model, version))
        if isinstance(self.answers[what], Exception):
            raise self.answers[what]
        return self.answers[what]

    async def ask(self, make: Any, fds: Any = (), timeout_s: float | None = 30.0) -> None:
        assert timeout_s is None, "a load may take longer than any limit"
        message: Message = make(1)
        self.asked.append((message, [os.pread(fd, 100, 0) for fd in fds]))


def documents(strict_readiness: bool = True, **answers: Any) -> Documents:
    link: Any = PaperLink(**answers)
    return Documents(link, GatewaySettings(strict_readiness=strict_readiness))


def repository(model_control: ModelControl = "anyone", **answers: Any) -> tuple[Repository, PaperLink]:
    link = PaperLink(**answers)
    same: Any = link
    return Repository(same, GatewaySettings(model_control=model_control)), link


NOBODY = Caller("grpc:unix:")
NOT_READY = ModelError("Request for unknown model: 'm' version 3 is not at ready state (LOADING)", Code.UNAVAILABLE)
NONE_LEFT = ModelError("Request for unknown model: 'm' has no available versions: unloaded", Code.UNAVAILABLE)


# --- the words of what cannot be had ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "wanted", "words", "code"),
    [
        (not_found("Request for unknown model: 'm' is not found; known are a"), -1, "is not found", Code.NOT_FOUND),
        (not_found("Request for unknown model: 'm' is not found; known are a"), 3, "is not found", Code.NOT_FOUND),
        (not_found("Request for unknown model: 'm' version 3 is not found; it has 1"), 3, "version 3 is not found", Code.NOT_FOUND),
        (NOT_READY, 3, "version 3 is not at ready state", Code.UNAVAILABLE),
        (NOT_READY, -1, "has no available versions", Code.NOT_FOUND),
        (NONE_LEFT, 3, "version 3 is not at ready state", Code.UNAVAILABLE),
        (NONE_LEFT, -1, "has no available versions", Code.NOT_FOUND),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_had(error: PenstockError, wanted: int, words: str, code: Code) -> None:
    said = as_triton(error, "m", wanted)
    assert (said.message, said.code) == (f"Request for unknown model: 'm' {words}", code)


def test_other_errors_stay_what_they_are() -> None:
    error = BrokerError("the broker is leaving")
    assert as_triton(error, "m", 1) is error
    assert as_triton(NOT_READY, "other", 1) is NOT_READY


def test_a_name_that_no_message_carries_is_unknown() -> None:
    check_model_name("m" * 256)
    with pytest.raises(CallerError, match="Request for unknown model: 'm{256}...' is not found") as refused:
        check_model_name("m" * 257)
    assert refused.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(("text", "number"), [(None, -1), ("", -1), ("0", 0), ("7", 7), (str(2**63 - 1), 2**63 - 1)])
def test_versions(text: str | None, number: int) -> None:
    assert version_of(text) == number


@pytest.mark.parametrize("text", ["x", "1x", "1_0", "٣", "1.0", str(2**63), "9" * 5000])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(CallerError) as refused:
        version_of(text)
    assert refused.value.message == (
        f"failed to get model version from specified version string '{text}' (details: stol), "
        "version should be an integral value > 0"
    )


def test_a_version_below_zero() -> None:
    with pytest.raises(CallerError, match="invalid model version specified '-1' , version should be an integral value > 0"):
        version_of("-1")


# --- health ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "strict", "loose"),
    [
        ({"ready": True, "up": True}, True, True),
        ({"ready": False, "up": True}, False, True),
        ({"ready": False, "up": False}, False, False),
        (BrokerError("no broker"), False, False),
    ],
)
def test_readiness(found: Any, strict: bool, loose: bool) -> None:
    """Strict readiness is with all models, the other is that of the server itself; without a broker there is neither."""
    assert run(documents(ready=found).is_ready()) is strict
    assert run(documents(ready=found, strict_readiness=False).is_ready()) is loose


def test_a_gateway_that_leaves_says_so() -> None:
    leaving = documents(ready={"ready": True, "up": True})
    leaving.check_live()
    leaving.leave()
    with pytest.raises(BrokerError, match="Server exiting") as live:
        leaving.check_live()
    with pytest.raises(BrokerError, match="Server exiting"):
        run(leaving.is_ready())
    assert live.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize("found", [not_found("Request for unknown model: 'm' is not found"), BrokerError("no broker")])
def test_a_model_that_nobody_knows_is_not_ready(found: PenstockError) -> None:
    assert not run(documents(ready=found).is_model_ready("m", -1))


def test_no_model_is_not_the_server() -> None:
    assert not run(documents(ready={"ready": True}).is_model_ready("", -1))


# --- metadata, configuration, statistics -----------------------------------------------------------------------------

METADATA = {
    "name": "m", "versions": ["1", "3"], "version": "3", "platform": "p", "max_batch_size": 4,
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2], "optional": True}], "outputs": [],
}  # fmt: skip


@pytest.mark.parametrize(("wanted", "versions"), [(-1, ["1", "3"]), (1, ["1"])])
def test_metadata_has_triton_s_fields_only(wanted: int, versions: list[str]) -> None:
    assert run(documents(metadata=METADATA).metadata("m", wanted)) == {
        "name": "m", "versions": versions, "platform": "p",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "outputs": [],
    }  # fmt: skip


def test_what_is_not_ready_tells_no_configuration() -> None:
    """The broker would tell it."""
    with pytest.raises(ModelError, match="'m' has no available versions$"):
        run(documents(metadata=NOT_READY, config={"name": "m"}).config("m", -1))


def rows(*versions: str) -> dict[str, Any]:
    return {"model_stats": [{"name": "m", "version": version} for version in versions]}


@pytest.mark.parametrize(("wanted", "versions"), [(-1, ["1", "3"]), (3, ["3"])])
def test_statistics_are_those_of_ready_versions(wanted: int, versions: list[str]) -> None:
    asked = documents(metadata=METADATA, statistics=rows("1", "2", "3"))
    assert run(asked.statistics("m", wanted)) == rows(*versions)


def test_statistics_of_everything_are_in_order() -> None:
    found = {"model_stats": [{"name": name, "version": version} for name, version in (("m", "10"), ("m", "9"), ("a", "1"))]}
    chosen = run(documents(statistics=found).statistics())["model_stats"]
    assert [(row["name"], row["version"]) for row in chosen] == [("a", "1"), ("m", "9"), ("m", "10")]


@pytest.mark.parametrize("error", [not_found("Request for unknown model: 'm' is not found; known are a"), NOT_READY, NONE_LEFT])
def test_a_model_without_statistics(error: PenstockError) -> None:
    with pytest.raises(CallerError) as refused:
        run(documents(metadata=error).statistics("m", 3))
    assert (refused.value.message, refused.value.code) == ("requested model 'm' is not available", Code.INVALID_ARG)


def test_a_version_without_statistics() -> None:
    with pytest.raises(CallerError) as refused:
        run(documents(metadata=METADATA, statistics=rows("1", "2", "3")).statistics("m", 2))
    assert refused.value.message == "requested model version is not available for model 'm'"
    assert refused.value.code is Code.INVALID_ARG


# --- the repository --------------------------------------------------------------------------------------------------


def test_a_load_brings_its_files_as_descriptors() -> None:
    there, link = repository()
    run(there.load(NOBODY, "", "m", {"file:1/a": b"first", "config": "{}", "file:2/b": b""}))
    assert link.asked == [(Load(1, "m", "{}", ["file:1/a", "file:2/b"], 2), [b"first", b""])]


def test_an_unload() -> None:
    there, link = repository()
    run(there.unload(NOBODY, "", "m", unload_dependents=True))
    run(there.unload(NOBODY, "", "m" * 257, unload_dependents=False))  # nothing of that name can be there
    assert link.asked == [(Unload(1, "m", True), [])]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"config": " "}, "Invalid config override: it is empty"),
        ({"config": "ä" * (1 << 20)}, "Invalid config override: it has 2097152 bytes, at most 1048576 are taken"),
        ({f"file:{n}": b"" for n in range(254)}, "254 files are given for model 'm', at most 253 are taken"),
        ({"file:" + "n" * 1024: b""}, "it has 1029 characters, at most 1024 are taken"),
    ],
)
def test_what_no_message_carries_is_not_sent(parameters: dict[str, str | bytes], words: str) -> None:
    there, link = repository()
    with pytest.raises(CallerError, match=words):
        run(there.load(NOBODY, "", "m", parameters))
    assert not link.asked


def test_names_that_no_message_carries_are_not_sent() -> None:
    there, link = repository()
    with pytest.raises(CallerError, match="failed to load 'm{256}...', failed to poll from model repository") as refused:
        run(there.load(NOBODY, "", "m" * 257, {}))
    assert refused.value.code is Code.INTERNAL and not link.asked


def test_repositories_have_no_names() -> None:
    there, _ = repository(index=[])
    for coroutine in (
        there.index("r", ready_only=False),
        there.load(NOBODY, "r", "m", {}),
        there.unload(NOBODY, "r", "m", False),
    ):
        with pytest.raises(CallerError, match="'repository_name' specification is not supported") as refused:
            run(coroutine)
        assert refused.value.code is Code.UNSUPPORTED


def test_the_index_of_what_is_ready() -> None:
    listed = [{"name": "a", "state": "READY"}, {"name": "b", "state": "LOADING"}, {"name": "c", "state": ""}]
    there, _ = repository(index=listed)
    assert run(there.index("", ready_only=False)) == listed
    assert run(there.index("", ready_only=True)) == listed[:1]


@pytest.mark.parametrize("uid", [0, 4711, -1])
def test_only_the_owner_may_load(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """Who may is told by the user at the other end of the connection; a user that is not known is nobody."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    caller = Caller("http:127.0.0.1:40000", lambda: uid)
    there, link = repository("owner")
    for coroutine in (there.load(caller, "", "m", {}), there.unload(caller, "", "m", unload_dependents=False)):
        with pytest.raises(CallerError) as refused:
            run(coroutine)
        whose = "it is not known which user of this machine asks" if uid < 0 else f"uid {uid} asks"
        assert refused.value.code is Code.UNSUPPORTED
        assert f"only uid 1000 may load and unload models, and {whose}" in refused.value.message
        assert "--gateway-model-control anyone" in refused.value.message
    assert not link.asked
    monkeypatch.setattr(os, "geteuid", lambda: uid if uid >= 0 else 1000)
    if uid >= 0:
        run(there.unload(caller, "", "m", unload_dependents=False))
        assert link.asked


def test_parameters_of_a_load() -> None:
    assert not is_file("config") and is_file("file:1/model.onnx")
    with pytest.raises(CallerError, match=r"^INVALID_ARG: unrecognized load parameter 'files:1'\.$"):
        is_file("files:1")


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_values_of_another_type() -> None:
    assert fields.boolean(False) is False and fields.members({"a": 1}) == {"a": 1}
    for take, words in (
        (fields.boolean, "attempt to access JSON non-boolean as boolean"),
        (fields.members, "attempt to get members for non-object"),
    ):
        for value in (1, "x", None, []):
            with pytest.raises(CallerError, match=words) as refused:
                take(value)
            assert refused.value.code is Code.INTERNAL
