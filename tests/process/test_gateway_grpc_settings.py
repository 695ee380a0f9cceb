# SPDX-License-Identifier: Apache-2.0
"""Triton's flags for its gRPC server, with effect: TLS, restricted methods, forwarded metadata, compressed responses."""

from __future__ import annotations

import datetime
import select
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gateways import RunningGateway
from running import RunningBroker, add_model
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

KEY = {"triton-grpc-protocol-inside": "yes"}


class Certificate(NamedTuple):
    """One that vouches for itself, in PEM files."""

    certificate: Path
    key: Path


def certified(folder: Path, name: str) -> Certificate:
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    folder = tmp_path_factory.mktemp("run")
    add_model(folder / "models", "echo")
    add_model(folder / "models", "zeros", max_batch_size=0, width=1 << 16)
    with RunningBroker(folder, folder / "models") as broker:
        yield broker


def served(folder: Path, broker: RunningBroker, *options: str) -> RunningGateway:
    return RunningGateway(folder, broker.addresses["local"], *options)


def rows() -> list[Any]:
    given = triton.InferInput("x", [1, 2], "FP32")
    given.set_data_from_numpy(np.array([[1, -1]], np.float32))
    return [given]


def test_clients_with_the_right_certificate_are_served(tmp_path: Path, broker: RunningBroker) -> None:
    server, client, stranger = (certified(tmp_path, name) for name in ("server", "client", "stranger"))
    with served(
        tmp_path, broker, "--grpc-use-ssl-mutual", "--grpc-server-cert", str(server.certificate), "--grpc-server-key",
        str(server.key), "--grpc-root-cert", str(client.certificate),
    ) as gateway:  # fmt: skip

        def value(who: Certificate) -> float:
            with triton.InferenceServerClient(
                gateway.grpc, ssl=True, root_certificates=str(server.certificate), private_key=str(who.key),
                certificate_chain=str(who.certificate),
            ) as connected:  # fmt: skip
                return float(connected.infer("echo", rows()).as_numpy("y")[0, 0])

        assert value(client) == 1
        with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            value(stranger)
        with (
            triton.InferenceServerClient(gateway.grpc) as plain,
            pytest.raises(InferenceServerException, match="UNAVAILABLE"),
        ):
            plain.is_server_live()


def test_methods_that_need_a_key_are_refused_without_it(tmp_path: Path, broker: RunningBroker) -> None:
    with (
        served(
            tmp_path,
            broker,
            "--grpc-restricted-protocol",
            "inference,health:inside=yes",
            "--grpc-header-forward-pattern",
            "^x-|time",
        ) as gateway,
        triton.InferenceServerClient(gateway.grpc) as client,
        grpc.insecure_channel(gateway.grpc) as channel,
    ):
        refusal = "This protocol is restricted, expecting header 'triton-grpc-protocol-inside'"
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for refused in (
            lambda: stub.ModelInfer(pb.ModelInferRequest()),
            lambda: stub.ModelInfer(pb.ModelInferRequest(), metadata=[("triton-grpc-protocol-inside", "no")]),
            lambda: next(stub.ModelStreamInfer(iter(()))),
            lambda: channel.unary_unary("/grpc.health.v1.Health/Check")(b""),
        ):
            with pytest.raises(grpc.RpcError) as error:
                refused()
            assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNAVAILABLE, refusal)
        # With the key, and where none is needed, all is as ever; metadata may become parameters, but not of any name
        assert client.get_server_metadata().name == "triton"
        assert client.infer("echo", rows(), headers={**KEY, "x-mine": "1"}).as_numpy("y")[0, 0] == 1
        with pytest.raises(InferenceServerException, match="Header 'timeout' is reserved for Triton usage"):
            client.infer("echo", rows(), headers={**KEY, "timeout": "1"})


class Wire:
    """Between a client and a server, for one connection: counts what the server sends."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._upstream = socket.create_connection((host, int(port)))
        self._thread = threading.Thread(target=self._carry)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0

    def __enter__(self) -> Wire:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    def _carry(self) -> None:
        downstream, _ = self._listener.accept()
        with downstream, self._upstream:
            while True:
                readable, _, _ = select.select([downstream, self._upstream], [], [])
                for end, other in ((downstream, self._upstream), (self._upstream, downstream)):
                    if end in readable:
                        content = end.recv(1 << 16)
                        if not content:
                            return
                        other.sendall(content)
                        self.sent += len(content) if end is self._upstream else 0


@pytest.mark.parametrize(("level", "is_small"), [("none", False), ("high", True)])
def test_responses_are_compressed_where_that_is_asked_for(
    tmp_path: Path, broker: RunningBroker, level: str, is_small: bool
) -> None:
    asked = pb.ModelInferRequest(model_name="zeros", raw_input_contents=[bytes(4 << 16)])
    asked.inputs.add(name="x", datatype="FP32", shape=[1 << 16])
    with (
        served(tmp_path, broker, "--grpc-infer-response-compression-level", level) as gateway,
        Wire(gateway.grpc) as wire,
        grpc.insecure_channel(wire.address) as channel,
    ):
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(asked)

    assert list(answer.raw_output_contents) == [bytes(4 << 16)]
    assert (wire.sent < 1 << 16) == is_small, wire.sent
