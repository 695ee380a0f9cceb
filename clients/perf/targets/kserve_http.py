# SPDX-License-Identifier: Apache-2.0
"""Servers that speak KServe v2 over HTTP. The only importer of tritonclient.http, which asks them.

Inference requests are built here once (tritonclient takes BF16 from some arrays in one release and from others in the next) and
sent by http_flights.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np

from ....ipc.errors import BrokerError, Code, PenstockError, invalid
from ....ipc.tensors import numpy_dtype, serialize_bytes
from ...cuda_regions import CudaRegion
from ...models import ModelInfo
from ...regions import Placed, Region, SystemRegion
from ..region_slots import encoded
from ..target import Target, TargetSpec
from .http_answers import HttpAnswer, HTTPParseError
from .http_flights import CONNECT_S, HttpFlights
from .kserve import PORTS, Document, error_of, version_text
from .kserve_target import KServeTarget
from .wire import Found, InputPart, OutputPart, lacking

try:
    from tritonclient.http import InferenceServerClient, InferenceServerException
except (ImportError, RuntimeError) as error:
    raise lacking("http", error) from error

T = TypeVar("T")

MAX_IN_FLIGHT = 512
"""Connections, each with a descriptor of this process: half of what a process is commonly allowed."""


def open_kserve_http(spec: TargetSpec) -> Target:
    """A connection to the server at `spec.address`. Raises PenstockError."""
    return KServeTarget.open(spec, HttpWire(spec.address), MAX_IN_FLIGHT)


class HttpWire:
    """A server over HTTP."""

    def __init__(self, address: str) -> None:
        try:
            parts = urlsplit(address if "//" in address else f"//{address}")
            host, port = parts.hostname, parts.port or PORTS["http"]
        except ValueError as error:
            raise invalid(f"--url {address}: {error}") from None
        if parts.scheme not in ("", "http") or not host:
            raise invalid(
                f"--url {address}: expected HOST:PORT, as localhost:{PORTS['http']}; HTTP is all that is spoken there"
            )
        self._address = host, port
        self._path = parts.path.rstrip("/")
        self.url = f"{f'[{host}]' if ':' in host else host}:{port}{self._path}"
        self._client = InferenceServerClient(self.url, connection_timeout=CONNECT_S)

    def __repr__(self) -> str:
        return f"<HttpWire to {self.url}>"

    def check_invariants(self) -> None:
        """The server has an address."""
        assert all(self._address), self

    def server(self) -> Document:
        return self._ask(self._client.get_server_metadata)

    def metadata(self, model: str, version: int) -> Document:
        return self._ask(self._client.get_model_metadata, model, version_text(version))

    def configuration(self, model: str, version: int) -> Document:
        return self._ask(self._client.get_model_config, model, version_text(version))

    def statistics(self, model: str, version: int) -> Document:
        return self._ask(self._client.get_inference_statistics, model, version_text(version))

    def register(self, region: Region) -> None:
        """A SystemRegion or a CudaRegion, under its name."""
        if isinstance(region, SystemRegion):
            self._ask(self._client.register_system_shared_memory, region.name, f"/{region.key}", region.byte_size)
        elif isinstance(region, CudaRegion):
            handle = region.raw_handle()
            self._ask(self._client.register_cuda_shared_memory, region.name, handle, region.device, region.byte_size)

    def unregister(self, region: Region) -> None:
        if region.kind == "cuda":
            self._ask(self._client.unregister_cuda_shared_memory, region.name)
        else:
            self._ask(self._client.unregister_system_shared_memory, region.name)

    def message(self, model: ModelInfo, inputs: Sequence[InputPart], outputs: Sequence[OutputPart]) -> bytes:
        """The request as it goes over the link."""
        contents = [b"" if part.placed else encoded(part.array) for part in inputs]
        header = msgspec.json.encode(
            {
                "inputs": [_input(part, content) for part, content in zip(inputs, contents, strict=True)],
                "outputs": [
                    {"name": part.name, "parameters": _place(part.placed) or {"binary_data": True}} for part in outputs
                ],
            }
        )
        body = b"".join([header, *contents])
        version = f"/versions/{model.asked_version}" if model.asked_version > 0 else ""
        head = [
            f"POST {self._path}/v2/models/{quote(model.name)}{version}/infer HTTP/1.1",
            f"Host: {self.url.split('/')[0]}",
            "Content-Type: application/octet-stream",
            f"Inference-Header-Content-Length: {len(header)}",
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join([*head, "", ""]).encode() + body

    def flights(self, at_once: int) -> HttpFlights:
        """With so many connections."""
        flights = HttpFlights(self.url, self._address)
        try:
            flights.open(at_once)
        except BaseException:
            flights.close()
            raise
        return flights

    def found(self, answer: HttpAnswer) -> list[Found]:
        """The outputs of an answer. Raises PenstockError where the server refused the request."""
        if answer.status_code != 200:
            raise error_of(answer.status_code, f"http://{self.url}: {_reason(answer)}")
        content = memoryview(answer.body)
        try:
            length = answer.get("Inference-Header-Content-Length")
            end = len(content) if length is None else int(str(length))
            outputs, found = _decoder.decode(content[:end]).outputs, []
            for output in outputs:
                size = output.parameters.binary_data_size
                if size is None and output.data is None:
                    found.append(Found(output.name, output.datatype, output.shape, None))
                    continue
                data = _encoded(output) if size is None else content[end : end + size]
                end += size or 0
                found.append(Found(output.name, output.datatype, output.shape, data))
        except (msgspec.MsgspecError, ValueError, TypeError, OverflowError) as error:
            raise BrokerError(f"http://{self.url}: the answer makes no sense: {error}", Code.INTERNAL) from error
        return found

    def close(self) -> None:
        """Idempotent."""
        self._client.close()

    def _ask(self, call: Callable[..., T], *arguments: object) -> T:
        try:
            return call(*arguments)
        except InferenceServerException as error:
            raise self._refused(error) from error
        except (OSError, HTTPParseError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise BrokerError(f"http://{self.url} cannot be reached: {reason}") from error

    def _refused(self, error: InferenceServerException) -> PenstockError:
        return error_of(error.status() or 500, f"http://{self.url}: {error.message()}")


# --- the JSON of answers --------------------------------------------------------------------------------------------------


class _Parameters(msgspec.Struct):
    binary_data_size: int | None = None


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)
    data: list[Any] | None = None


class _Outputs(msgspec.Struct):
    outputs: list[_Output] = []


_decoder = msgspec.json.Decoder(_Outputs)


def _encoded(output: _Output) -> bytes:
    """Values that came as JSON though binary ones were asked for, as they lie in memory."""
    flat = np.ravel(np.array(output.data, object)).tolist()
    return serialize_bytes(flat) if output.datatype == "BYTES" else np.array(flat, numpy_dtype(output.datatype)).tobytes()


def _reason(answer: HttpAnswer) -> str:
    """The `error` of the answer's body; its beginning, where that is something else."""
    try:
        return str(msgspec.json.decode(answer.body)["error"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return bytes(answer.body[:200]).decode(errors="replace") or f"HTTP status {answer.status_code}"


def _input(part: InputPart, content: bytes) -> dict[str, Any]:
    parameters = _place(part.placed) or {"binary_data_size": len(content)}
    return {"name": part.spec.name, "shape": part.array.shape, "datatype": part.spec.datatype, "parameters": parameters}


def _place(placed: Placed | None) -> dict[str, Any]:
    if placed is None:
        return {}
    found = {"shared_memory_region": placed.region.name, "shared_memory_byte_size": placed.byte_size}
    return found | ({"shared_memory_offset": placed.offset} if placed.offset else {})
