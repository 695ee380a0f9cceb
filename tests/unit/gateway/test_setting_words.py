# SPDX-License-Identifier: Apache-2.0
"""Settings as clients spell them over HTTP and gRPC, and Triton's words (asked of release 2.51) for those that cannot be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tritonclient.grpc import service_pb2 as pb

from penstock.ipc.errors import CallerError, Code
from penstock.runtime.gateway.over_grpc import shared_settings as over_grpc
from penstock.runtime.gateway.over_http import shared_settings as over_http
from penstock.runtime.gateway.shared_settings import GRPC, HTTP, trace_values

UINT32, INT32 = "[ 0, 4294967295 ]", "[ -1, 2147483647 ]"


def over_both(given: dict[str, Any], http: bool) -> dict[str, Any]:
    return trace_values(given, HTTP if http else GRPC)


@pytest.mark.parametrize("http", [True, False])
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, {}),
        ({"trace_rate": ["5"]}, {"trace_rate": 5}),
        ({"trace_rate": [" 7"], "log_frequency": ["+7"]}, {"trace_rate": 7, "log_frequency": 7}),
        ({"trace_rate": ["4294967295"], "trace_count": ["-1"]}, {"trace_rate": 2**32 - 1, "trace_count": -1}),
        ({"trace_rate": None, "trace_count": [], "log_frequency": None}, dict.fromkeys(("trace_rate", "trace_count", "log_frequency"))),
        ({"trace_level": None}, {"trace_level": None}),
        ({"trace_level": ["OFF"]}, {"trace_level": []}),
        ({"trace_level": ["TENSORS", "TIMESTAMPS", "TENSORS"]}, {"trace_level": ["TIMESTAMPS", "TENSORS"]}),
        ({"trace_level": ["MAX"]}, {}),  # of a release that is gone; Triton says nothing of it
        ({"trace_mode": ["triton"], "nonsense": ["1"]}, {}),
    ],
)  # fmt: skip
def test_what_trace_settings_mean(given: dict[str, Any], meant: dict[str, Any], http: bool) -> None:
    assert over_both(given, http) == meant


@pytest.mark.parametrize("http", [True, False])
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"trace_rate": ["x"]}, "Unable to parse 'trace_rate', got: x"),
        ({"trace_rate": [""]}, "Unable to parse 'trace_rate', got: "),
        ({"trace_rate": ["1x"]}, "Unable to parse 'trace_rate', got: 1x"),
        ({"trace_rate": ["-5"]}, f"Unable to parse 'trace_rate', value is out of range {UINT32}, got: -5"),
        ({"trace_rate": ["4294967296"]}, f"Unable to parse 'trace_rate', value is out of range {UINT32}, got: 4294967296"),
        ({"trace_rate": ["9" * 5000]}, f"Unable to parse 'trace_rate', value is out of range {UINT32}, got: {'9' * 5000}"),
        ({"trace_count": ["99999999999"]}, f"Unable to parse 'trace_count', value is out of range {INT32}, got: 99999999999"),
        ({"trace_count": ["-99999999999"]}, f"Unable to parse 'trace_count', value is out of range {INT32}, got: -99999999999"),
        ({"log_frequency": ["x"]}, "Unable to parse 'log_frequency', got: x"),
        ({"trace_level": ["OFF", "OFF"]}, "Expect only one trace level 'OFF' is specified"),
        ({"trace_level": ["TENSORS", "OFF"]}, "Expect only one trace level 'OFF' is specified"),
        ({"trace_mode": ["bogus"]}, "invalid argument for trace_mode, got: bogus"),
    ],
)
def test_what_trace_settings_cannot_be(given: dict[str, Any], text: str, http: bool) -> None:
    with pytest.raises(CallerError) as refused:
        over_both(given, http)
    assert (refused.value.message, refused.value.code) == (text, Code.INVALID_ARG)


def test_a_count_below_minus_one_is_told_by_each_protocol_in_its_own_way() -> None:
    for words, got in ((HTTP, "got:-2"), (GRPC, "got: -2")):
        with pytest.raises(CallerError) as refused:
            trace_values({"trace_count": ["-2"]}, words)
        assert refused.value.message == f"Unable to parse 'trace_count'. Expecting value >= -1, {got}"


@pytest.mark.parametrize("value", [None, ["x"], []])
def test_the_trace_file_is_nobody_s_to_change(value: Any) -> None:
    with pytest.raises(CallerError) as refused:
        trace_values({"trace_file": value}, HTTP)
    assert refused.value.message == "trace file location can not be updated through network protocol"
    assert refused.value.code is Code.UNSUPPORTED


def test_opentelemetry_is_refused_by_name() -> None:
    with pytest.raises(CallerError) as refused:
        trace_values({"trace_mode": ["opentelemetry"]}, GRPC)
    assert refused.value.message == "trace mode 'opentelemetry' is not supported: traces go to files, mode 'triton'"
    assert refused.value.code is Code.UNSUPPORTED


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({"trace_rate": "5", "trace_level": ["OFF"], "trace_count": None}, {"trace_rate": ("5",), "trace_level": ["OFF"], "trace_count": None}),
        ({"trace_level": [], "nonsense": 1}, {}),
        ({"trace_file": 1}, {"trace_file": None}),
    ],
)  # fmt: skip
def test_trace_settings_in_json(body: dict[str, Any], texts: dict[str, Any]) -> None:
    assert over_http._trace_texts(body) == texts


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"trace_rate": 5}, "string"), ({"trace_mode": True}, "string"), ({"trace_level": "OFF"}, "array"), ({"trace_level": [1]}, "string"),
    ],
)  # fmt: skip
def test_trace_settings_of_another_type_in_json(body: dict[str, Any], kind: str) -> None:
    with pytest.raises(CallerError) as refused:
        over_http._trace_texts(body)
    assert (refused.value.message, refused.value.code) == (f"attempt to access JSON non-{kind} as {kind}", Code.INTERNAL)


def test_log_settings_in_json() -> None:
    body = {
        "log_info": False,
        "log_error": None,
        "log_verbose_level": 3,
        "log_format": "ISO8601",
        "nonsense": 1,
        "log_file": None,
    }
    assert over_http._log_values(body) == {"log_info": False, "log_verbose_level": 3, "log_format": "ISO8601"}


@pytest.mark.parametrize(
    ("body", "text", "code"),
    [
        ({"log_info": 1}, "attempt to access JSON non-boolean as boolean", Code.INTERNAL),
        ({"log_verbose_level": -1}, "attempt to access JSON non-unsigned-integer as unsigned-integer", Code.INTERNAL),
        ({"log_verbose_level": True}, "attempt to access JSON non-unsigned-integer as unsigned-integer", Code.INTERNAL),
        ({"log_format": 1}, "attempt to access JSON non-string as string", Code.INTERNAL),
        ({"log_format": "x"}, "invalid argument for --log_format, got: x", Code.UNAVAILABLE),
        ({"log_info": False, "log_file": "x"}, "log file location can not be updated through network protocol", Code.UNSUPPORTED),
    ],
)  # fmt: skip
def test_log_settings_in_json_that_cannot_be(body: dict[str, Any], text: str, code: Code) -> None:
    with pytest.raises(CallerError) as refused:
        over_http._log_values(body)
    assert (refused.value.message, refused.value.code) == (text, code)


def log_request(**values: Any) -> Any:
    message = pb.LogSettingsRequest()
    for name, value in values.items():
        field = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
        setattr(message.settings[name], field, value)
    return message


def over_grpc_value(setting: Any) -> Any:
    return getattr(setting, setting.WhichOneof("parameter_choice"))


def test_log_settings_over_grpc_come_and_go() -> None:
    values = {"log_info": False, "log_verbose_level": 3, "log_format": "ISO8601"}
    assert over_grpc.log_values(log_request(**values, nonsense=1)) == values
    answer = over_grpc.log_response({**values, "log_file": ""})
    assert dict(answer.settings.items()).keys() == {*values, "log_file"}
    assert over_grpc.log_values(log_request(**{name: over_grpc_value(answer.settings[name]) for name in values})) == values


@pytest.mark.parametrize(
    ("values", "text", "code"),
    [
        ({"log_info": 1}, "expect boolean for 'log_info'", Code.INVALID_ARG),
        ({"log_verbose_level": True}, "expect int32 for 'log_verbose_level'", Code.INVALID_ARG),
        ({"log_format": 1}, "expect string for 'log_format'", Code.INVALID_ARG),
        ({"log_format": "x"}, "invalid argument for log_format, got: x", Code.INVALID_ARG),
        ({"log_file": 1}, "log file location can not be updated through network protocol", Code.UNSUPPORTED),
    ],
)
def test_log_settings_over_grpc_that_cannot_be(values: dict[str, Any], text: str, code: Code) -> None:
    with pytest.raises(CallerError) as refused:
        over_grpc.log_values(log_request(**values))
    assert (refused.value.message, refused.value.code) == (text, code)


def test_trace_settings_over_grpc_come_and_go() -> None:
    message = pb.TraceSettingRequest()
    message.settings["trace_rate"].value.append("5")
    message.settings["trace_level"].SetInParent()
    assert over_grpc.trace_changes(message) == {"trace_rate": 5, "trace_level": None}
    message.settings["trace_rate"].value.append("6")
    with pytest.raises(CallerError, match="expect only 1 value for 'trace_rate'"):
        over_grpc.trace_changes(message)
    answer = over_grpc.trace_response({"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": "5"})
    assert {name: list(setting.value) for name, setting in answer.settings.items()} == {
        "trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": ["5"],
    }  # fmt: skip


def test_a_body_is_json_or_said_not_to_be() -> None:
    assert over_http.parse(msgspec.json.encode([])) == {}
    with pytest.raises(CallerError, match="failed to parse the request JSON buffer: The document is empty. at 0"):
        over_http.parse(b"")
