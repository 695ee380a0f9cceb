# SPDX-License-Identifier: Apache-2.0
"""Reshape, optional and ragged inputs, batch inputs and outputs: what is refused, in Triton's words, and what is made of them."""

from __future__ import annotations

import pytest
from texts import ONNX, complaint, parsed, signature

from penstock.ipc.errors import CallerError
from penstock.ipc.messages import BatchInput, Signature, TensorSpec
from penstock.runtime.repository.configuration import check_against, complete

RAGGED = """max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }
output { name: "y" data_type: TYPE_FP32 dims: [ -1 ] }
"""
COUNTED = 'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_INT32 source_input: "x" }\n'
SPLIT = 'batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "y" source_input: "x" }\n'


def with_input(dims: str, more: str = "", before: str = "") -> str:
    return (
        f'{ONNX}{before}input {{ name: "x" data_type: TYPE_FP32 dims: [ {dims} ] {more} }}\n'
        'output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] }\n'
    )


# --- reshape ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "reshape"),
    [("2, 3", "6"), ("1", ""), ("1, 1", ""), ("6", "1, 2, 3"), ("-1, 4", "-1, 2, 2"), ("2, 4, -1, 6", "8, -1, 1, 6")],
)
def test_a_reshape_of_as_many_elements_is_taken(dims: str, reshape: str) -> None:
    (tensor,) = parsed(with_input(dims, f"reshape {{ shape: [ {reshape} ] }}")).inputs

    assert tensor.reshape == [int(dim) for dim in reshape.split(",") if dim]


def test_a_reshape_without_a_shape_is_an_empty_one() -> None:
    assert parsed(with_input("1", "reshape { }")).inputs[0].reshape == []
    assert parsed(with_input("1")).inputs[0].reshape is None


@pytest.mark.parametrize(
    ("dims", "reshape", "text"),
    [
        ("2, 3", "5", "has different size for dims and reshape; dims are [2, 3], reshape is [5]"),
        ("2", "", "has different size for dims and reshape"),
        ("2, -1, 3", "3, -1, 2", "has different size for dims and reshape"),
        ("-1, 2", "2", "has different number of variable-size dimensions for dims and reshape"),
        ("-1, -1", "-1", "has different number of variable-size dimensions for dims and reshape"),
        ("2", "0", "reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension, got [0]"),
        ("2", "-2", "reshape dimensions must be integer >= 1, or -1 to indicate a variable-size dimension, got [-2]"),
    ],
)
def test_a_reshape_of_other_elements_is_refused(dims: str, reshape: str, text: str) -> None:
    said = complaint(with_input(dims, f"reshape {{ shape: [ {reshape} ] }}"))

    assert said.startswith(f"m/config.pbtxt:2:{51 + len(dims)}: model input 'x' {text}")
    assert said.endswith(" for m")


def test_the_model_file_must_agree_with_the_reshaped_dims() -> None:
    config = parsed(with_input("2, 3", "reshape { shape: [ 6 ] }"))
    check_against(config, signature({"x": [6]}, {"y": [2]}))

    with pytest.raises(CallerError) as refused:
        check_against(config, signature({"x": [2, 3]}, {"y": [2]}))

    assert refused.value.message.endswith("specifies 1 dimensions (shape [6]); write reshape { shape: [2,3] }")


def test_dims_where_the_model_has_none_are_told_of_reshape() -> None:
    with pytest.raises(CallerError) as refused:
        check_against(parsed(with_input("1")), signature({"x": []}, {"y": [2]}))

    assert refused.value.message.endswith("; write dims: [ 1 ] reshape { shape: [ ] }")


# --- optional --------------------------------------------------------------------------------------------------------------


def test_an_optional_input_needs_a_value_in_the_model() -> None:
    config = parsed(with_input("2", "optional: true"))
    assert config.inputs == (TensorSpec("x", "FP32", [2], optional=True),)
    check_against(config, Signature([TensorSpec("x", "FP32", [2], optional=True)], [TensorSpec("y", "FP32", [2])]))

    with pytest.raises(CallerError) as refused:
        check_against(config, signature({"x": [2]}, {"y": [2]}))

    assert refused.value.message == (
        "model 'm': input 'x' is optional, but the model has no value for it; give it an initializer of the same name as that "
        "graph input, or remove optional"
    )


def test_a_value_in_the_model_may_be_asked_of_every_request_all_the_same() -> None:
    found = Signature([TensorSpec("x", "FP32", [2], optional=True)], [TensorSpec("y", "FP32", [2])])

    check_against(parsed(with_input("2")), found)


# --- ragged batches --------------------------------------------------------------------------------------------------------


def test_what_a_worker_must_know_of_a_ragged_model() -> None:
    spec = parsed(ONNX + RAGGED + COUNTED + SPLIT).spec(1)

    assert spec.inputs == [TensorSpec("x", "FP32", [-1], ragged=True)]
    assert spec.outputs == [TensorSpec("y", "FP32", [-1], shaped_as="x")]
    assert spec.batch_inputs == [BatchInput("BATCH_ELEMENT_COUNT", ["n"], "INT32", "x")]


def counted(**changed: str) -> str:
    values = {"target_name": '"n"', "data_type": "TYPE_INT32", "source_input": '"x"', **changed}
    return "batch_input { " + " ".join(f"{key}: {value}" for key, value in values.items() if value) + " }"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (counted(source_input=""), "batch input kind 'BATCH_ELEMENT_COUNT' expects 1 source input, got 0, for m"),
        (counted(source_input='["x", "x"]'), "batch input kind 'BATCH_ELEMENT_COUNT' expects 1 source input, got 2, for m"),
        (counted(kind="BATCH_ITEM_SHAPE", source_input=""), "batch input kind 'BATCH_ITEM_SHAPE' expects 1 source input, got 0, for m"),
        (counted(source_input='"q"'), "unknown source input name 'q' for m; inputs are x"),
        (counted(data_type="TYPE_INT64"), "batch input data type must be TYPE_INT32 or TYPE_FP32 for m"),
        (counted(data_type=""), "batch input data type must be TYPE_INT32 or TYPE_FP32 for m"),
        (counted(target_name=""), "batch input must specify 'target_name', the model's input that it is for, for m"),
        (counted(target_name='"x"'), "batch input target name 'x' is an input that requests bring; it cannot be computed as well: remove one of the two, for m"),
        (COUNTED + counted(), "batch input target name 'n' can only be specified once for m"),
        (counted(target_name='["n", "n"]'), "batch input target name 'n' can only be specified once for m"),
        ('batch_output { target_name: "y" }', "batch output kind 'BATCH_SCATTER_WITH_INPUT_SHAPE' expects 1 source input, got 0, for m"),
        ('batch_output { target_name: "y" source_input: "q" }', "unknown source input name 'q' for m; inputs are x"),
        ('batch_output { target_name: "q" source_input: "x" }', "unknown target output name 'q' for m; outputs are y"),
        ('batch_output { source_input: "x" }', "batch output must specify 'target_name' for m"),
        (SPLIT + SPLIT, "target output name 'y' can only be specified once for m"),
    ],
)  # fmt: skip
def test_a_batch_input_or_output_that_cannot_be_computed_is_refused(text: str, said: str) -> None:
    place, _, problem = complaint(ONNX + RAGGED + text).partition(": ")

    assert place.startswith("m/config.pbtxt:5:") or "once" in said
    assert problem == said


@pytest.mark.parametrize("user", [COUNTED, SPLIT])
def test_what_is_computed_from_an_input_needs_it_in_every_request(user: str) -> None:
    said = complaint(ONNX + RAGGED.replace("allow_ragged_batch", "optional") + user)

    assert said.endswith(
        "source input 'x' is optional, but what is computed from it needs it in every request: remove optional, for m"
    )


@pytest.mark.parametrize(("tensor", "named"), [("input", "input 'x'"), ("output", "output 'y'")])
def test_a_split_output_has_its_inputs_own_shape(tensor: str, named: str) -> None:
    name = named.split("'")[1]
    text = RAGGED.replace(f'name: "{name}"', f'name: "{name}" reshape {{ shape: [ 1, -1 ] }}')

    said = complaint(ONNX + text + SPLIT)

    assert said.endswith(
        f"a batch output has the shape of its source input as clients know it: remove reshape from {named} for m"
    )
    assert tensor in named


def test_the_model_has_one_dimension_for_a_ragged_input_and_one_input_for_each_target() -> None:
    config = parsed(ONNX + RAGGED + COUNTED)
    counts = TensorSpec("n", "INT32", [-1])
    check_against(config, Signature([TensorSpec("x", "FP32", [-1]), counts], [TensorSpec("y", "FP32", [-1, -1])]))

    for dims in ([-1, -1], [4]):
        with pytest.raises(CallerError) as refused:
            check_against(config, Signature([TensorSpec("x", "FP32", dims), counts], [TensorSpec("y", "FP32", [-1, -1])]))
        assert refused.value.message.startswith(
            "unable to load model 'm', configuration expects model provides input with shape [-1] for ragged input 'x', "
            "model provides ["
        )


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "unable to load model 'm', configuration expects 2 inputs, model provides 1; they are x FP32 [-1]"),
        ([TensorSpec("q", "INT32", [-1])], "model 'm': unexpected inference batch input 'n', allowed batch inputs are: q, x"),
        ([TensorSpec("n", "FP32", [-1])], "unable to load model 'm', configuration expects datatype TYPE_INT32 for batch input 'n', model provides TYPE_FP32"),
    ],
)  # fmt: skip
def test_a_target_must_be_an_input_of_the_model(inputs: list[TensorSpec], said: str) -> None:
    with pytest.raises(CallerError) as refused:
        check_against(
            parsed(ONNX + RAGGED + COUNTED),
            Signature([TensorSpec("x", "FP32", [-1]), *inputs], [TensorSpec("y", "FP32", [-1, -1])]),
        )

    assert refused.value.message == said


def test_a_split_output_may_have_any_shape_in_the_model() -> None:
    check_against(parsed(ONNX + RAGGED + SPLIT), signature({"x": [-1]}, {"y": [-1]}))


def test_an_output_read_from_the_model_is_split_like_its_input_where_that_is_configured() -> None:
    ragged = RAGGED[: RAGGED.index("output")]
    found = signature({"x": [-1]}, {"y": [-1]})

    config = complete(parsed(ONNX + ragged + SPLIT), found)

    assert config.outputs == (TensorSpec("y", "FP32", [-1], shaped_as="x"),)
    check_against(config, found)


def test_inputs_read_from_the_model_leave_out_what_is_computed() -> None:
    found = Signature([TensorSpec("x", "FP32", [-1, 2]), TensorSpec("n", "INT32", [-1])], [TensorSpec("y", "FP32", [-1, 2])])

    config = complete(parsed(ONNX + COUNTED), found)

    assert config.inputs == (TensorSpec("x", "FP32", [2]),)
    check_against(config, found)


def test_a_name_that_the_model_was_to_bring_and_does_not_is_refused_when_it_is_known() -> None:
    with pytest.raises(CallerError, match="unknown source input name 'x' for m; inputs are z"):
        complete(parsed(ONNX + COUNTED), signature({"z": [-1, 2]}, {"y": [-1, 2]}))
