# SPDX-License-Identifier: Apache-2.0
"""What Triton's flags for gRPC stand for: the library's options, restricted methods, files of TLS."""

from __future__ import annotations

import pytest

from penstock.ipc.errors import BrokerError, CallerError
from penstock.runtime.gateway.over_grpc.restrictions import GROUPS, Restrictions
from penstock.runtime.gateway.over_grpc.schema import pb
from penstock.runtime.gateway.over_grpc.server import credentials_of, options_of
from penstock.runtime.gateway.settings import GatewaySettings


def test_every_flag_has_its_option() -> None:
    settings = GatewaySettings(
        grpc_keepalive_time_ms=1, grpc_keepalive_timeout_ms=2, grpc_keepalive_permit_without_calls=True,
        grpc_http2_max_pings_without_data=3, grpc_http2_min_recv_ping_interval_without_data_ms=4, grpc_http2_max_ping_strikes=5,
        grpc_max_connection_age_ms=6, grpc_max_connection_age_grace_ms=7,
    )  # fmt: skip

    assert dict(options_of(settings)) == {
        "grpc.max_receive_message_length": 2**31 - 1, "grpc.max_send_message_length": 2**31 - 1, "grpc.so_reuseport": 1,
        "grpc.keepalive_time_ms": 1, "grpc.keepalive_timeout_ms": 2, "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 3, "grpc.http2.min_ping_interval_without_data_ms": 4,
        "grpc.http2.max_ping_strikes": 5, "grpc.max_connection_age_ms": 6, "grpc.max_connection_age_grace_ms": 7,
    }  # fmt: skip


def test_connections_have_no_age_by_default() -> None:
    assert not [name for name, _ in options_of(GatewaySettings()) if name.startswith("grpc.max_connection_age")]


def test_every_method_belongs_to_one_group() -> None:
    methods = [method.name for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
    grouped = [name for names in GROUPS.values() for name in names]

    assert sorted(grouped) == sorted([*methods, "/grpc.health.v1.Health/Check"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["nix:a=b"], "unknown restricted protocol 'nix'"),
        (["trace:a=b", "health,trace:c=d"], "protocol 'trace' can not be specified in multiple config groups"),
        (
            ["trace:a"],
            "--grpc-restricted-protocol option format is '<protocol1>,<protocol2>,..:<restricted-key>=<restricted-value>'. Got trace:a",
        ),
    ],
)
def test_restrictions_that_cannot_be_are_refused(flags: list[str], said: str) -> None:
    with pytest.raises(CallerError) as caught:
        Restrictions(flags)
    assert caught.value.message == said


def test_files_that_are_not_there_are_named() -> None:
    assert credentials_of(GatewaySettings()) is None
    with pytest.raises(BrokerError, match="the file of the key cannot be read: 'nowhere/key': No such file"):
        credentials_of(GatewaySettings(grpc_use_ssl=True, grpc_server_key="nowhere/key", grpc_server_cert="nowhere/cert"))
