# SPDX-License-Identifier: Apache-2.0
"""What a `tritonserver` command line asks of Penstock: the words of `penstock serve`, and what goes beyond them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from msgspec import Struct

from .flags import DEPRECATED, FLAGS, Becomes
from .parsing import GivenFlag, UsageError, bad_option, boolean, number, read_words, setting, whole
from .traces import TracePlan, plan_traces

T = TypeVar("T")

MODES = ("none", "poll", "explicit")
FORMATS = ("default", "ISO8601")
COMPRESSION = ("none", "low", "medium", "high")
RATE_LIMITS = ("off", "execution_count")
ALL_MODELS = "*"


class LogPlan(Struct, frozen=True):
    """Which lines there are, how they look, and the file that they go to; "": standard error."""

    verbose: int = 0
    info: bool = True
    warning: bool = True
    error: bool = True
    log_format: str = "default"
    file: str = ""


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be done. Equal: two command lines ask for the same."""

    serve: tuple[str, ...]  # the words of `penstock serve`
    told: dict[str, Any]  # settings of gateways for which `serve` has no option
    log: LogPlan
    trace: TracePlan
    exit_on_error: bool
    exit_timeout_s: int
    warnings: tuple[str, ...]  # what Triton says of deprecated flags
    idle: tuple[str, ...]  # flags without effect that were given


class Refused(Exception):  # noqa: N818 - as UsageError, it is the end of the command
    """What was asked for is not to be had, and going on without it would be wrong. Not a matter of usage."""


class Given:
    """The flags of one command line, as values."""

    def __init__(self, flags: Mapping[str, GivenFlag]) -> None:
        self._flags = flags

    def __repr__(self) -> str:
        return f"<Given {list(self._flags)}>"

    def __contains__(self, name: str) -> bool:
        return name in self._flags

    def texts(self, name: str) -> list[str]:
        """All that was said of a flag."""
        return self._flags[name].texts if name in self._flags else []

    def text(self, name: str) -> str:
        """What was said of it last, or its default."""
        return self._flags[name].text if name in self._flags else FLAGS[name].default

    def whole(self, name: str, least: int | None = None) -> int:
        """Raises UsageError where it is less than what is possible."""
        found = whole(self.text(name))
        if least is not None and found < least:
            raise bad_option(name, f"must be at least {least}. Got {found}")
        return found

    def boolean(self, name: str) -> bool:
        """Whether it is true."""
        return boolean(self.text(name))

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Raises UsageError where it is none of these."""
        text = self.text(name)
        if text not in choices:
            raise bad_option(name, f"invalid argument for --{name}")
        return text

    def spoken(self) -> list[GivenFlag]:
        """What was given, in its order."""
        return list(self._flags.values())


def read_plan(words: Sequence[str]) -> Plan:
    """What a command line asks for. Raises UsageError, and Refused."""
    given = Given(read_words(words))
    for spoken in given.spoken():
        if spoken.flag.becomes is Becomes.REFUSED:
            _refuse(spoken)
    traces, warnings = plan_traces(given)
    return Plan(
        serve=tuple(_serve_words(given)),
        told=_told(given),
        log=LogPlan(
            given.whole("log-verbose"), given.boolean("log-info"), given.boolean("log-warning"), given.boolean("log-error"),
            given.choice("log-format", FORMATS), given.text("log-file"),
        ),
        trace=traces,
        exit_on_error=given.boolean("exit-on-error"),
        exit_timeout_s=given.whole("exit-timeout-secs"),
        warnings=(*_deprecations(given), *warnings),
        idle=tuple(each.flag.name for each in given.spoken() if each.flag.becomes is Becomes.NOTHING),
    )  # fmt: skip


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
    words += _words("http-max-input-size", _max_input_size(given))
    words += _words("allow-client-shm", given.boolean("allow-client-shm"))
    return words


def _max_input_size(given: Given) -> int:
    found = given.whole("http-max-input-size")
    if found <= 0:
        raise UsageError("Error: --http-max-input-size must be greater than 0.")
    return found


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
    """What gateways are told that `serve` does not say. Whoever reaches Triton's ports may load and unload."""
    return {
        "server_id": given.text("id"),
        "strict_readiness": given.boolean("strict-readiness"),
        "model_control": "anyone",
    }
