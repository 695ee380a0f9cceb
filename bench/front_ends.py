# SPDX-License-Identifier: Apache-2.0
"""The servers that http_servers.py compares, each around the same handler, in one process with one event loop (or its threads).

usage: front_ends.py NAME PORT      serves until it is ended
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import msgspec

HOST = "127.0.0.1"
PATH = "/v2/models/simple/infer"
SHAPE = [1, 16]
ANSWER = {
    "model_name": "simple", "model_version": "1",
    "outputs": [{"name": name, "datatype": "INT32", "shape": SHAPE} for name in ("OUTPUT0", "OUTPUT1")],
}  # fmt: skip
JSON = "application/json"
THREADS = 8


class FrontEnd(NamedTuple):
    """A server, what it needs, and what serves with it at a port."""

    name: str
    protocol: Literal["http", "grpc"]
    packages: tuple[str, ...]
    serve: Callable[[int], None]


def answer(body: bytes) -> bytes:
    """The handler: what every server does for a request."""
    document = msgspec.json.decode(body)
    if len(document["inputs"]) != 2:
        raise ValueError(document)
    return msgspec.json.encode(ANSWER)


# ---- aiohttp's low-level server ----------------------------------------------------------------------------------------------


def aiohttp(port: int) -> None:
    import uvloop
    from aiohttp import web

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=answer(await request.read()), content_type=JSON)

    async def run() -> None:
        runner = web.ServerRunner(web.Server(handle, access_log=None, handler_cancellation=True))
        await runner.setup()
        await web.TCPSite(runner, HOST, port, backlog=1024).start()
        await asyncio.Event().wait()

    uvloop.run(run())


# ---- ASGI --------------------------------------------------------------------------------------------------------------------

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """The handler as an ASGI application."""
    if scope["type"] != "http":  # lifespan: nothing to start
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    content = answer(body)
    headers = [(b"content-type", JSON.encode()), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def uvicorn(port: int) -> None:
    import uvicorn

    uvicorn.run(
        application,
        host=HOST,
        port=port,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )


def hypercorn(port: int) -> None:
    import uvloop
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"{HOST}:{port}"]
    config.keep_alive_max_requests = sys.maxsize  # else a connection ends after 1,000
    uvloop.run(serve(application, config))  # type: ignore[arg-type]


async def rsgi(_scope: Any, protocol: Any) -> None:
    """The handler as granian's own interface has it."""
    protocol.response_bytes(200, [("content-type", JSON)], answer(await protocol()))


def _granian(interface: str, target: str) -> Callable[[int], None]:
    def serve(port: int) -> None:
        from granian import Granian

        Granian(f"front_ends:{target}", address=HOST, port=port, interface=interface, loop="uvloop", log_enabled=False).serve()

    return serve


# ---- gRPC --------------------------------------------------------------------------------------------------------------------


def _inferred(request: Any) -> Any:
    from tritonclient.grpc import service_pb2

    if len(request.inputs) != 2:
        raise ValueError(request)
    response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    for name in ("OUTPUT0", "OUTPUT1"):
        response.outputs.add(name=name, datatype="INT32", shape=SHAPE)
        response.raw_output_contents.append(b"")
    return response


def grpc_aio(port: int) -> None:
    import grpc
    import uvloop
    from tritonclient.grpc import service_pb2_grpc

    class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
        async def ModelInfer(self, request: Any, _context: Any) -> Any:  # noqa: N802 - gRPC's name
            return _inferred(request)

    async def run() -> None:
        server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
        server.add_insecure_port(f"{HOST}:{port}")
        await server.start()
        await server.wait_for_termination()

    uvloop.run(run())


def grpc_threads(port: int) -> None:
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
        def ModelInfer(self, request: Any, _context: Any) -> Any:  # noqa: N802 - gRPC's name
            return _inferred(request)

    server = grpc.server(ThreadPoolExecutor(THREADS))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
    server.add_insecure_port(f"{HOST}:{port}")
    server.start()
    server.wait_for_termination()


GRPC = ("grpcio", "tritonclient", "uvloop")
FRONT_ENDS = (
    FrontEnd("aiohttp", "http", ("aiohttp", "uvloop"), aiohttp),
    FrontEnd("uvicorn", "http", ("uvicorn", "httptools", "uvloop"), uvicorn),
    FrontEnd("granian rsgi", "http", ("granian", "uvloop"), _granian("rsgi", "rsgi")),
    FrontEnd("granian asgi", "http", ("granian", "uvloop"), _granian("asgi", "application")),
    FrontEnd("hypercorn", "http", ("hypercorn", "uvloop"), hypercorn),
    FrontEnd("grpc.aio", "grpc", GRPC, grpc_aio),
    FrontEnd("grpc threads", "grpc", GRPC, grpc_threads),
)


def main() -> None:
    name, port = sys.argv[1], int(sys.argv[2])
    next(front_end for front_end in FRONT_ENDS if front_end.name == name).serve(port)


if __name__ == "__main__":
    main()
