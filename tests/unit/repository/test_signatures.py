# SPDX-License-Identifier: Apache-2.0
"""Completing a configuration from the model file, and the disagreements between the two. Sentences are Triton's."""

from __future__ import annotations

import pytest
from msgspec import structs
from texts import ONNX, TENSORS, parsed, signature

from penstock.ipc.errors import CallerError, Code
from penstock.ipc.messages import Signature, TensorSpec
from penstock.runtime.repository.configuration import DynamicBatching, check_against, complete
from penstock.runtime.repository.placement import Placing

BATCHABLE = signature({"x": [-1, 2]}, {"y": [-1, -1, 3]})
FIXED = signature({"x": [1, 2]}, {"y": [-1]})


def refusal(text: str, found: Signature) -> str:
    with pytest.raises(CallerError) as caught:
        check_against(complete(parsed(text), found), found)
    assert caught.value.code is Code.INVALID_ARG
    return caught.value.message


# --- completing ------------------------------------------------------------------------------------------------------------


def test_a_model_with_variable_first_dimensions_is_batched_by_four() -> None:
    config = complete(parsed(ONNX), BATCHABLE)

    assert config.max_batch_size == 4
    assert config.dynamic_batching == DynamicBatching((4,), 0)
    assert config.inputs == (TensorSpec("x", "FP32", [2]),)
    assert config.outputs == (TensorSpec("y", "FP32", [-1, 3]),)
    assert config.is_complete
    assert config.to_json()["dynamic_batching"]["preferred_batch_size"] == [4]
    check_against(config, BATCHABLE)


def test_a_model_that_says_its_largest_batch_gets_that() -> None:
    says = structs.replace(BATCHABLE, max_batch_size=32)

    config = complete(parsed(ONNX), says)

    assert (config.max_batch_size, config.dynamic_batching) == (32, DynamicBatching((32,), 0))
    check_against(config, says)
    check_against(complete(parsed(ONNX + "max_batch_size: 16"), says), says)


def test_more_than_a_model_takes_is_refused_with_both_numbers() -> None:
    says = structs.replace(BATCHABLE, max_batch_size=32)

    with pytest.raises(CallerError) as caught:
        check_against(complete(parsed(ONNX + "max_batch_size: 33"), says), says)

    assert caught.value.message == (
        "unable to load model 'm', configuration specified max-batch 33 but the model only supports max-batch 32; "
        "write max_batch_size: 32, or build the model for more"
    )


def test_a_given_batch_size_is_kept_and_gets_the_dynamic_batcher_above_one() -> None:
    assert complete(parsed(ONNX + "max_batch_size: 16"), BATCHABLE).dynamic_batching == DynamicBatching((16,), 0)
    assert complete(parsed(ONNX + "max_batch_size: 1"), BATCHABLE).dynamic_batching is None


def test_a_given_dynamic_batcher_is_kept() -> None:
    text = ONNX + "max_batch_size: 8 dynamic_batching { preferred_batch_size: 2 max_queue_delay_microseconds: 9 }"

    assert complete(parsed(text), BATCHABLE).dynamic_batching == DynamicBatching((2,), 9)


def test_no_batching_is_kept_where_it_was_chosen() -> None:
    config = complete(parsed(ONNX + "max_batch_size: 0"), BATCHABLE)

    assert (config.max_batch_size, config.dynamic_batching) == (0, None)
    assert config.inputs[0].dims == [-1, 2]
    check_against(config, BATCHABLE)


def test_a_model_with_fixed_first_dimensions_is_not_batched() -> None:
    config = complete(parsed(ONNX), FIXED)

    assert (config.max_batch_size, config.dynamic_batching) == (0, None)
    assert (config.inputs[0].dims, config.outputs[0].dims) == ([1, 2], [-1])


def test_only_what_is_missing_is_filled_in() -> None:
    config = complete(parsed(ONNX + 'output { name: "y" data_type: TYPE_FP32 dims: [ -1, 3 ] }'), BATCHABLE)

    assert (config.max_batch_size, config.inputs[0].dims) == (4, [2])
    check_against(config, BATCHABLE)


def test_a_complete_configuration_is_left_alone() -> None:
    config = parsed(ONNX + TENSORS)

    assert complete(config, BATCHABLE) is config
    assert config.max_batch_size == 0


def test_completing_does_not_change_the_configuration_it_starts_from() -> None:
    config = parsed(ONNX)
    complete(config, BATCHABLE)

    assert (config.max_batch_size, config.to_json()["input"], config.is_complete) == (0, [], False)


def test_warnings_survive_completion() -> None:
    config = parsed(ONNX + "instance_group { kind: KIND_GPU }", placing=Placing(fallback=True))

    assert complete(config, BATCHABLE).warnings == config.warnings != ()


def test_a_batch_size_for_a_model_that_does_not_batch_is_refused() -> None:
    said = refusal(ONNX + "max_batch_size: 8", FIXED)

    assert said.startswith(
        "autofill failed for model 'm': model does not support batching while non-zero max_batch_size is specified"
    )
    assert said.endswith("x FP32 [1,2], y FP32 [-1], and not all begin with a variable dimension: write max_batch_size: 0")


def test_what_has_no_dims_but_the_batch_dimension_is_one_element_per_row_for_clients() -> None:
    found = signature({"x": [-1, 2]}, {"label": [-1]})

    config = complete(parsed(ONNX), found)

    assert config.outputs == (TensorSpec("label", "FP32", [1], reshape=[]),)
    assert config.to_json()["output"][0]["reshape"] == {"shape": []}
    check_against(config, found)


def test_a_scalar_is_one_element_for_clients() -> None:
    found = signature({"x": []}, {"y": [2]})

    config = complete(parsed(ONNX), found)

    assert (config.max_batch_size, config.inputs) == (0, (TensorSpec("x", "FP32", [1], reshape=[]),))
    assert config.outputs == (TensorSpec("y", "FP32", [2]),)
    check_against(config, found)


def test_a_worker_that_reports_nonsense_is_not_believed() -> None:
    assert "unknown datatype 'COMPLEX'" in refusal(ONNX, signature({"x": [2]}, {"y": [2]}, "COMPLEX"))
    assert "dimension must be integer >= 1" in refusal(ONNX, signature({"x": [2, 0]}, {"y": [2]}))


# --- comparing -------------------------------------------------------------------------------------------------------------


def test_the_batch_dimension_in_dims_is_the_classic_trap() -> None:
    text = (
        ONNX
        + """max_batch_size: 8
        input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 1, 16 ] }
        output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] }"""
    )

    assert refusal(text, signature({"INPUT0": [-1, 16]}, {"y": [-1, 2]})) == (
        "model 'm', tensor 'INPUT0': the model expects 2 dimensions (shape [-1,16]) but the model configuration specifies 3 "
        "dimensions (an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making "
        "complete shape [-1,1,16]); dims must leave out the batch dimension: write dims: [16]"
    )


def test_a_forgotten_max_batch_size_is_the_other_one() -> None:
    assert refusal(ONNX + TENSORS, signature({"x": [-1, 2]}, {"y": [-1, 2]})) == (
        "model 'm', tensor 'x': the model expects 2 dimensions (shape [-1,2]) but the model configuration specifies 1 "
        "dimensions (shape [2]); without max_batch_size dims must be complete: write max_batch_size, or dims: [-1,2]"
    )


def test_a_batch_size_needs_a_variable_first_dimension() -> None:
    said = refusal(ONNX + TENSORS + "max_batch_size: 8", signature({"x": [1, 2]}, {"y": [1, 2]}))

    assert said.startswith(
        "model 'm', tensor 'x': for the model to support batching the shape should have at least 1 dimension and the first "
        "dimension must be -1; but shape expected by the model is [1,2]"
    )


def test_dims_of_another_size() -> None:
    said = refusal(ONNX + TENSORS, signature({"x": [3]}, {"y": [2]}))

    assert said.endswith("specifies 1 dimensions (shape [2]); write dims: [3]")


def test_an_input_may_narrow_a_variable_dimension_and_an_output_may_not() -> None:
    check_against(parsed(ONNX + TENSORS), signature({"x": [-1]}, {"y": [2]}))

    assert refusal(ONNX + TENSORS, signature({"x": [2]}, {"y": [-1]})).startswith("model 'm', tensor 'y': the model expects 1")


def test_names_must_be_the_models() -> None:
    assert refusal(ONNX + TENSORS, signature({"a": [2]}, {"y": [2]})) == (
        "model 'm': unexpected inference input 'x', allowed inputs are: a"
    )
    assert refusal(ONNX + TENSORS, signature({"x": [2]}, {"b": [2], "a": [2]})) == (
        "model 'm': unexpected inference output 'y', allowed outputs are: a, b"
    )


def test_no_input_may_be_left_out_but_an_output_may() -> None:
    assert refusal(ONNX + TENSORS, signature({"x": [2], "z": [2]}, {"y": [2]})) == (
        "unable to load model 'm', configuration expects 1 inputs, model provides 2; they are x FP32 [2], z FP32 [2]"
    )
    check_against(parsed(ONNX + TENSORS), signature({"x": [2]}, {"y": [2], "z": [2]}))


@pytest.mark.parametrize(("datatype", "name"), [("INT64", "TYPE_INT64"), ("BYTES", "TYPE_STRING")])
def test_datatypes_must_be_the_models(datatype: str, name: str) -> None:
    assert refusal(ONNX + TENSORS, signature({"x": [2]}, {"y": [2]}, datatype)) == (
        f"unable to load model 'm', configuration expects datatype TYPE_FP32 for input 'x', model provides {name}"
    )
