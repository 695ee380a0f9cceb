# SPDX-License-Identifier: Apache-2.0
"""Texts that are no configuration: the place, the key, what it takes, and what was probably meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import complaint, parsed

from penstock.ipc.errors import CallerError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name: "m"\nmax_batchsize: 3', "2:1: unknown key 'max_batchsize'; did you mean 'max_batch_size'?"),
        ('input [ { name: "x" dimz: [1] } ]', "1:21: unknown key 'dimz' in input; did you mean 'dims'?"),
        ("dims: [ 1 ]", "1:1: unknown key 'dims'; it belongs inside input or output"),
        ("preferred_batch_size: [ 2 ]", "1:1: unknown key 'preferred_batch_size'; it belongs inside dynamic_batching"),
        ("max_batch_size: ${MAX}", "1:17: key 'max_batch_size' takes an integer, got $; a placeholder of a template was not"),
        ("instance_group [ { count: \"2\" } ]", "1:27: key 'count' takes an integer, got \"2\"; remove the quotes"),
        ("input { dims: [ 1, 2.5 ] }", "1:20: key 'dims' takes an integer, got 2.5"),
        ("max_batch_size: 99999999999", "1:17: 99999999999 is out of range for key 'max_batch_size'"),
        ("max_batch_size: 1\nmax_batch_size: 2", "2:17: key 'max_batch_size' is written twice, and takes one value; keep one"),
        ("name: m", "1:7: key 'name' takes text in quotes, got m; write \"m\""),
        ("name: \u201cm\u201d", "1:7: key 'name' takes text in quotes, got \u201c; quotes must be the plain ones"),
        ('name: "m', "1:7: the text of key 'name' has no closing quote on its line"),
        ("dynamic_batching: 4", "1:19: key 'dynamic_batching' takes a block in braces, { ... }, got 4"),
        ('parameters { key: "a" value: "b" }', "1:30: key 'value' takes a block in braces, { ... }, got \"b\""),
        ("input { dims: [ 1, 2 }", "1:22: the list of key 'dims' is not closed: expected ',' or ']', got }"),
        ('input { name: "x"', "1:15: a block is not closed: '}' is missing after this"),
        ("max_batch_size = 4", "1:16: expected ':', got ="),
        ("version_policy { latest { } all { } }", "1:29: 'all' and 'latest' exclude each other; keep one"),
        ("input { optional: maybe }", "1:19: key 'optional' takes true or false, got maybe"),
        ("}", "1:1: expected a key, got }"),
        ('name: "a\\xff"', "1:14: Couldn't parse string"),
    ],
)  # fmt: skip
def test_a_mistake_is_explained(text: str, said: str) -> None:
    assert complaint(text).startswith(f"m/config.pbtxt:{said}")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("FP32", "TYPE_FP32"),
        ("TYPE_FP3", "TYPE_FP32"),
        ("TYPE_FLOAT", "TYPE_FP32"),
        ("BYTES", "TYPE_STRING"),
        ("type_int8", "TYPE_INT8"),
    ],
)
def test_datatypes_are_listed_and_the_likely_one_is_named(written: str, meant: str) -> None:
    said = complaint(f"input {{\n  data_type: {written}\n}}")

    assert said.startswith(
        f"m/config.pbtxt:2:14: '{written}' is not a value of key 'data_type'; did you mean {meant}? Known are"
    )
    assert said.endswith("TYPE_STRING, TYPE_BF16")


@given(st.text("namebtch_sizeput:{}<>[],;\"'#\n -1$\\") | st.text())
def test_any_text_is_a_configuration_or_a_callers_mistake(text: str) -> None:
    said = ""
    try:
        parsed(text, detected_backend="onnxruntime")
    except CallerError as error:
        said = error.message

    assert not said or said.startswith("m/config.pbtxt")
