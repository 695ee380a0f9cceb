# SPDX-License-Identifier: Apache-2.0
"""model_warmup: what a worker gets of it, and in which words Triton's rules refuse it."""

from __future__ import annotations

import pytest
from texts import ONNX, complaint, parsed, signature

from penstock.ipc.errors import CallerError
from penstock.ipc.messages import WarmupInput, WarmupSample
from penstock.runtime.repository.configuration import complete

PAIR = """backend: "identity" max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "t" data_type: TYPE_STRING dims: [ -1 ] } ]
output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] }
"""
X = 'inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 2 ] zero_data: true } }'
T = 'inputs { key: "t" value { data_type: TYPE_STRING dims: [ 3 ] random_data: true } }'


def sample(inputs: str, batch_size: int = 1) -> str:
    return f'{PAIR}model_warmup {{ name: "s" batch_size: {batch_size} {inputs} }}'


def test_samples_as_workers_get_them() -> None:
    config = parsed(
        f"""{PAIR}
        model_warmup {{ name: "full" batch_size: 4 count: 3 {X} {T} }}
        model_warmup {{ name: "file" batch_size: 1 {T}
          inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: 2 input_data_file: "x.bin" }} }} }}"""
    )

    t = WarmupInput("t", "BYTES", [3], "random")
    assert config.warmup == (
        WarmupSample("full", 4, 3, [t, WarmupInput("x", "FP32", [2], "zero")]),
        WarmupSample("file", 1, 1, [t, WarmupInput("x", "FP32", [2], "file", "x.bin")]),  # a count left out is one
    )


def test_a_sample_of_batch_size_0_is_skipped_as_by_triton_but_not_in_silence() -> None:
    config = parsed(f'{PAIR}model_warmup {{ name: "forgotten" {X} {T} }}')

    assert config.warmup == ()
    assert config.warnings == (
        "m/config.pbtxt:4:1: warm-up sample 'forgotten' is skipped, since its batch_size is 0; write batch_size: 1",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (sample(X), "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['x'], but missing required input(s) ['t']. Please provide all required input(s)."),
        (sample(X + T + T.replace('"t"', '"z"')), "unexpected inference input 'z' for model 'm'; its inputs are 'x','t'"),
        (sample(X.replace("FP32", "INT32") + T), "inference input 'x' data-type is 'INT32', but model 'm' expects 'FP32'"),
        (sample(X.replace("[ 2 ]", "[ 1, 2 ]") + T), "unexpected shape for input 'x' for model 'm'. Expected [2], got [1,2]; dims leave out the batch dimension"),
        (sample(X.replace("[ 2 ]", "[ 3 ]") + T), "unexpected shape for input 'x' for model 'm'. Expected [2], got [3]; dims leave out the batch dimension"),
        (sample(X + T.replace("[ 3 ]", "[ -1 ]")), "warmup setting expects all variable-size dimensions are specified for input 't'"),
        (sample(X.replace("zero_data: true", "") + T), "warmup setting expects input 'x' to have input_data_type set"),
        (sample(X + T, batch_size=5), "batch size 5 for 'm', max allowed is 4"),
        (sample(X.replace("zero_data: true", 'input_data_file: "../../x"') + T), "input_data_file '../../x' of input 'x' must stay within the model directory"),
        (sample(X.replace("zero_data: true", 'input_data_file: "/etc/passwd"') + T), "input_data_file '/etc/passwd' of input 'x' must stay within the model directory"),
    ],
)  # fmt: skip
def test_what_a_sample_cannot_be_run_with_is_refused_by_the_samples_name(text: str, said: str) -> None:
    found = complaint(text).split("\n")

    assert f"warm-up sample 's' of model m: {said}" in [line.split(": ", 1)[1] for line in found]
    assert all(line.startswith("m/config.pbtxt:4:") for line in found)


def test_a_model_without_batch_dimension_takes_samples_of_batch_size_1() -> None:
    text = PAIR.replace("max_batch_size: 4", "")

    assert parsed(f'{text}model_warmup {{ name: "s" batch_size: 1 {X} {T} }}').warmup[0].batch_size == 1
    assert "batch size 2 for 'm', max allowed is 1" in complaint(f'{text}model_warmup {{ name: "s" batch_size: 2 {X} {T} }}')


def test_inputs_that_the_model_file_tells_are_checked_once_it_has() -> None:
    # Given a configuration without inputs, which says nothing of a sample's
    config = parsed(f'{ONNX}max_batch_size: 4 model_warmup {{ name: "s" batch_size: 1 {X} }}')

    # When the model file has another one, or just this one
    with pytest.raises(CallerError, match="unexpected inference input 'x' for model 'm'; its inputs are 'other'"):
        complete(config, signature({"other": [-1, 2]}, {"y": [-1, 2]}))
    assert complete(config, signature({"x": [-1, 2]}, {"y": [-1, 2]})).warmup == config.warmup


def test_label_files_and_graph_level_reach_the_worker() -> None:
    text = PAIR.replace("dims: [ 2 ] }\n", 'dims: [ 2 ] label_filename: "labels.txt" }\n')

    assert parsed(text).spec(1).labels == {"y": "labels.txt"}
    assert parsed(text + "optimization { graph { level: -1 } }").spec(1).parameters == {"optimization.graph.level": "-1"}
    assert parsed(text).spec(1).parameters == {}
    assert "label_filename must stay within the model directory" in complaint(text.replace("labels.txt", "../labels.txt"))
