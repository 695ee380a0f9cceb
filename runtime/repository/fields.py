# SPDX-License-Identifier: Apache-2.0
"""Every key of Triton's configuration: implemented, accepted as a hint, or refused. The documentation's table is made of this.

What is not implemented is refused by name, never ignored. The rule is applied to the keys that are set, by walking the message
along the schema: a key that is not in the table, because a newer tritonclient brought it, is refused as well. A default value
(`decoupled: false`) asks for nothing and passes; a hint is a key that cannot change a result, nor anything on a CPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from ...ipc.errors import CallerError, Code
from . import schema
from .locations import ConfigFile
from .schema import Proto

_INDEX = re.compile(r"\[\d+\]")
NOT_KNOWN = "a key that this release does not know"


class Status(str, Enum):
    """What becomes of a key."""

    IMPLEMENTED = "implemented"
    HINT = "accepted as a hint"
    OUTER = "see its keys"  # accepted, empty or with the keys in it that are accepted
    REFUSED = "refused"


class Rule(NamedTuple):
    """`note`: for what is refused, the reason or what to do instead; else what it means here."""

    status: Status
    note: str = ""


_YES, _HINT, _OUTER, _NO = Status.IMPLEMENTED, Status.HINT, Status.OUTER, Status.REFUSED
_NO_GPU = "no GPU device is built into this release; remove it"
_TENSORRT = "for backend tensorrt only"
_NOT_LINEAR = "only linear tensors are served; build the plan with linear inputs and outputs"
_ON_GPU = "on a GPU"

RULES: dict[str, Rule] = {
    "name": Rule(_YES, "the directory's name; may be left out"),
    "platform": Rule(_YES, "onnxruntime_onnx, tensorrt_plan, pytorch_libtorch"),
    "backend": Rule(_YES, "onnxruntime, tensorrt, pytorch, identity, fake"),
    "runtime": Rule(_NO, "backends are built in, not loaded from libraries; remove it"),
    "version_policy": Rule(_YES, "latest 1 where it is left out"),
    "version_policy.latest": Rule(_YES, "the highest num_versions versions"),
    "version_policy.latest.num_versions": Rule(_YES),
    "version_policy.all": Rule(_YES),
    "version_policy.specific": Rule(_YES),
    "version_policy.specific.versions": Rule(_YES),
    "max_batch_size": Rule(_YES, "0: no batch dimension; else one is put in front of the dims of all inputs and outputs"),
    "input": Rule(_YES, "read from the model file where they are left out"),
    "input.name": Rule(_YES),
    "input.data_type": Rule(_YES),
    "input.format": Rule(_YES, "checked only: NHWC and NCHW need 3 dims"),
    "input.dims": Rule(_YES, "without the batch dimension; -1: variable"),
    "input.reshape": Rule(_YES, "the model gets these dims instead, of as many elements; clients see dims"),
    "input.reshape.shape": Rule(_YES, "without the batch dimension; empty: a scalar, or the batch dimension alone"),
    "input.is_shape_tensor": Rule(_YES, f"its values are shapes; needs max_batch_size 0; {_TENSORRT}"),
    "input.allow_ragged_batch": Rule(_YES, "requests of any shapes share a batch, which reaches the model as one dimension"),
    "input.optional": Rule(_YES, "a request may leave it out; in an ONNX model it has an initializer"),
    "input.is_non_linear_format_io": Rule(_NO, _NOT_LINEAR),
    "output": Rule(_YES, "read from the model file where they are left out"),
    "output.name": Rule(_YES),
    "output.data_type": Rule(_YES),
    "output.dims": Rule(_YES, "without the batch dimension; -1: variable"),
    "output.reshape": Rule(_YES, "the model gives these dims instead, of as many elements; clients see dims"),
    "output.reshape.shape": Rule(_YES, "without the batch dimension; empty: a scalar, or the batch dimension alone"),
    "output.label_filename": Rule(_YES, "in the model's directory, a label per line; see classification"),
    "output.is_shape_tensor": Rule(_NO, "outputs are in device memory; build the plan with it as an ordinary output"),
    "output.is_non_linear_format_io": Rule(_NO, _NOT_LINEAR),
    "batch_input": Rule(_YES, "inputs of the model that the worker computes for each execution; no client sends them"),
    "batch_input.kind": Rule(_YES, "BATCH_ELEMENT_COUNT where it is left out; see the guide on ragged batches"),
    "batch_input.target_name": Rule(_YES, "the model's inputs that get the value, at least one"),
    "batch_input.data_type": Rule(_YES, "TYPE_INT32 or TYPE_FP32"),
    "batch_input.source_input": Rule(_YES, "one input"),
    "batch_output": Rule(_YES, "outputs that are divided among requests by the shapes of an input"),
    "batch_output.target_name": Rule(_YES, "the outputs, at least one"),
    "batch_output.kind": Rule(_YES, "BATCH_SCATTER_WITH_INPUT_SHAPE: each request gets as many elements as its input has"),
    "batch_output.source_input": Rule(_YES, "one input"),
    "optimization": Rule(_OUTER),
    "optimization.graph": Rule(_OUTER),
    "optimization.graph.level": Rule(_YES, "onnxruntime: -1 basic, 1 extended, 2 nothing, else everything"),
    "optimization.priority": Rule(_YES, "PRIORITY_MAX and PRIORITY_MIN: that of a GPU's streams"),
    "optimization.cuda": Rule(_OUTER),
    "optimization.cuda.graphs": Rule(_YES, "without optimization.cuda the backend decides; with it false where it is left out"),
    "optimization.cuda.busy_wait_events": Rule(_YES, f"{_ON_GPU}: as --busy-wait always, for this model"),
    "optimization.cuda.graph_spec": Rule(_YES, f"{_ON_GPU}: a graph to capture; where it is left out the backend decides"),
    "optimization.cuda.graph_spec.batch_size": Rule(_YES, "at most max_batch_size; 0 without a batch dimension"),
    "optimization.cuda.graph_spec.input": Rule(_YES, "shapes of inputs with variable dims"),
    "optimization.cuda.graph_spec.input.dim": Rule(_YES, "without the batch dimension"),
    "optimization.cuda.graph_spec.graph_lower_bound": Rule(_YES, "the smallest batch that it serves"),
    "optimization.cuda.graph_spec.graph_lower_bound.batch_size": Rule(_YES, "at most that of the graph_spec"),
    "optimization.cuda.graph_spec.graph_lower_bound.input": Rule(_YES, "as in the graph_spec: a graph has fixed dims"),
    "optimization.cuda.graph_spec.graph_lower_bound.input.dim": Rule(_YES),
    "optimization.cuda.output_copy_stream": Rule(_YES, f"{_ON_GPU}: outputs are copied in a stream of their own"),
    "optimization.execution_accelerators": Rule(_OUTER),
    "optimization.execution_accelerators.gpu_execution_accelerator": Rule(_YES, "onnxruntime on a GPU; see Backends"),
    "optimization.execution_accelerators.gpu_execution_accelerator.name": Rule(_YES, "tensorrt, cuda"),
    "optimization.execution_accelerators.gpu_execution_accelerator.parameters": Rule(_YES, "Triton's names of the options"),
    "optimization.execution_accelerators.cpu_execution_accelerator": Rule(_YES, "onnxruntime on the CPU; see Backends"),
    "optimization.execution_accelerators.cpu_execution_accelerator.name": Rule(_YES, "openvino"),
    "optimization.execution_accelerators.cpu_execution_accelerator.parameters": Rule(_YES, "options of the provider"),
    "optimization.input_pinned_memory": Rule(_OUTER),
    "optimization.input_pinned_memory.enable": Rule(_YES, f"{_ON_GPU}: inputs that are staged are pinned"),
    "optimization.output_pinned_memory": Rule(_OUTER),
    "optimization.output_pinned_memory.enable": Rule(_YES, f"{_ON_GPU}: the same for outputs"),
    "optimization.gather_kernel_buffer_threshold": Rule(_HINT, "inputs are gathered by copies"),
    "optimization.eager_batching": Rule(_HINT, "batches are always prepared as early as the rules allow"),
    "dynamic_batching": Rule(_YES),
    "dynamic_batching.preferred_batch_size": Rule(_YES, "[max_batch_size] where it is left out"),
    "dynamic_batching.max_queue_delay_microseconds": Rule(_YES),
    "dynamic_batching.preserve_ordering": Rule(_YES, "replies leave in the order of arrival, whichever instance is first"),
    "dynamic_batching.priority_levels": Rule(_YES, "1 is served first; 0 or left out: one level, whatever requests ask for"),
    "dynamic_batching.default_priority_level": Rule(_YES, "of requests that ask for none, or for one above priority_levels"),
    "dynamic_batching.default_queue_policy": Rule(_YES, "of each level without a policy of its own"),
    "dynamic_batching.default_queue_policy.timeout_action": Rule(_YES, "REJECT: UNAVAILABLE; DELAY: behind its level"),
    "dynamic_batching.default_queue_policy.default_timeout_microseconds": Rule(_YES, "in the queue; 0: none"),
    "dynamic_batching.default_queue_policy.allow_timeout_override": Rule(_YES, "a request may shorten the default timeout"),
    "dynamic_batching.default_queue_policy.max_queue_size": Rule(_YES, "of a level; beyond it UNAVAILABLE; 0: unbounded"),
    "dynamic_batching.priority_queue_policy": Rule(_YES, "by level, instead of the default policy"),
    "dynamic_batching.priority_queue_policy.timeout_action": Rule(_YES),
    "dynamic_batching.priority_queue_policy.default_timeout_microseconds": Rule(_YES),
    "dynamic_batching.priority_queue_policy.allow_timeout_override": Rule(_YES),
    "dynamic_batching.priority_queue_policy.max_queue_size": Rule(_YES),
    "sequence_batching": Rule(_NO, "the sequence batcher is not built yet"),
    "ensemble_scheduling": Rule(_NO, "ensembles are not built yet; call the models one after the other"),
    "instance_group": Rule(_YES, "one group of KIND_AUTO where it is left out; see Placement"),
    "instance_group.name": Rule(_YES, "MODEL_INDEX where it is left out; instances are NAME_0, NAME_1, ..."),
    "instance_group.kind": Rule(_YES, "KIND_CPU, KIND_GPU and KIND_AUTO; see Placement"),
    "instance_group.count": Rule(_YES, "on each GPU; 1 where it is left out, for onnxruntime on the CPU 2; each a process"),
    "instance_group.rate_limiter": Rule(_YES, "with --rate-limit execution_count; else without effect, as in Triton"),
    "instance_group.rate_limiter.resources": Rule(_YES, "held by an instance while it executes a batch"),
    "instance_group.rate_limiter.resources.name": Rule(_YES),
    "instance_group.rate_limiter.resources.global": Rule(_YES, "one pool for all; else one for each GPU, 0 also the CPU's"),
    "instance_group.rate_limiter.resources.count": Rule(_YES),
    "instance_group.rate_limiter.priority": Rule(_YES, "the smallest executions x priority is next; 0 counts as 1"),
    "instance_group.gpus": Rule(_YES, "by CUDA's ordinals, as the broker sees them; all GPUs where it is left out"),
    "instance_group.secondary_devices": Rule(_NO, "there are no secondary devices; remove it"),
    "instance_group.profile": Rule(_YES, f"optimization profiles, by index; {_TENSORRT}"),
    "instance_group.passive": Rule(_NO, "every instance serves; remove the group"),
    "instance_group.host_policy": Rule(_YES, "defined by --host-policy, else without effect; left out: cpu or gpu_N"),
    "default_model_filename": Rule(_YES, "model.onnx for onnxruntime, model.plan for tensorrt, model.pt for pytorch"),
    "cc_model_filenames": Rule(_NO, "there is one model file; name it with default_model_filename"),
    "metric_tags": Rule(_YES, "labels of the model's metrics, with a _ in front as in Triton"),
    "parameters": Rule(_YES, "for the backend; max_execution_s and lanes are ours, see Parameters"),
    "parameters.string_value": Rule(_YES),
    "model_warmup": Rule(_YES, "executed by each instance before it is READY; zeros where it is left out"),
    "model_warmup.name": Rule(_YES),
    "model_warmup.batch_size": Rule(_YES, "requests of one row each; 0: the sample is skipped, with a warning"),
    "model_warmup.inputs": Rule(_YES, "every input of the model"),
    "model_warmup.inputs.data_type": Rule(_YES),
    "model_warmup.inputs.dims": Rule(_YES, "without the batch dimension; all of them known"),
    "model_warmup.inputs.zero_data": Rule(_YES, "BYTES: empty texts"),
    "model_warmup.inputs.random_data": Rule(_YES, "integers: any; floating point: 0 to 1; BYTES: empty texts"),
    "model_warmup.inputs.input_data_file": Rule(_YES, "in the model's directory `warmup`: a request's bytes, or those of all"),
    "model_warmup.count": Rule(_YES, "how often it is executed; once where it is 0 or left out"),
    "model_operations": Rule(_OUTER),
    "model_operations.op_library_filename": Rule(_YES, "libraries of custom operators; relative to the model's directory"),
    "model_transaction_policy": Rule(_OUTER),
    "model_transaction_policy.decoupled": Rule(_NO, "decoupled models are not built yet: one request, one response"),
    "model_repository_agents": Rule(_OUTER),
    "model_repository_agents.agents": Rule(_YES, "called in this order when the model is loaded and unloaded; see Agents"),
    "model_repository_agents.agents.name": Rule(_YES, "checksum, decrypt, or one that is installed"),
    "model_repository_agents.agents.parameters": Rule(_YES, "the agent's own"),
    "response_cache": Rule(_OUTER),
    "response_cache.enable": Rule(_YES, "equal requests are answered from the broker's memory; see Response cache"),
    "model_metrics": Rule(_OUTER),
    "model_metrics.metric_control": Rule(_NO, "it concerns decoupled models, which are not built yet; remove it"),
}  # fmt: skip
"""Path -> rule. What is inside a refused key needs none."""


def supported_fields() -> list[tuple[str, str, str]]:
    """(path, status, note) of every key of tritonclient's schema, outer before inner, refused ones without what is inside."""
    rows: list[tuple[str, str, str]] = []
    refused: list[str] = []
    for field in schema.schema_fields():
        if any(field.path.startswith(outer) for outer in refused):
            continue
        rule = rule_of(field.path)
        rows.append((field.path, rule.status.value, rule.note))
        if rule.status is Status.REFUSED:
            refused.append(field.path + ".")
    return rows


def rule_of(path: str) -> Rule:
    """The rule for a key; one that the table does not have is refused."""
    return RULES.get(path, Rule(Status.REFUSED, NOT_KNOWN))


def refuse_unsupported(config: Proto, file: ConfigFile) -> None:
    """Raises one CallerError (UNSUPPORTED) that names each key that is set and not implemented, a line each."""
    found = [f"{file.at(path)}: {reason}" for path, reason in _unsupported(config, "")]
    if found:
        raise CallerError("\n".join(found), Code.UNSUPPORTED)


def _unsupported(message: Proto, prefix: str) -> Iterator[tuple[str, str]]:
    for field in schema.set_fields(message):
        path = prefix + field.name
        rule = rule_of(_INDEX.sub("", path))
        if rule.status is Status.REFUSED:
            yield path, f"{path} is not implemented in this release: {rule.note}"
            continue
        for number in field.unknown:
            yield path, f"{path}: {number} is not a value of this key; write its name"
        for index, value in enumerate(field.values if field.is_message else ()):
            yield from _unsupported(value, f"{path}[{index}]." if field.is_indexed else f"{path}.")
