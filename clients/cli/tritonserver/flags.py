# SPDX-License-Identifier: Apache-2.0
"""Every flag of `tritonserver`, in its groups: how its value is written, and what becomes of it here.

The help of `penstock tritonserver` and the table in docs/triton.md are made of this. Flags are those of `tritonserver --help`
of 2.51, and those that came later, as `command_line_parser.cc` has them.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """How a value is written; the words are those of Triton's usage."""

    NONE = ""
    TEXT = "string"
    WHOLE = "integer"
    NUMBER = "float"
    BOOLEAN = "boolean"
    WHOLE_PAIR = "integer:integer"
    NUMBER_PAIR = "integer:float"
    SETTING = "[string,]string=string"
    NAMED_SETTING = "string,string=string"
    RESOURCE = "string:integer[:integer]"
    RESTRICTION = "string:string=string"


class Becomes(Enum):
    """What becomes of a flag here."""

    SETTING = "does what it says"
    NOTHING = "accepted, without effect"
    REFUSED = "refused"


class Flag(NamedTuple):
    """One flag. `text`: what it does, why it has no effect, or why it is refused (all but the values in `harmless` are)."""

    name: str
    kind: Kind
    becomes: Becomes
    text: str
    default: str = ""
    repeats: bool = False
    harmless: tuple[str, ...] = ()

    @property
    def is_deprecated(self) -> bool:
        """Whether Triton says so."""
        return self.name in DEPRECATED


DEPRECATED = {
    "strict-model-config": "'--strict-model-config' has been deprecated! Please use '--disable-auto-complete-config' instead.",
    "response-cache-byte-size": (
        "'--response-cache-byte-size' has been deprecated! This will default to the 'local' cache implementation with the "
        "provided byte size for its config. Please use '--cache-config' instead. The equivalent --cache-config CLI args would "
        "be: '--cache-config=local,size={}'"
    ),
    **{
        f"trace-{name}": f"'--trace-{name}' has been deprecated and will be removed in future releases. Please use "
        f"'--trace-config {instead} instead."  # there is no second quotation mark in Triton's either
        for name, instead in (
            ("file", "triton,file=<filepath>"), ("level", "level=<OFF|TIMESTAMPS|TENSORS>"), ("rate", "rate=<rate value>"),
            ("count", "count=<count value>"), ("log-frequency", "triton,log-frequency=<log frequency value>"),
        )
    },
}  # fmt: skip
"""Flag -> Triton's warning, with a place for the value."""

TEXT, WHOLE, NUMBER, BOOLEAN = Kind.TEXT, Kind.WHOLE, Kind.NUMBER, Kind.BOOLEAN
SETTING, NOTHING, REFUSED = Becomes.SETTING, Becomes.NOTHING, Becomes.REFUSED

_THREADS = "a gateway is one process with one event loop; PENSTOCK_GATEWAY_PROCESSES says how many there are"
_RESTRICTED = "GROUP,GROUP:KEY=VALUE: these endpoints need the header KEY with that value."
_CLOUD = "there is no such front end here; Triton's own HTTP is what the gateway speaks"
_CLOUD_DETAIL = "a detail of a front end that is off, and that is refused when it is switched on"
_POOL = "pinned memory is pinned where a client's region lies: there is no pool"

GROUPS: dict[str, tuple[Flag, ...]] = {
    "Server": (
        Flag("id", TEXT, SETTING, "The server's name in its metadata.", "triton"),
        Flag("exit-timeout-secs", WHOLE, SETTING, "How long accepted requests may take to finish at the end.", "30"),
    ),
    "Logging": (
        Flag("log-verbose", WHOLE, SETTING, "0: no verbose lines; from 1 on: also what Penstock logs at level debug.", "0"),
        Flag("log-info", BOOLEAN, SETTING, "Whether there are lines of level info.", "true"),
        Flag("log-warning", BOOLEAN, SETTING, "Whether there are lines of level warning.", "true"),
        Flag("log-error", BOOLEAN, SETTING, "Whether there are lines of level error.", "true"),
        Flag("log-format", TEXT, SETTING, "How lines begin: default (I1121 02:15:04.372887) or ISO8601.", "default"),
        Flag("log-file", TEXT, SETTING, "Lines go into this file instead of to standard error."),
    ),
    "Model repository": (
        Flag("model-repository", TEXT, SETTING, "A model repository: a directory.", repeats=True),
        Flag("model-store", TEXT, SETTING, "The same.", repeats=True),
        Flag("exit-on-error", BOOLEAN, SETTING, "Whether a model that does not load ends the server (exit code 1).", "true"),
        Flag("strict-readiness", BOOLEAN, SETTING, "Whether the server is ready only when all of its models are.", "true"),
        Flag("model-control-mode", TEXT, SETTING, "What is loaded, and who may load: none, poll or explicit.", "none"),
        Flag("repository-poll-secs", WHOLE, SETTING, "With poll: how often repositories are looked at.", "15"),
        Flag("load-model", TEXT, SETTING, "With explicit: loaded at the start; * is all.", repeats=True),
        Flag("model-load-thread-count", WHOLE, SETTING, "How many instances may be loading at once; else two per core."),
        Flag(
            "model-load-retry-count", WHOLE, REFUSED,
            "a load that failed is not tried again by itself; load the model when the reason is gone", "0", harmless=("0",),
        ),
        Flag(
            "disable-auto-complete-config", Kind.NONE, REFUSED,
            "what a configuration leaves out is always taken from the model's file; write it out to have it otherwise",
        ),
        Flag(
            "model-config-name", TEXT, REFUSED,
            "only config.pbtxt is read, and that would be another configuration than the one asked for",
        ),
        Flag(
            "model-namespacing", BOOLEAN, REFUSED, "models of one name in two repositories are ambiguous here", "false",
            harmless=("false",),
        ),
        Flag("enable-peer-access", BOOLEAN, NOTHING, "a worker computes on one GPU and copies between none", "true"),
    ),
    "HTTP": (
        Flag("allow-http", BOOLEAN, SETTING, "Whether there is HTTP.", "true"),
        Flag("http-address", TEXT, SETTING, "Where HTTP is served.", "0.0.0.0"),  # noqa: S104 - Triton's default
        Flag("http-port", WHOLE, SETTING, "The port for HTTP; 0: any free one, which is logged.", "8000"),
        Flag("http-max-input-size", WHOLE, SETTING, "Bytes that a request's body may have.", "67108864"),
        Flag("allow-client-shm", BOOLEAN, SETTING, "Whether clients may register shared memory, over HTTP and gRPC.", "true"),
        Flag("reuse-http-port", BOOLEAN, NOTHING, "PENSTOCK_GATEWAY_PROCESSES starts several on one port", "false"),
        Flag("http-thread-count", WHOLE, NOTHING, _THREADS, "8"),
        Flag("http-header-forward-pattern", TEXT, SETTING, "HTTP headers that become request parameters: a regex."),
        Flag("http-restricted-api", Kind.RESTRICTION, SETTING, _RESTRICTED, repeats=True),
    ),
    "gRPC": (
        Flag("allow-grpc", BOOLEAN, SETTING, "Whether there is gRPC.", "true"),
        Flag("grpc-address", TEXT, SETTING, "Where gRPC is served.", "0.0.0.0"),  # noqa: S104 - Triton's default
        Flag("grpc-port", WHOLE, SETTING, "The port for gRPC; 0: any free one, which is logged.", "8001"),
        Flag("reuse-grpc-port", BOOLEAN, NOTHING, "PENSTOCK_GATEWAY_PROCESSES starts several on one port", "false"),
        Flag("grpc-infer-thread-count", WHOLE, NOTHING, _THREADS, "2"),
        Flag("grpc-infer-allocation-pool-size", WHOLE, NOTHING, "messages are made when they are needed", "8"),
        Flag("grpc-max-response-pool-size", WHOLE, NOTHING, "messages are made when they are needed"),
        Flag("grpc-header-forward-pattern", TEXT, SETTING, "The same for the metadata of gRPC calls."),
        Flag("grpc-use-ssl", BOOLEAN, SETTING, "Whether gRPC is served over TLS.", "false"),
        Flag("grpc-use-ssl-mutual", BOOLEAN, SETTING, "The same, and clients need certificates.", "false"),
        Flag("grpc-server-cert", TEXT, SETTING, "The server's certificate: a PEM file."),
        Flag("grpc-server-key", TEXT, SETTING, "Its key: a PEM file."),
        Flag("grpc-root-cert", TEXT, SETTING, "Whose certificates clients may have: a PEM file."),
        Flag("grpc-infer-response-compression-level", TEXT, SETTING, "none, low, medium or high.", "none"),
        Flag("grpc-keepalive-time", WHOLE, SETTING, "Milliseconds between keepalive pings.", "7200000"),
        Flag("grpc-keepalive-timeout", WHOLE, SETTING, "Milliseconds that a ping's answer may take.", "20000"),
        Flag("grpc-keepalive-permit-without-calls", BOOLEAN, SETTING, "Whether there are pings without a call.", "false"),
        Flag("grpc-http2-max-pings-without-data", WHOLE, SETTING, "How many pings may follow each other.", "2"),
        Flag(
            "grpc-http2-min-recv-ping-interval-without-data", WHOLE, SETTING, "Milliseconds that lie between a client's pings.",
            "300000",
        ),
        Flag("grpc-http2-max-ping-strikes", WHOLE, SETTING, "Pings too many, after which a connection ends.", "2"),
        Flag("grpc-max-connection-age", WHOLE, SETTING, "Milliseconds that a connection may live."),
        Flag("grpc-max-connection-age-grace", WHOLE, SETTING, "Milliseconds that it then has to end its calls."),
        Flag("grpc-restricted-protocol", Kind.RESTRICTION, SETTING, _RESTRICTED, repeats=True),
    ),
    "SageMaker and Vertex AI": (
        Flag("allow-sagemaker", BOOLEAN, REFUSED, _CLOUD, "false", harmless=("false",)),
        Flag("sagemaker-port", WHOLE, NOTHING, _CLOUD_DETAIL),
        Flag("sagemaker-safe-port-range", TEXT, NOTHING, _CLOUD_DETAIL),
        Flag("sagemaker-thread-count", WHOLE, NOTHING, _CLOUD_DETAIL),
        Flag("allow-vertex-ai", BOOLEAN, REFUSED, _CLOUD, "false", harmless=("false",)),
        Flag("vertex-ai-port", WHOLE, NOTHING, _CLOUD_DETAIL),
        Flag("vertex-ai-thread-count", WHOLE, NOTHING, _CLOUD_DETAIL),
        Flag("vertex-ai-default-model", TEXT, NOTHING, _CLOUD_DETAIL),
    ),
    "Metrics": (
        Flag("allow-metrics", BOOLEAN, SETTING, "Whether there are metrics.", "true"),
        Flag("metrics-address", TEXT, SETTING, "Where metrics are served; by default where HTTP is."),
        Flag("metrics-port", WHOLE, SETTING, "The port for metrics; 0: any free one, which is logged.", "8002"),
        Flag("allow-gpu-metrics", BOOLEAN, NOTHING, "there are no metrics of GPUs", "true"),
        Flag("allow-cpu-metrics", BOOLEAN, NOTHING, "they are read when they are asked for, and always there", "true"),
        Flag("metrics-interval-ms", NUMBER, NOTHING, "metrics are made when they are asked for, and are never old", "2000"),
        Flag(
            "metrics-config", Kind.SETTING, REFUSED,
            "counters, and Penstock's own histograms, are there always; Triton's summaries and histograms are not there",
            repeats=True, harmless=("counter_latencies=true", "summary_latencies=false", "histogram_latencies=false"),
        ),
    ),
    "Tracing": (
        Flag(
            "trace-config", Kind.SETTING, SETTING,
            "level=, rate=, count=, mode=triton; triton,file= and triton,log-frequency=. mode=opentelemetry is refused.",
            repeats=True,
        ),
    ),
    "Backends": (
        Flag("backend-directory", TEXT, NOTHING, "backends are part of Penstock"),
        Flag(
            "backend-config", Kind.SETTING, REFUSED, "backends have no settings of their own here; models have parameters",
            repeats=True,
            harmless=(
                "default-max-batch-size=4", "onnxruntime,default-max-batch-size=4", "python,*", "tensorflow,*", "openvino,*",
                "dali,*", "fil,*", "vllm,*",
            ),
        ),
        Flag("repoagent-directory", TEXT, NOTHING, "agents are found among the installed Python packages"),
    ),
    "Response cache": (
        Flag("cache-config", Kind.NAMED_SETTING, SETTING, "local,size=BYTES: the memory for responses.", repeats=True),
        Flag("cache-directory", TEXT, NOTHING, "the cache is part of Penstock"),
    ),
    "Rate limiter": (
        Flag("rate-limit", TEXT, SETTING, "Whether instances compete for resources: off or execution_count.", "off"),
        Flag("rate-limit-resource", Kind.RESOURCE, SETTING, "How much of it there is, and at which device.", repeats=True),
    ),
    "Memory and devices": (
        Flag("host-policy", Kind.NAMED_SETTING, SETTING, "NAME,cpu-cores=0-3 or NAME,numa-node=0.", repeats=True),
        Flag("pinned-memory-pool-byte-size", WHOLE, NOTHING, _POOL, "268435456"),
        Flag("cuda-memory-pool-byte-size", Kind.WHOLE_PAIR, NOTHING, "a backend's own pool is the only one", repeats=True),
        Flag("cuda-virtual-address-size", Kind.WHOLE_PAIR, NOTHING, "for states of sequences; there are none", repeats=True),
        Flag("buffer-manager-thread-count", WHOLE, NOTHING, "each worker copies for itself", "0"),
        Flag(
            "min-supported-compute-capability", NUMBER, REFUSED,
            "GPUs are not chosen by what they can compute; CUDA_VISIBLE_DEVICES says which there are", "6.0", harmless=("6.0",),
        ),
        Flag("model-load-gpu-limit", Kind.NUMBER_PAIR, REFUSED, "a load is not refused for the memory of a GPU", repeats=True),
    ),
    "Deprecated": (
        Flag(
            "strict-model-config", BOOLEAN, REFUSED, "as --disable-auto-complete-config, which is refused", "false",
            harmless=("false",),
        ),
        Flag("response-cache-byte-size", WHOLE, SETTING, "As --cache-config local,size=BYTES."),
        Flag("trace-file", TEXT, SETTING, "As --trace-config triton,file=FILE."),
        Flag("trace-level", TEXT, SETTING, "As --trace-config level=LEVEL.", repeats=True),
        Flag("trace-rate", WHOLE, SETTING, "As --trace-config rate=RATE."),
        Flag("trace-count", WHOLE, SETTING, "As --trace-config count=COUNT."),
        Flag("trace-log-frequency", WHOLE, SETTING, "As --trace-config triton,log-frequency=COUNT."),
    ),
}  # fmt: skip
"""The groups of `tritonserver --help`, and their flags."""

FLAGS = {flag.name: flag for flags in GROUPS.values() for flag in flags}
