# SPDX-License-Identifier: Apache-2.0
"""The HTTP door of the test's KServe v2 server."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from kserve_models import HangUp, KServe, Placed, Refused, Tensor

LENGTH = "Inference-Header-Content-Length"


class Door(BaseHTTPRequestHandler):
    """A connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # what is written is sent when the request is done
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, call: Any) -> None:
        try:
            header, binary = call(*map(unquote, self.path.strip("/").split("/")))
            self._write(200, json.dumps(header).encode(), binary)
        except Refused as refused:
            self._write(refused.status, json.dumps({"error": str(refused)}).encode(), b"")
        except HangUp:
            self.close_connection = True

    def _write(self, status: int, header: bytes, binary: bytes) -> None:
        self.send_response(status)
        if self.server.kserve.faults.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(header) + len(binary)))
        if binary:
            self.send_header(LENGTH, str(len(header)))
        if self.server.kserve.faults.one_request:
            self.send_header("Connection", "close")
        self.end_headers()
        for part in (header, binary):
            if self.server.kserve.faults.chunked and part:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            elif part:
                self.wfile.write(part)
        if self.server.kserve.faults.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _get(self, _v2: str, *path: str) -> tuple[Any, bytes]:
        kserve = self.server.kserve
        match path:
            case ():
                return kserve.metadata(), b""
            case ("models", name) | ("models", name, "versions", "1"):
                return kserve.model(name), b""
            case ("models", name, "config") | ("models", name, "versions", "1", "config"):
                return kserve.configuration(name), b""
            case ("models", name, "versions", "1", "stats"):
                return kserve.statistics(name), b""
            case _:
                raise Refused(404, f"there is no {self.path}")

    def _post(self, _v2: str, *path: str) -> tuple[Any, bytes]:
        kserve, body = self.server.kserve, self.rfile.read(int(self.headers["Content-Length"]))
        match path:
            case ("models", name, "infer") | ("models", name, "versions", "1", "infer"):
                return self._infer(name, body)
            case ("systemsharedmemory", "region", name, "register"):
                asked = json.loads(body)
                kserve.register(name, asked["key"], asked["byte_size"])
            case ("cudasharedmemory", "region", name, "register"):
                kserve.register_cuda(name)
            case ("systemsharedmemory", "region", name, "unregister"):
                kserve.unregister(name)
            case _:
                raise Refused(404, f"there is no {self.path}")
        return {}, b""

    def _infer(self, model: str, body: bytes) -> tuple[Any, bytes]:
        end = int(self.headers.get(LENGTH, len(body)))
        asked = json.loads(body[:end])
        (given,), (wanted,) = asked["inputs"], asked["outputs"]
        tensor = Tensor(given["name"], given["datatype"], given["shape"], _placed(given) or body[end:])
        found = self.server.kserve.infer(model, tensor, _placed(wanted))
        output = {"name": found.name, "datatype": found.datatype, "shape": found.shape}
        content = found.content if isinstance(found.content, bytes) else b""
        if isinstance(found.content, bytes):
            output["parameters"] = {"binary_data_size": len(content)}
        return {"model_name": model, "model_version": "1", "outputs": [output]}, content


class Server(ThreadingHTTPServer):
    """All connections."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, kserve: KServe) -> None:
        super().__init__(("127.0.0.1", 0), Door)
        self.kserve = kserve

    def handle_error(self, *_: object) -> None:
        """Clients may go when they like."""


def _placed(tensor: dict[str, Any]) -> Placed | None:
    asked = tensor["parameters"]
    if "shared_memory_region" not in asked:
        return None
    return Placed(asked["shared_memory_region"], asked.get("shared_memory_offset", 0), asked["shared_memory_byte_size"])
