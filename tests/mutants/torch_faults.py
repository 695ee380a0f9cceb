# SPDX-License-Identifier: Apache-2.0
"""Faults of torch's models and of onnxruntime on a GPU: whose memory is written to, which tensor is which, what a graph serves."""

from __future__ import annotations

from fault import Fault

FORWARD = "workers/backends/torch_forward.py"
NAMES = "workers/backends/forward_names.py"
GRAPHS = "workers/backends/torch_graphs.py"

MODELS = "tests/contract/test_pytorch.py::"
ON_DEVICE = "tests/contract/test_pytorch_device.py::"
ONNX_ON_DEVICE = "tests/contract/test_onnxruntime_device.py::"

FAULTS = (
    Fault(
        "a program gets clients' memory before it has shown that it leaves it alone",
        FORWARD,
        "(is_lent and self.writes_inputs is not False)",
        "(is_lent and self.writes_inputs)",
        (f"{MODELS}test_memory_of_clients_is_never_changed_by_a_model_that_changes_its_inputs",),
    ),
    Fault(
        "a program keeps memory of clients",
        FORWARD,
        "if self._program.keeps_inputs or (",
        "if False or (",
        (f"{MODELS}test_what_a_model_keeps_is_its_own_and_not_a_client_s_memory",),
    ),
    Fault(
        "that a program adds to a list of its own is not seen",
        "workers/backends/torch_models.py",
        'return any(next(node.inputs()).node().kind() == "prim::GetAttr" for node in added)',
        "return False and any(added)",
        (f"{MODELS}test_what_a_model_keeps_is_its_own_and_not_a_client_s_memory",),
    ),
    Fault(
        "clients are told TorchScript's traces",
        FORWARD,
        "    return trace[found.end() :].strip() if found else said",
        "    return said if found else said",
        (f"{MODELS}test_of_a_traced_model_s_error_the_reason_alone_is_told",),
    ),
    Fault(
        "that a program changed its inputs is not noticed",
        FORWARD,
        "self.writes_inputs = bool(self.writes_inputs) or _versions(values) != before",
        "self.writes_inputs = bool(self.writes_inputs)",
        (f"{MODELS}test_memory_of_clients_is_never_changed_by_a_model_that_changes_its_inputs",),
    ),
    Fault(
        "the datatype of what forward returns is not looked at",
        FORWARD,
        "if value.layout != torch.strided or DATATYPES.get(value.dtype) != expected.datatype:",
        "if value.layout != torch.strided:",
        (f"{MODELS}test_what_was_not_promised_is_the_models_fault",),
    ),
    Fault(
        "inputs with names of arguments are taken in the order of the configuration",
        NAMES,
        "return [known.index(name) for name in configured]",
        "return list(range(len(configured)))",
        ("tests/unit/workers/test_forward_names.py::test_inputs_are_found_by_name_by_index_or_in_order",),
    ),
    Fault(
        "rows behind a smaller batch keep what was there",
        GRAPHS,
        "if rows < self.rows:",
        "if rows > self.rows:",
        (f"{ON_DEVICE}test_a_graph_with_a_lower_bound_serves_smaller_batches_with_zeros_behind_them",),
    ),
    Fault(
        "a graph serves work that lies elsewhere",
        GRAPHS,
        "return own(work)",
        "return bool(work)",
        (f"{ON_DEVICE}test_work_that_lies_elsewhere_than_its_graph_looks_is_executed_plainly",),
    ),
    Fault(
        "two slots share a graph of onnxruntime",
        "workers/backends/onnxruntime_cuda.py",
        "key = (work.slot.lane.index, work.slot.index, shapes, work.wanted)",
        "key = (work.slot.lane.index, 0, shapes, work.wanted)",
        (f"{ONNX_ON_DEVICE}test_each_slot_and_shape_is_a_graph_of_its_own_where_graphs_are_asked_for",),
    ),
    Fault(
        "a provider that onnxruntime dropped is not missed",
        "workers/backends/execution_providers.py",
        "        if provider.name not in active:",
        "        if provider.name not in (*active, CUDA):",
        ("tests/unit/workers/test_execution_providers.py::test_a_provider_that_onnxruntime_dropped_in_silence_is_an_error",),
    ),
    Fault(
        "a configuration that comes with a load may name any library",
        "runtime/repository/accelerators.py",
        "op_library_filename if os.path.isabs(name)]",
        "op_library_filename if not os.path.isabs(name) and not name]",
        (
            "tests/unit/repository/test_accelerators.py::test_a_configuration_that_comes_with_a_load_names_no_library_outside_of_the_model",
        ),
    ),
)
