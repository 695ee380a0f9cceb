# SPDX-License-Identifier: Apache-2.0
"""What a configuration's `optimization` says to an instance on a GPU, in the words that travel to workers."""

from __future__ import annotations

from collections.abc import Iterator

from ...ipc.messages import GraphSpec, Optimization
from . import schema
from .problem import Problem
from .schema import Proto


def optimization_of(config: Proto) -> Optimization:
    """The typed settings. Where there is no `cuda` the backend decides about graphs; in it, they are off unless it says so."""
    settings = config.optimization
    has_cuda = settings.HasField("cuda")
    return Optimization(
        cuda_graphs=settings.cuda.graphs if has_cuda else None,
        graph_specs=[_graph_spec(spec) for spec in settings.cuda.graph_spec],
        preferred_batch_sizes=sorted(set(config.dynamic_batching.preferred_batch_size)),
        busy_wait=settings.cuda.busy_wait_events,
        output_copy_stream=True if settings.cuda.output_copy_stream else None,
        pinned_inputs=settings.input_pinned_memory.enable,
        pinned_outputs=settings.output_pinned_memory.enable,
        priority=schema.stream_priority(settings),
    )


def _graph_spec(spec: Proto) -> GraphSpec:
    lower = spec.graph_lower_bound
    return GraphSpec(spec.batch_size, _dims(spec.input), lower.batch_size, _dims(lower.input))


def _dims(shapes: Proto) -> dict[str, list[int]]:
    return {name: list(shapes[name].dim) for name in sorted(shapes)}


def graph_problems(config: Proto) -> Iterator[Problem]:
    """Graphs that no batch of the model could use."""
    known = {tensor.name for tensor in config.input}
    for index, spec in enumerate(config.optimization.cuda.graph_spec):
        path = f"optimization.cuda.graph_spec[{index}]"
        lower = spec.graph_lower_bound
        if not 0 <= spec.batch_size <= max(config.max_batch_size, 0):
            text = f"graph_spec has batch_size {spec.batch_size}, but max_batch_size is {config.max_batch_size}"
            yield Problem(f"{path}.batch_size", f"{text}, for {config.name}")
        if spec.HasField("graph_lower_bound") and not 0 <= lower.batch_size <= spec.batch_size:
            text = f"graph_lower_bound has batch_size {lower.batch_size}, and its graph_spec {spec.batch_size}"
            yield Problem(f"{path}.graph_lower_bound", f"{text}, for {config.name}")
        for name in sorted({*spec.input, *lower.input} - known) if known else ():
            yield Problem(f"{path}.input", f"graph_spec names input '{name}', which {config.name} has not")
