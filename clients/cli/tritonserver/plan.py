# SPDX-License-Identifier: Apache-2.0
"""What a `tritonserver` command line asks of Penstock: the words of `penstock serve`, and what goes beyond them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from msgspec import Struct

from .flags import DEPRECATED, Becomes
from .given import Given
from .parsing import GivenFlag, Refused, UsageError, bad_option, boolean, number, read_words, setting, whole
from .traces import plan_traces

T = TypeVar("T")

MODES = ("none", "poll", "explicit")
FORMATS = ("default", "ISO8601")
COMPRESSION = ("none", "low", "medium", "high")
RATE_LIMITS = ("off", "execution_count")
ALL_MODELS = "*"


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be done. Equal: two command lines ask for the same."""

    serve: tuple[str, ...]  # the words of `penstock serve`
    told: dict[str, Any]  # what gateways are told beyond that, in the words of runtime/gateway/settings.py
    log: dict[str, Any]  # in the words of ipc/log_lines.py
    trace: dict[str, Any]  # in the words of ipc/trace_settings.py
    exit_on_error: bool
    warnings: tuple[str, ...]  # what Triton says of deprecated flags
    idle: tuple[str, ...]  # flags without effect that were given


def read_plan(words: Sequence[str]) -> Plan:
    """What a command line asks for. Raises UsageError, and Refused."""
    given = Given(read_words(words))
    for spoken in given.spoken():
        if spoken.flag.becomes is Becomes.REFUSED:
            _refuse(spoken)
    trace, warnings = plan_traces(given)
    return Plan(
        serve=tuple(_serve_words(given)),
        told=_told(given),
        log=_log(given),
        trace=trace,
        exit_on_error=given.boolean("exit-on-error"),
        warnings=(*_deprecations(given), *warnings),
        idle=tuple(each.flag.name for each in given.spoken() if each.flag.becomes is Becomes.NOTHING),
    )


def _refuse(spoken: GivenFlag) -> None:
    """Raises Refused, unless what was said of the flag is what is done anyway."""
    flag = spoken.flag
    for text in spoken.texts:
        if not any(_is_same(text, harmless) for harmless in flag.harmless):
            raise Refused(f"--{flag.name}{f'={text}' if text else ''} is refused: {flag.text}")


def _is_same(text: str, harmless: str) -> bool:
    """Whether two values mean the same. `*` stands for anything."""
    for read in (boolean, number):
        same = _as(read, text, harmless)
        if same is not None:
            return same
    return fnmatchcase(text, harmless)


def _as(read: Callable[[str], T], one: str, other: str) -> bool | None:
    try:
        return read(one) == read(other)
    except ValueError:
        return None


def _deprecations(given: Given) -> list[str]:
    return [f"Warning: {DEPRECATED[each.flag.name].format(each.text)}" for each in given.spoken() if each.flag.is_deprecated]


# --- the words of serve ------------------------------------------------------------------------------------------------------


def _serve_words(given: Given) -> list[str]:
    return [
        *_repository_words(given),
        *_protocol_words(given),
        *_cache_words(given),
        *_words("rate-limit", given.choice("rate-limit", RATE_LIMITS)),
        *(word for text in given.texts("rate-limit-resource") for word in _words("rate-limit-resource", text)),
        *(word for text in given.texts("host-policy") for word in _words("host-policy", text)),
        *_words("drain-s", max(0, given.whole("exit-timeout-secs"))),
        "--", *given.texts("model-repository"), *given.texts("model-store"),
    ]  # fmt: skip


def _words(option: str, value: object) -> tuple[str, str]:
    return f"--{option}", str(value)


def _repository_words(given: Given) -> list[str]:
    mode = given.choice("model-control-mode", MODES)
    words = [*_words("control-mode", mode)]
    models = given.texts("load-model")
    if models and mode != "explicit":
        raise UsageError("Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well.")
    if ALL_MODELS in models and len(models) > 1:
        raise Refused("Wildcard model name '*' must be the ONLY startup model if specified at all.")
    for model in models:
        words += _words("load-model", model)
    if mode == "poll":
        words += _words("poll-interval-s", given.whole("repository-poll-secs", 1))
    if "model-load-thread-count" in given:
        words += _words("load-threads", given.whole("model-load-thread-count", 1))
    return words


def _protocol_words(given: Given) -> list[str]:
    ports: dict[tuple[str, int], str] = {}
    words: list[str] = []
    for protocol, title in (("http", "HTTP"), ("grpc", "GRPC"), ("metrics", "metrics")):
        if not given.boolean(f"allow-{protocol}"):
            words += _words(f"{protocol}-port", -1)
            continue
        host = given.text(f"{protocol}-address") or given.text("http-address")
        port = given.whole(f"{protocol}-port", 0)
        if port > 65535:
            raise bad_option(f"{protocol}-port", f"Provided option value is out of bound. Got {port}")
        if port and (host, port) in ports:
            other = ports[host, port]
            raise UsageError(f"The server cannot listen to {other} requests and {title} requests at the same address and port "
                             f"{host}:{port}")  # fmt: skip
        ports[host, port] = title
        words += [*_words(f"{protocol}-host", host), *_words(f"{protocol}-port", port)]
    return words


def _cache_words(given: Given) -> tuple[str, str]:
    """Triton has no cache unless it is told of one."""
    byte_size = 0
    if "cache-config" in given and "response-cache-byte-size" in given:
        raise UsageError(
            "Error: Incompatible flags --response-cache-byte-size and --cache-config both provided. Please provide one or the "
            "other."
        )
    for text in given.texts("cache-config"):
        name, key, value = setting("cache-config", text)
        if name != "local":
            raise Refused(f"--cache-config={text} is refused: the only cache here is local, in the server's memory")
        if key != "size":
            raise Refused(f"--cache-config={text} is refused: the only setting of local is size, in bytes")
        try:
            byte_size = whole(value)
        except ValueError as error:
            raise bad_option("cache-config", str(error)) from None
    if "response-cache-byte-size" in given:
        byte_size = given.whole("response-cache-byte-size", 0)
    return _words("cache-size-bytes", byte_size)


def _told(given: Given) -> dict[str, Any]:
    """Whoever reaches Triton's ports may load and unload models, as with Triton."""
    told: dict[str, Any] = {"model_control": "anyone"}
    for flag, field, read in _OF_GATEWAYS:
        if flag in given:
            told[field] = read(given, flag)
    return told


def _pattern(given: Given, flag: str) -> str:
    """A regular expression, perhaps with the sign that it minds the case. Raises UsageError."""
    text = given.text(flag)
    try:
        re.compile(text.removeprefix("(?-i)"))
    except re.error as error:
        raise bad_option(flag, f"{text!r} is no regular expression: {error}") from None
    return text


def _restrictions(given: Given, flag: str) -> tuple[str, ...]:
    """Raises UsageError where a group is in two of them."""
    texts = given.texts(flag)
    groups = [group for text in texts for group in text.partition(":")[0].split(",")]
    for group in groups:
        if groups.count(group) > 1:
            kind = flag.rpartition("-")[2]
            raise bad_option(flag, f"restricted {kind} '{group}' can not be specified in multiple config groups")
    return tuple(texts)


def _compression(given: Given, flag: str) -> str:
    if given.text(flag) not in COMPRESSION:
        raise bad_option(flag, "invalid argument for --grpc_infer_response_compression_level")
    return given.text(flag)


def _max_input_size(given: Given, flag: str) -> int:
    if given.whole(flag) <= 0:
        raise UsageError("Error: --http-max-input-size must be greater than 0.")
    return given.whole(flag)


_OF_GATEWAYS: tuple[tuple[str, str, Callable[[Given, str], Any]], ...] = (
    ("id", "server_id", Given.text),
    ("strict-readiness", "strict_readiness", Given.boolean),
    ("allow-client-shm", "allow_client_shm", Given.boolean),
    ("http-max-input-size", "http_max_input_size", _max_input_size),
    ("http-header-forward-pattern", "http_header_forward_pattern", _pattern),
    ("http-restricted-api", "http_restricted_api", _restrictions),
    ("grpc-infer-response-compression-level", "grpc_infer_response_compression_level", _compression),
    ("grpc-header-forward-pattern", "grpc_header_forward_pattern", _pattern),
    ("grpc-restricted-protocol", "grpc_restricted_protocol", _restrictions),
    ("grpc-keepalive-time", "grpc_keepalive_time_ms", Given.whole),
    ("grpc-keepalive-timeout", "grpc_keepalive_timeout_ms", Given.whole),
    ("grpc-keepalive-permit-without-calls", "grpc_keepalive_permit_without_calls", Given.boolean),
    ("grpc-http2-max-pings-without-data", "grpc_http2_max_pings_without_data", Given.whole),
    (
        "grpc-http2-min-recv-ping-interval-without-data", "grpc_http2_min_recv_ping_interval_without_data_ms", Given.whole,
    ),
    ("grpc-http2-max-ping-strikes", "grpc_http2_max_ping_strikes", Given.whole),
    ("grpc-max-connection-age", "grpc_max_connection_age_ms", Given.whole),
    ("grpc-max-connection-age-grace", "grpc_max_connection_age_grace_ms", Given.whole),
    ("grpc-use-ssl", "grpc_use_ssl", Given.boolean),
    ("grpc-use-ssl-mutual", "grpc_use_ssl_mutual", Given.boolean),
    ("grpc-server-cert", "grpc_server_cert", Given.text),
    ("grpc-server-key", "grpc_server_key", Given.text),
    ("grpc-root-cert", "grpc_root_cert", Given.text),
)  # fmt: skip
"""Flag, the setting of gateways that it is, and how its value is read."""


def _log(given: Given) -> dict[str, Any]:
    return {
        "log_verbose_level": max(0, given.whole("log-verbose")),
        "log_info": given.boolean("log-info"),
        "log_warning": given.boolean("log-warning"),
        "log_error": given.boolean("log-error"),
        "log_format": given.choice("log-format", FORMATS),
        "log_file": given.text("log-file"),
    }
