# SPDX-License-Identifier: Apache-2.0
"""What is not implemented is refused by name, with its place; what asks for nothing is not."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from texts import IDENTITY, complaint, parsed

from penstock.ipc.errors import Code
from penstock.runtime.repository import schema
from penstock.runtime.repository.fields import RULES, supported_fields

REFUSED = [path for path, status, _ in supported_fields() if status == "refused"]


def text_that_sets(path: str) -> str:
    """A text with just this key, not at its default. The test's own way through protobuf's reflection."""
    message = schema.empty_config()
    target: Any = message
    *outer, last = path.split(".")
    for name in outer:
        target = _entered(target, name)
    field = target.DESCRIPTOR.fields_by_name[last]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _set_entry(getattr(target, last), field.message_type)
    elif field.message_type is not None:
        inner = getattr(target, last)
        inner.add() if hasattr(inner, "add") else inner.SetInParent()
    elif hasattr(getattr(target, last), "append"):
        getattr(target, last).append(_value(field))
    else:
        setattr(target, last, _value(field))
    return str(text_format.MessageToString(message))


def _entered(message: Any, name: str) -> Any:
    inner = getattr(message, name)
    return inner.add() if hasattr(inner, "add") else inner


def _set_entry(entries: Any, entry: Any) -> None:
    key = _value(entry.fields_by_name["key"])
    if entry.fields_by_name["value"].message_type is not None:
        entries[key].SetInParent()
    else:
        entries[key] = _value(entry.fields_by_name["value"])


def _value(field: Any) -> Any:
    kinds = {field.CPPTYPE_STRING: "v", field.CPPTYPE_BOOL: True, field.CPPTYPE_DOUBLE: 1.5, field.CPPTYPE_FLOAT: 1.5}
    return kinds.get(field.cpp_type, 1)


@pytest.mark.parametrize("path", REFUSED)
def test_a_key_that_is_not_implemented_is_refused_by_name_and_place(path: str) -> None:
    text = IDENTITY + text_that_sets(path)
    key = path.rpartition(".")[2]
    line = next(number for number, row in enumerate(text.split("\n"), 1) if number > 3 and row.strip().startswith(key))

    said = complaint(text, Code.UNSUPPORTED)

    where, _, what = said.partition(": ")
    assert where.startswith(f"m/config.pbtxt:{line}:")
    named, _, reason = what.partition(" is not implemented in this release: ")
    assert named.replace("[0]", "").replace("[1]", "") == path
    assert reason


def test_what_the_issue_names_is_refused() -> None:
    assert set(REFUSED) >= {
        "sequence_batching", "ensemble_scheduling", "runtime",
        "instance_group.secondary_devices", "instance_group.passive",
        "model_transaction_policy.decoupled", "model_metrics.metric_control", "cc_model_filenames",
    }  # fmt: skip


def test_a_key_that_this_release_has_never_heard_of_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a schema with a key that the table does not have
    monkeypatch.delitem(RULES, "dynamic_batching.max_queue_delay_microseconds")

    said = complaint(IDENTITY + "dynamic_batching { max_queue_delay_microseconds: 5 }", Code.UNSUPPORTED)

    assert said == (
        "m/config.pbtxt:4:20: dynamic_batching.max_queue_delay_microseconds is not implemented in this release: "
        "a key that this release does not know"
    )
    assert (
        "dynamic_batching.max_queue_delay_microseconds",
        "refused",
        "a key that this release does not know",
    ) in supported_fields()


@pytest.mark.parametrize(
    "harmless",
    [
        "model_transaction_policy { decoupled: false }",
        "response_cache { enable: false }",
        "response_cache { }",
        "model_repository_agents { agents: [ ] }",
        "model_warmup [ ]",
        "instance_group { rate_limiter { } passive: false gpus: [ ] host_policy: \"\" }",
        "dynamic_batching { preserve_ordering: false priority_levels: 0 default_queue_policy { timeout_action: REJECT } }",
        "optimization { cuda { graphs: false } graph { level: 0 } execution_accelerators { } }",
        "optimization { priority: PRIORITY_MAX eager_batching: true gather_kernel_buffer_threshold: 7 }",
        "optimization { input_pinned_memory { enable: false } output_pinned_memory { enable: true } }",
        "runtime: \"\"",
    ],
)  # fmt: skip
def test_defaults_and_hints_pass(harmless: str) -> None:
    assert parsed(IDENTITY + harmless).name == "m"


def test_all_that_is_refused_is_told_at_once() -> None:
    said = complaint('backend: "identity"\ncc_model_filenames { key: "a" value: "b" }\nsequence_batching { }', Code.UNSUPPORTED)

    assert sorted(line.split(" ")[0] for line in said.split("\n")) == ["m/config.pbtxt:2:1:", "m/config.pbtxt:3:1:"]


def test_a_number_that_an_enum_does_not_have_is_refused() -> None:
    said = complaint('backend: "identity"\ninput { name: "x" data_type: 77 dims: 1 }', Code.UNSUPPORTED)

    assert said == "m/config.pbtxt:2:19: input[0].data_type: 77 is not a value of this key; write its name"


def test_the_table_of_the_documentation() -> None:
    rows = {path: (status, note) for path, status, note in supported_fields()}

    assert rows["max_batch_size"][0] == "implemented"
    assert rows["optimization.eager_batching"][0] == "accepted as a hint"
    assert rows["response_cache"][0] == "see its keys"
    assert all(note for status, note in rows.values() if status in ("refused", "accepted as a hint"))
    # What is inside a refused key is not listed
    assert not [path for path in rows if path.startswith(("sequence_batching.", "ensemble_scheduling."))]
