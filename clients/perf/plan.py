# SPDX-License-Identifier: Apache-2.0
"""What is to be measured, checked before anything is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from ...ipc.addresses import Address, parse_address
from ...ipc.errors import BrokerError, CallerError, Code, invalid
from ..models import ModelInfo, Shapes
from .arrivals import Distribution

Link = Literal["local", "zmq", "http", "grpc"]
Memory = Literal["memfd", "system", "cuda", "none"]
EvaluationMode = Literal["offline", "online"]
Search = Literal["linear", "binary"]

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Those that are measured by default, as far as the model takes them."""
INTERVAL_MS = 1000


class Point(NamedTuple):
    """What a row of the table is measured at."""

    batch: int  # rows per request
    concurrency: int  # requests in flight; of an open loop, the most that may be
    request_rate: float | None = None  # requests/s of an open loop; None: a closed loop


class Windows(Struct, frozen=True, kw_only=True):
    """How long is measured at each point. A window ends after `interval_ms`, or (unless 0) after `request_count` requests."""

    warmup: int = 8  # requests before the first window
    interval_ms: int = INTERVAL_MS
    request_count: int = 0
    stability_percentage: float = 10.0
    max_trials: int = 7  # windows after which the last three must do


class Plan(Struct, frozen=True, kw_only=True):
    """All that is asked of a measurement."""

    points: tuple[Point, ...]
    memory: Memory
    shapes: Mapping[str, tuple[int, ...]] = {}  # variable dims of inputs, without the batch dimension
    input_data: str = "random"  # "random", "zero", or the path of a JSON file or a directory: input_files.py
    string_length: int = 128  # of each BYTES element
    seed: int = 0
    verify: bool = False
    windows: Windows = Windows()
    evaluation_mode: EvaluationMode = "offline"
    distribution: Distribution = "poisson"  # of the times at which an open loop sends
    processes: int = 1  # client processes, each with a connection of its own, that share the load of a point
    latency_threshold_ms: float | None = None  # what is sought is the most load at which the p95 latency does not exceed it
    search: Search = "linear"  # binary: between the smallest and the largest load asked for, of each batch size


def points_of(
    model: ModelInfo, batch_sizes: Sequence[int], concurrencies: Sequence[int], max_in_flight: int
) -> tuple[Point, ...]:
    """Every batch size at every concurrency; no batch size: the default ones. Raises CallerError naming what cannot be."""
    largest = max(model.max_batch_size, 1)
    sizes = batch_sizes or [size for size in BATCH_SIZES if size <= largest]
    refused = [size for size in sizes if not 1 <= size <= largest]
    if refused:
        why = f"max_batch_size is {model.max_batch_size}" if model.max_batch_size else "it has no batch dimension, 1 is all"
        raise invalid(f"model '{model.name}' cannot be measured at batch sizes {refused}: {why}")
    excessive = [count for count in concurrencies if not 1 <= count <= max_in_flight]
    if excessive:
        raise invalid(f"concurrency {excessive} cannot be: the broker lets a client have 1 to {max_in_flight} in flight")
    return tuple(Point(size, count) for count in concurrencies for size in sizes)


def memory_over(link: Link, asked: Memory | None, is_tcp: bool = False) -> Memory:
    """The kind of memory that inputs and outputs lie in. Raises CallerError (UNSUPPORTED) for what the link cannot do."""
    if asked is None:
        return "memfd" if link == "local" else "system" if link == "zmq" and not is_tcp else "none"
    why = ""
    if is_tcp and asked != "none":
        why = "tcp:// may lead to another machine, and carries tensors inline only: use --shared-memory none"
    elif link in ("http", "grpc") and asked == "memfd":
        why = "KServe v2 hands no descriptors over: use --shared-memory system, cuda or none"
    elif link == "zmq" and asked == "memfd":
        why = "ZeroMQ hands no descriptors over: use --shared-memory system or none, or --link local"
    elif link == "local" and asked == "none":
        why = "the local link carries no tensors beside its messages: use --link zmq"
    if why:
        raise CallerError(f"--shared-memory {asked} over {'tcp' if is_tcp else link}: {why}", Code.UNSUPPORTED)
    return asked


def address_of_link(listening: Sequence[str], link: Link) -> Address:
    """Where a broker that listens at these addresses is reached over that link; tcp only if there is no other."""
    found = sorted((address for address in map(parse_address, listening) if address.kind == link), key=lambda a: a.is_tcp)
    if not found:
        raise BrokerError(f"the broker listens at {', '.join(listening)}: none of these is --link {link}", Code.UNSUPPORTED)
    return found[0]


def input_shapes(model: ModelInfo, batch: int, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The complete shape of every input. Raises CallerError for a dim that is not known, and for shapes that do not fit."""
    unknown = [name for name in shapes if name not in [spec.name for spec in model.inputs]]
    if unknown:
        raise invalid(f"model '{model.name}' has no input {unknown}; it has {[spec.name for spec in model.inputs]}")
    rows = (batch,) if model.max_batch_size else ()
    found = {}
    for spec in model.inputs:
        dims = tuple(shapes.get(spec.name, spec.dims))
        if len(dims) != len(spec.dims) or any(want not in (-1, dim) for want, dim in zip(spec.dims, dims, strict=True)):
            raise invalid(f"model '{model.name}': input '{spec.name}' has dims {list(spec.dims)}, --shape says {list(dims)}")
        if -1 in dims:
            example = ",".join("1" if dim < 0 else str(dim) for dim in dims)
            raise invalid(
                f"model '{model.name}': input '{spec.name}' has variable dims {list(dims)}: say --shape {spec.name}:{example}"
            )
        found[spec.name] = rows + dims
    return found
