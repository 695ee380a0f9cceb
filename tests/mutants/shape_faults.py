# SPDX-License-Identifier: Apache-2.0
"""Faults of reshaped, optional and ragged tensors: whose elements are whose, and what requests must agree on."""

from __future__ import annotations

from fault import Fault

RAGGED = "workers/ragged.py"
SHAPES = "workers/shapes.py"
ONNX = "workers/backends/onnxruntime_onnx.py"

KINDS = "tests/unit/workers/test_ragged.py::"
SIDES = "tests/unit/workers/test_shapes.py::"
REQUESTS = "tests/unit/runtime/test_left_out_and_ragged.py::"
CONFIGURED = "tests/unit/repository/test_model_shapes.py::"
MODELS = "tests/contract/test_model_shapes_onnx.py::"

FAULTS = (
    Fault(
        "batch inputs follow another order than that of execution",
        "workers/inputs.py",
        "computed([job.prepared.shapes for job in jobs])",
        "computed([job.prepared.shapes for job in reversed(jobs)])",
        (f"{MODELS}test_each_request_gets_the_sum_of_its_own_elements",),
    ),
    Fault(
        "accumulated counts begin without a zero",
        RAGGED,
        "list(accumulate(counts, initial=0))",
        "list(accumulate(counts))",
        (f"{KINDS}test_a_batch_of_three_requests",),
    ),
    Fault(
        "a request of several items has one row of item shapes",
        RAGGED,
        "[shape[1:]] * shape[0] if batched",
        "[shape[1:]] if batched",
        (f"{KINDS}test_an_item_has_a_row_of_its_own_also_within_a_request",),
    ),
    Fault(
        "ragged requests must agree in shape",
        "runtime/bindings.py",
        "() if spec.ragged else tuple(tensor.shape[lead:])",
        "tuple(tensor.shape[lead:])",
        (f"{REQUESTS}test_ragged_inputs_are_left_out_of_what_requests_must_agree_on",),
    ),
    Fault(
        "requests with and without an optional input of fixed shape share a batch",
        "runtime/models.py",
        "not spec.optional and (spec.ragged or",
        "(spec.ragged or",
        (f"{REQUESTS}test_an_optional_input_counts_where_every_shape_is_fixed",),
    ),
    Fault(
        "outputs are split evenly among rows",
        "workers/outputs.py",
        "            sizes = [item_bytes * elements(each) for each in shapes]",
        "            sizes = [item_bytes * elements(shape) * job.prepared.rows // 4 for job in jobs]",
        (f"{MODELS}test_an_output_is_split_by_the_shapes_of_its_input",),
    ),
    Fault(
        "an input that was given once is given again where it is left out",
        ONNX,
        "binding.clear_binding_inputs()",
        "pass",
        (f"{MODELS}test_an_input_that_is_left_out_has_the_models_value_again",),
    ),
    Fault(
        "an output of other rank than its place is computed into it",
        "workers/backends/onnx_sessions.py",
        "if ranks[spec.outputs[output].name] != 1)",
        "if ranks[spec.outputs[output].name] == 0)",
        (f"{MODELS}test_an_output_is_split_by_the_shapes_of_its_input",),
    ),
    Fault(
        "clients get the model's shape",
        SHAPES,
        "self._translated(shape, tensor.reshape, tensor.dims)",
        "shape",
        (f"{SIDES}test_the_two_shapes_are_made_of_each_other",),
    ),
    Fault(
        "only the number of variable dimensions is compared",
        "runtime/repository/shapes.py",
        "elif before != after:",
        "elif len(before) == 1 and before != after:",
        (f"{CONFIGURED}test_a_reshape_of_other_elements_is_refused",),
    ),
    Fault(
        "an input without a value in the model may be left out",
        "runtime/repository/signatures.py",
        "and tensor.optional and not found.optional",
        "and tensor.optional and found.optional",
        (f"{CONFIGURED}test_an_optional_input_needs_a_value_in_the_model",),
    ),
)
