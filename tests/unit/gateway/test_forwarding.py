# SPDX-License-Identifier: Apache-2.0
"""Which headers, and which metadata of gRPC, become parameters of a request."""

from __future__ import annotations

import pytest

from penstock.ipc.errors import CallerError
from penstock.runtime.gateway.forwarding import HeaderForwarding

HEADERS = (("My-Header", "1"), ("my-other", "2"), ("Accept", "3"))


def forwarding(pattern: str) -> HeaderForwarding:
    return HeaderForwarding(pattern, "--http-header-forward-pattern")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", {}),
        ("my-.*", {"My-Header": "1", "my-other": "2"}),
        ("(?-i)my-.*", {"my-other": "2"}),
        ("y-o", {"my-other": "2"}),  # a part of the name is enough, as in Triton
        ("^y-o", {}),
        ("my-other|accept", {"my-other": "2", "Accept": "3"}),
    ],
)
def test_headers_whose_names_have_the_pattern_are_forwarded(pattern: str, found: dict[str, str]) -> None:
    assert forwarding(pattern).parameters(HEADERS) == found
    assert forwarding(pattern).is_wanted == bool(pattern)


def test_of_headers_of_one_name_the_last_is_forwarded() -> None:
    assert forwarding("a").parameters((("a", "1"), ("a", "2"))) == {"a": "2"}


@pytest.mark.parametrize(
    "name",
    [
        "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers", "binary_data_output", "triton_x",
        "Timeout",
    ],
)  # fmt: skip
def test_reserved_names_are_not_forwarded(name: str) -> None:
    with pytest.raises(CallerError, match=f"Header '{name}' is reserved for Triton usage and cannot be forwarded."):
        forwarding(".*").parameters([(name, "1")])
    assert forwarding("my-.*").parameters([(name, "1")]) == {}


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(CallerError, match=r"--http-header-forward-pattern '\(' is no regular expression"):
        forwarding("(")
