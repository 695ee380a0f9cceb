# SPDX-License-Identifier: Apache-2.0
"""Servers that speak KServe v2 over gRPC. The only importer of grpc and of tritonclient.grpc.

tritonclient asks the server. Its async_infer builds the protobuf of a request anew each time it is sent; here each is built and
serialised once, from the same classes, and goes over a channel as the bytes that it is.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from typing import Any

from ....ipc.errors import BrokerError, Code, PenstockError
from ...cuda_regions import CudaRegion
from ...models import ModelInfo
from ...regions import Placed, Region, SystemRegion
from ..region_slots import encoded
from ..target import Target, TargetSpec
from .kserve import Document, error_of, version_text
from .kserve_target import KServeTarget
from .wire import Found, InputPart, OutputPart, Reply, lacking

try:
    import grpc
    from google.protobuf.message import DecodeError
    from tritonclient.grpc import InferenceServerClient, InferenceServerException, service_pb2
except (ImportError, RuntimeError) as error:
    raise lacking("grpc", error) from error

METHOD = "/inference.GRPCInferenceService/ModelInfer"
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
ANSWERS_WITHIN_S = 60.0
"""A server asked for a document; requests may take as long as they like."""
ALIVE_WITHIN_S = 2.0
MAX_IN_FLIGHT = 4096
"""Streams of one channel; grpc lets those that a server takes no more of wait."""


def open_kserve_grpc(spec: TargetSpec) -> Target:
    """A connection to the server at `spec.address`. Raises PenstockError."""
    return KServeTarget.open(spec, GrpcWire(spec.address), MAX_IN_FLIGHT)


class GrpcWire:
    """A server over gRPC."""

    def __init__(self, address: str) -> None:
        self.url = address.removeprefix("grpc://")
        self._client = InferenceServerClient(self.url)
        self._channel = grpc.insecure_channel(self.url, UNLIMITED)

    def __repr__(self) -> str:
        return f"<GrpcWire to {self.url}>"

    def check_invariants(self) -> None:
        """The server has an address."""
        assert self.url, self

    def server(self) -> Document:
        return self._ask(self._client.get_server_metadata)

    def metadata(self, model: str, version: int) -> Document:
        return self._ask(self._client.get_model_metadata, model, version_text(version))

    def configuration(self, model: str, version: int) -> Document:
        found: Document = self._ask(self._client.get_model_config, model, version_text(version))["config"]
        return found

    def statistics(self, model: str, version: int) -> Document:
        return self._ask(self._client.get_inference_statistics, model, version_text(version))

    def register(self, region: Region) -> None:
        """A SystemRegion or a CudaRegion, under its name."""
        if isinstance(region, SystemRegion):
            self._tell(self._client.register_system_shared_memory, region.name, f"/{region.key}", region.byte_size)
        elif isinstance(region, CudaRegion):
            handle = region.raw_handle()
            self._tell(self._client.register_cuda_shared_memory, region.name, handle, region.device, region.byte_size)

    def unregister(self, region: Region) -> None:
        if region.kind == "cuda":
            self._tell(self._client.unregister_cuda_shared_memory, region.name)
        else:
            self._tell(self._client.unregister_system_shared_memory, region.name)

    def message(self, model: ModelInfo, inputs: Sequence[InputPart], outputs: Sequence[OutputPart]) -> bytes:
        """The request as it goes over the link."""
        request = service_pb2.ModelInferRequest(model_name=model.name, model_version=version_text(model.asked_version))
        for part in inputs:
            tensor = request.inputs.add(name=part.spec.name, datatype=part.spec.datatype, shape=part.array.shape)
            if part.placed:
                _refer(tensor, part.placed)
            else:
                request.raw_input_contents.append(encoded(part.array))
        for output in outputs:
            tensor = request.outputs.add(name=output.name)
            if output.placed:
                _refer(tensor, output.placed)
        message: bytes = request.SerializeToString()
        return message

    def flights(self, at_once: int) -> GrpcFlights:  # noqa: ARG002 - one channel takes any number
        """Over the one channel."""
        return GrpcFlights(self.url, self._channel.unary_unary(METHOD), self.check_alive)

    def found(self, answer: bytes) -> list[Found]:
        """The outputs of an answer. Raises BrokerError for what is none."""
        try:
            response = service_pb2.ModelInferResponse.FromString(answer)
        except DecodeError as error:
            raise BrokerError(f"{self.url}: the answer makes no sense: {error}", Code.INTERNAL) from error
        contents = [*response.raw_output_contents, *[b""] * (len(response.outputs) - len(response.raw_output_contents))]
        return [
            Found(output.name, output.datatype, tuple(output.shape), content if content or 0 in output.shape else None)
            for output, content in zip(response.outputs, contents, strict=False)
        ]  # empty though it has elements: the output lies in a region (Triton 2.51 names none in its answers)

    def check_alive(self) -> None:
        """Raises BrokerError where there is nobody: an answer that says UNAVAILABLE may come from the server or from grpc."""
        try:
            self._client.is_server_live(client_timeout=ALIVE_WITHIN_S)
        except InferenceServerException as error:
            raise self._refused(error) from error

    def close(self) -> None:
        """Idempotent."""
        self._channel.close()
        self._client.close()

    def _ask(self, call: Callable[..., Any], *arguments: object) -> Document:
        found: Document = self._tell(call, *arguments, as_json=True)
        return found

    def _tell(self, call: Callable[..., Any], *arguments: object, **more: object) -> Any:
        try:
            return call(*arguments, client_timeout=ANSWERS_WITHIN_S, **more)
        except InferenceServerException as error:
            raise self._refused(error) from error

    def _refused(self, error: InferenceServerException) -> PenstockError:
        return error_of(error.status() or "INTERNAL", f"grpc://{self.url}: {error.message()}")


class GrpcFlights:
    """Requests on one channel. A thread of grpc's reads the answers, and writes down when."""

    def __init__(self, url: str, call: Any, check_alive: Callable[[], None]) -> None:
        self._url = url
        self._call = call
        self._check_alive = check_alive
        #: the calls in flight, to be cancelled where nobody waits for them any more
        self._calls: dict[int, Any] = {}
        #: (number, when its answer was read)
        self._answered: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()

    def __repr__(self) -> str:
        return f"<GrpcFlights to {self._url}: {len(self._calls)} in flight>"

    def check_invariants(self) -> None:
        """No more answers than calls."""
        assert self._answered.qsize() <= len(self._calls), self

    def send(self, requests: Sequence[tuple[int, bytes]]) -> None:
        """Hands them to grpc, which sends them from here."""
        for number, message in requests:
            call = self._call.future(message)
            self._calls[number] = call
            call.add_done_callback(lambda _, number=number: self._answered.put((number, time.monotonic_ns())))

    def take(self, timeout_s: float | None) -> list[Reply]:
        """What comes first, and all that is there by then. Raises BrokerError where the server is gone."""
        if timeout_s is None and not self._calls:
            return []
        try:
            found = [self._answered.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        found += [self._answered.get() for _ in range(self._answered.qsize())]
        replies = [self._reply(number, read_ns) for number, read_ns in found]
        if any(reply.error is not None and reply.error.code == Code.UNAVAILABLE for reply in replies):
            self._check_alive()
        return replies

    def close(self) -> None:
        """Cancels what is in flight. Idempotent."""
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()

    def _reply(self, number: int, read_ns: int) -> Reply:
        call = self._calls.pop(number)
        try:
            return Reply(number, read_ns, call.result())
        except grpc.RpcError as error:
            return Reply(number, read_ns, None, error_of(str(error.code()), error.details()))


def _refer(tensor: Any, placed: Placed) -> None:
    tensor.parameters["shared_memory_region"].string_param = placed.region.name
    tensor.parameters["shared_memory_byte_size"].int64_param = placed.byte_size
    if placed.offset:
        tensor.parameters["shared_memory_offset"].int64_param = placed.offset
