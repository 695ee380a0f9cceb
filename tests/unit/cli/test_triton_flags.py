# SPDX-License-Identifier: Apache-2.0
"""Triton's command line: how it is read, and what each flag becomes. What is expected was seen of tritonserver 2.51."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.clients.cli.serve_command import serve
from penstock.clients.cli.tritonserver.flags import FLAGS, Becomes, Kind
from penstock.clients.cli.tritonserver.parsing import Refused, UsageError, read_words
from penstock.clients.cli.tritonserver.plan import Plan, read_plan
from penstock.clients.cli.tritonserver.tables import drawn
from penstock.ipc.log_lines import LogSettings
from penstock.ipc.trace_settings import TraceSettings
from penstock.runtime.gateway.settings import GatewaySettings

EXAMPLES: dict[str, tuple[str, ...]] = {
    "model-repository": ("--model-repository=/",),
    "model-store": ("--model-store=/",),
    "load-model": ("--model-control-mode=explicit", "--load-model=simple"),
    "repository-poll-secs": ("--model-control-mode=poll", "--repository-poll-secs=3"),
    "model-control-mode": ("--model-control-mode=explicit",),
    "log-format": ("--log-format=ISO8601",),
    "rate-limit": ("--rate-limit=execution_count",),
    "rate-limit-resource": ("--rate-limit-resource=R1:4:0",),
    "host-policy": ("--host-policy=cpu,cpu-cores=0",),
    "cache-config": ("--cache-config=local,size=1048576",),
    "trace-config": ("--trace-config=rate=7",),
    "trace-level": ("--trace-level=TIMESTAMPS",),
    "http-restricted-api": ("--http-restricted-api=health,trace:key=value",),
    "grpc-restricted-protocol": ("--grpc-restricted-protocol=health:key=value",),
    "grpc-infer-response-compression-level": ("--grpc-infer-response-compression-level=low",),
    "metrics-config": ("--metrics-config=summary_latencies=true",),
    "backend-config": ("--backend-config=tensorrt,plugins=x.so",),
    "model-load-gpu-limit": ("--model-load-gpu-limit=0:0.5",),
    "cuda-memory-pool-byte-size": ("--cuda-memory-pool-byte-size=0:67108864",),
    "cuda-virtual-address-size": ("--cuda-virtual-address-size=0:67108864",),
    "min-supported-compute-capability": ("--min-supported-compute-capability=8.0",),
}
"""A command line that gives a flag and means something by it; where none is here, `example` makes one."""


def example(name: str) -> tuple[str, ...]:
    flag = FLAGS[name]
    if name in EXAMPLES:
        return EXAMPLES[name]
    match flag.kind:
        case Kind.NONE:
            return (f"--{name}",)
        case Kind.BOOLEAN:
            return (f"--{name}={'false' if flag.default == 'true' else 'true'}",)
        case Kind.WHOLE | Kind.NUMBER:
            return (f"--{name}=12",)
    return (f"--{name}=something",)


def asked(*words: str) -> dict[str, Any]:
    """What a command line asks for, but for what is only said of it."""
    return msgspec.structs.asdict(msgspec.structs.replace(read_plan(words), warnings=(), idle=()))


def names(*becomes: Becomes) -> list[str]:
    return [name for name, flag in FLAGS.items() if flag.becomes in becomes]


def before(name: str) -> tuple[str, ...]:
    """The words of an example that set its scene."""
    return tuple(word for word in example(name) if not word.startswith(f"--{name}"))


@pytest.mark.parametrize("name", names(Becomes.SETTING))
def test_a_flag_that_does_something_changes_what_is_asked_for(name: str) -> None:
    assert asked(*example(name)) != asked(*before(name))


@pytest.mark.parametrize("name", names(Becomes.NOTHING))
def test_one_without_effect_changes_nothing_and_is_named(name: str) -> None:
    assert asked(*example(name)) == asked()
    assert read_plan(example(name)).idle == (name,)


@pytest.mark.parametrize("name", names(Becomes.REFUSED))
def test_one_that_is_refused_says_why_unless_it_asks_for_what_is_so_anyway(name: str) -> None:
    with pytest.raises(Refused) as refused:
        read_plan(example(name))
    assert f"--{name}" in str(refused.value) and FLAGS[name].text in str(refused.value)
    for harmless in FLAGS[name].harmless:
        assert asked(f"--{name}={harmless.replace('*', 'shm-default-byte-size=1')}") == asked()


@pytest.mark.parametrize("name", [name for name, flag in FLAGS.items() if flag.default and flag.becomes is Becomes.SETTING])
def test_the_defaults_that_are_named_are_those_that_hold(name: str) -> None:
    """A flag that says its default asks for what no flag asks for, at the latest where gateways and `serve` are told."""
    assert everything(read_plan([*before(name), f"--{name}={FLAGS[name].default}"])) == everything(read_plan(before(name)))


def everything(plan: Plan) -> tuple[Any, ...]:
    options = serve.make_context("serve", [*plan.serve[:-1], "--", "/"] if plan.serve[-1] == "--" else list(plan.serve)).params
    assert set(plan.told) <= set(GatewaySettings.__struct_fields__)
    return (
        options, msgspec.convert(plan.told, GatewaySettings), msgspec.convert(plan.log, LogSettings),
        msgspec.convert(plan.trace, TraceSettings), plan.exit_on_error,
    )  # fmt: skip


@pytest.mark.parametrize("name", names(Becomes.SETTING))
def test_what_is_asked_for_is_understood_by_whom_it_is_for(name: str) -> None:
    assert everything(read_plan(example(name)))


def test_without_flags_it_is_as_open_as_triton() -> None:
    options, gateway, log, trace, exits = everything(read_plan(["--model-repository=/"]))
    assert (options["http_host"], options["http_port"], options["grpc_port"]) == ("0.0.0.0", 8000, 8001)
    assert (options["metrics_host"], options["metrics_port"]) == ("0.0.0.0", 8002)
    assert (options["control_mode"], options["drain_s"], options["cache_size_bytes"]) == ("none", 30.0, 0)
    assert gateway.model_control == "anyone" and gateway.allow_client_shm and gateway.strict_readiness
    assert log.log_format == "default" and log.log_verbose_level == 0 and trace.trace_level == () and exits


def test_values_come_after_a_sign_or_as_the_next_word_and_names_may_be_short() -> None:
    apart = ("--model-repo", "/a", "--http-po", "3", "--exit-on=OFF", "--model-repository=/b")
    assert asked(*apart) == asked("--model-repository=/a", "--http-port=3", "--exit-on-error=false", "--model-repository=/b")


def test_the_last_of_a_flag_counts_and_all_of_one_that_repeats() -> None:
    assert asked("--http-port=1", "--http-port=2") == asked("--http-port=2")
    words = read_plan(["--model-repository=/a", "--model-store=/c", "--model-repository=/b"]).serve
    assert words[words.index("--") :] == ("--", "/a", "/b", "/c")


def test_metrics_are_where_http_is() -> None:
    words = read_plan(["--http-address=127.0.0.1"]).serve
    assert words[words.index("--metrics-host") + 1] == "127.0.0.1"


def test_what_is_not_allowed_is_not_served() -> None:
    words = read_plan(["--allow-http=0", "--allow-grpc=off", "--allow-metrics=False"]).serve
    assert [words[words.index(f"--{name}-port") + 1] for name in ("http", "grpc", "metrics")] == ["-1"] * 3


WRONG = {
    "--nonsense=1": "unrecognized option '--nonsense'",
    "-x": "invalid option -- 'x'",
    "--http": "option '--http' is ambiguous; possibilities: '--http-address' '--http-port'",
    "--http-port": "option '--http-port' requires an argument",
    "--disable-auto-complete-config=1": "option '--disable-auto-complete-config' doesn't allow an argument",
    "simple": "Unexpected argument: simple",
    "--http-port=abc": 'Bad option: "--http-port".\nInvalid option value. Got abc',
    "--http-port=99999999999": 'Bad option: "--http-port".\nProvided option value is out of bound. Got 99999999999',
    "--exit-timeout-secs=2147483648": "Provided option value is out of bound. Got 2147483648",
    "--exit-on-error=yes": 'Bad option: "--exit-on-error".\ninvalid value for bool option: yes',
    "--model-control-mode=bad": 'Bad option: "--model-control-mode".\ninvalid argument for --model-control-mode',
    "--log-format=x": 'Bad option: "--log-format".\ninvalid argument for --log-format',
    "--rate-limit=x": 'Bad option: "--rate-limit".\ninvalid argument for --rate-limit',
    "--load-model=a": "Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well.",
    "--host-policy=a": "--host-policy option format is '<policy name>,<setting>=<value>'. Got a",
    "--backend-config=a": "--backend-config option format is '<backend name>,<setting>=<value>'. Got a",
    "--backend-config=,a=3": "No backend specified. --backend-config option format is <backend name>,<setting>=<value> or ",
    "--cache-config=local": "No cache specified. --cache-config option format is <cache name>,<setting>=<value>. Got local",
    "--metrics-config=x": "--metrics-config option format is <setting>=<value>. Got x",
    "--trace-config=level=FOO": 'Bad option: "--trace-config level".\ninvalid value for trace level option: foo',
    "--trace-config=mode=foo": 'Available options are "triton" and "opentelemetry"',
    "--trace-config=rate=abc": 'Bad option: "--trace-config rate".\nInvalid option value. Got abc',
    "--rate-limit-resource=a": "--rate-limit-resource option format is '<resource_name>:<count>:<device>' or '<resource_name>:<count>'",
    "--cuda-memory-pool-byte-size=a": "Cannot parse pair option due to incorrect number of inputs.",
    "--http-restricted-api=foo:a=b": 'Bad option: "--http-restricted-api".\nunknown restricted api \'foo\' ',
    "--http-restricted-api=health,health:a=b": "restricted api 'health' can not be specified in multiple config groups",
    "--http-max-input-size=0": "Error: --http-max-input-size must be greater than 0.",
    "--http-header-forward-pattern=(": 'Bad option: "--http-header-forward-pattern".',
    "--grpc-port=8000": "The server cannot listen to HTTP requests and GRPC requests at the same address and port 0.0.0.0:8000",
}  # fmt: skip


@pytest.mark.parametrize("word", WRONG)
def test_what_is_wrong_is_said_in_tritons_words(word: str) -> None:
    with pytest.raises(UsageError) as said:
        read_plan([word])
    assert WRONG[word] in str(said.value)


def test_flags_that_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="Incompatible flags --response-cache-byte-size and --cache-config both provided"):
        read_plan(["--cache-config=local,size=100", "--response-cache-byte-size=3000"])
    with pytest.raises(Refused, match="Wildcard model name '\\*' must be the ONLY startup model"):
        read_plan(["--model-control-mode=explicit", "--load-model=*", "--load-model=a"])


def test_deprecated_flags_warn_and_mean_what_took_their_place() -> None:
    old = ["--response-cache-byte-size=4096", "--trace-rate=10", "--trace-file=f", "--trace-log-frequency=3"]
    new = ["--cache-config=local,size=4096", "--trace-config=rate=10", "--trace-config=triton,file=f"]
    assert asked(*old) == asked(*new, "--trace-config=triton,log-frequency=3")
    warnings = read_plan(old).warnings
    assert len(warnings) == 4 and warnings[0].endswith("CLI args would be: '--cache-config=local,size=4096'")
    assert not read_plan(new).warnings


def test_the_new_trace_setting_wins_over_the_old_flag() -> None:
    plan = read_plan(["--trace-rate=10", "--trace-config=rate=5"])
    assert plan.trace["trace_rate"] == 5
    assert (
        plan.warnings[1] == "Warning: Overriding deprecated '--trace-rate' in favor of provided rate value in --trace-config!"
    )


def test_trace_levels_add_up_and_off_is_off() -> None:
    both = ["--trace-config=level=TIMESTAMPS", "--trace-config=level=tensors"]
    assert read_plan(both).trace["trace_level"] == ("TIMESTAMPS", "TENSORS")
    assert "trace_level" not in read_plan([*both, "--trace-config=level=OFF"]).trace
    with pytest.raises(Refused, match="opentelemetry"):
        read_plan(["--trace-config=mode=opentelemetry"])


def test_only_the_local_cache_is_there() -> None:
    for text in ("redis,host=x", "local,lifetime=3"):
        with pytest.raises(Refused, match="--cache-config="):
            read_plan([f"--cache-config={text}"])


def test_every_example_is_of_a_flag() -> None:
    assert set(EXAMPLES) <= set(FLAGS)
    assert all(read_words(example(name)) for name in FLAGS)


def test_tables_are_drawn_as_tritons() -> None:
    rows = [("Model", "Version", "Status"), ("bad", "1", "UNAVAILABLE: Internal: no\nluck"), ("good", "1", "READY")]
    assert drawn(rows) == (
        "+-------+---------+---------------------------+\n"
        "| Model | Version | Status                    |\n"
        "+-------+---------+---------------------------+\n"
        "| bad   | 1       | UNAVAILABLE: Internal: no |\n"
        "|       |         | luck                      |\n"
        "| good  | 1       | READY                     |\n"
        "+-------+---------+---------------------------+\n"
    )
