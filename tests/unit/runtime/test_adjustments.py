# SPDX-License-Identifier: Apache-2.0
"""Settings that gateways share: who may change them, who is told, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scripted import ScriptedBroker, link_of

from penstock.ipc.messages import Adjust, Adjusted, Answer, Failed, Query
from penstock.ipc.peers import Peer
from penstock.ipc.trace_settings import TraceSettings
from penstock.runtime.adjustments import remove_old_traces
from penstock.runtime.sessions import Session

TRACE: dict[str, Any] = {
    "trace_level": [], "trace_rate": 1000, "trace_count": -1, "log_frequency": 0, "trace_file": "/t", "trace_mode": "triton",
}  # fmt: skip


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    made = ScriptedBroker(trace=TraceSettings(trace_file="/t"))
    made.start()
    yield made
    made.core.check_invariants()
    made.end_sessions()


def gateway(broker: ScriptedBroker) -> Session:
    session = broker.client()
    told = say(broker, session, Query(1, "gateway"))
    assert [type(message) for message in told] == [Adjusted, Answer]  # in this order: it has them before it serves
    return session


def say(broker: ScriptedBroker, session: Session, message: Any) -> list[Any]:
    """What the broker answers."""
    broker.core.reception.receive(session, [message])
    broker.core.flush()
    return heard(session)


def heard(session: Session) -> list[Any]:
    """What the broker has said to it, as it arrives."""
    return [msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=type(sent)) for sent in link_of(session).take()]


def test_a_gateway_is_told_when_it_serves_and_of_every_change(broker: ScriptedBroker) -> None:
    # Given two gateways
    first, second = gateway(broker), gateway(broker)
    # When a client of one changes something
    told, answer = say(broker, first, Adjust(2, "log", values={"log_verbose_level": 1}))
    # Then both are told the same, before who asked has its answer
    (other,) = heard(second)
    assert told == other and told.log["log_verbose_level"] == 1
    assert answer == Answer(2, told.log)
    # And so is one that comes later
    third = broker.client()
    assert say(broker, third, Query(1, "gateway"))[0] == told


def test_asking_changes_nothing_and_nobody_is_told(broker: ScriptedBroker) -> None:
    first, second = gateway(broker), gateway(broker)
    assert say(broker, first, Adjust(2, "trace")) == [Answer(2, TRACE)]
    assert link_of(second).take() == []


def test_a_model_s_settings_are_told_by_its_name(broker: ScriptedBroker) -> None:
    session = gateway(broker)
    told, answer = say(broker, session, Adjust(2, "trace", "echo", {"trace_level": ["TIMESTAMPS"], "trace_rate": 2}))
    assert told.trace == {"": TRACE, "echo": {**TRACE, "trace_level": ["TIMESTAMPS"], "trace_rate": 2}}
    assert answer == Answer(2, told.trace["echo"])


@pytest.mark.parametrize(
    ("adjust", "text"),
    [
        (Adjust(2, "trace", "nix"), "Request for unknown model : nix"),
        (Adjust(2, "trace", values={"trace_rate": 0}), "Attempting to set invalid trace setting :sample rate must be non-zero"),
        (Adjust(2, "trace", values={"trace_rate": "1"}), "such settings cannot be: Expected `int | null`, got `str` - at `$.trace_rate`"),
        (Adjust(2, "trace", values={"trace_file": "x"}), "such settings cannot be: Object contains unknown field `trace_file`"),
        (Adjust(2, "log", values={"log_verbose_level": 2**32}), "such settings cannot be: Expected `int` <= 4294967295 - at `$.log_verbose_level`"),
        (Adjust(2, "log", values={"log_file": "x"}), "such settings cannot be: Object contains unknown field `log_file`"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_told_to_nobody(broker: ScriptedBroker, adjust: Adjust, text: str) -> None:
    first, second = gateway(broker), gateway(broker)
    assert say(broker, first, adjust) == [Failed("INVALID_ARG", text, "caller", 2)]
    assert link_of(second).take() == []


def test_only_the_broker_s_own_user_sees_or_changes_them(broker: ScriptedBroker) -> None:
    stranger = broker.client()
    stranger.peer = Peer(os.getpid(), os.geteuid() + 1, os.getegid(), None)
    (refused,) = say(broker, stranger, Adjust(2, "log"))
    assert (refused.code, refused.message) == (
        "UNSUPPORTED", f"only uid {os.geteuid()} may see and change the settings of this broker's gateways",
    )  # fmt: skip


def test_gateways_claim_traces_until_the_count_has_run_out_and_are_told(broker: ScriptedBroker) -> None:
    # Given two gateways, and one trace to be written
    first, second = gateway(broker), gateway(broker)
    say(broker, first, Adjust(2, "trace", values={"trace_level": ["TIMESTAMPS"], "trace_count": 1}))
    link_of(second).take()
    # When both have sampled a request
    told, granted = say(broker, first, Query(3, "trace_claim", "echo"))
    assert granted == Answer(3, {"id": 1, "part": -1})
    # Then the other is told that there is no more, and gets none
    (other,) = heard(second)
    assert other == told and told.trace[""]["trace_count"] == 0
    assert say(broker, second, Query(3, "trace_claim", "echo")) == [Answer(3, None)]


def test_who_is_no_gateway_claims_nothing(broker: ScriptedBroker) -> None:
    (refused,) = say(broker, broker.client(), Query(3, "trace_claim", "echo"))
    assert (refused.code, refused.message) == ("UNSUPPORTED", "only a gateway claims traces")


def test_what_an_earlier_broker_s_gateways_wrote_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("t.json", "t.json.0", "t.json.12", "t.json.old", "t.json.1x", "at.json.0", "t-json.0"):
        (tmp_path / name).touch()
    remove_old_traces(str(tmp_path / "t.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at.json.0", "t-json.0", "t.json.1x", "t.json.old"]
    remove_old_traces(str(tmp_path / "nowhere" / "t.json"))  # nothing there to be removed
