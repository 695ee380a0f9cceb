# SPDX-License-Identifier: Apache-2.0
"""Where keys stand in a text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.runtime.repository.locations import ConfigFile, locate

TEXT = """# name: "not this one"
name: "a # no comment" 'and more'
input [
  { name: "x", dims: [ 1, -1 ] },
  { name: "y"; dims: 2 dims: 3 }
]
input < name: "z" reshape { shape: [ ] } >
parameters { key: "k" value: { string_value: "}" } }
max_batch_size: 4 dynamic_batching { }
"""


def test_keys_and_elements_are_found_by_path() -> None:
    file = ConfigFile("m/config.pbtxt", locate(TEXT))

    places = {
        "name": "2:1",
        "input": "4:3",
        "input[0]": "4:3",
        "input[0].dims": "4:24",
        "input[0].dims[1]": "4:27",
        "input[1].name": "5:5",
        "input[1].dims[1]": "5:24",
        "input[2].name": "7:9",
        "input[2].reshape": "7:19",
        "parameters.value.string_value": "8:32",
        "max_batch_size": "9:1",
        "dynamic_batching": "9:19",
    }
    assert {path: file.at(path) for path in places} == {path: f"m/config.pbtxt:{place}" for path, place in places.items()}


def test_what_is_not_written_is_where_its_surroundings_are() -> None:
    file = ConfigFile("m/config.pbtxt", locate(TEXT))

    assert file.at("dynamic_batching.preferred_batch_size[0]") == "m/config.pbtxt:9:19"
    assert file.at("output[0].dims") == "m/config.pbtxt"


@given(st.text("ab_:{}<>[],;\"'#\n -1\\") | st.text())
def test_no_text_makes_it_fail(text: str) -> None:
    lines = text.split("\n")

    assert all(1 <= found.line <= len(lines) and found.column >= 1 for found in locate(text).values())
