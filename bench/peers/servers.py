# SPDX-License-Identifier: Apache-2.0
"""The servers side by side, each started as its user would start it, and ended with the block that started it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import server as own

from penstock.clients import Client

from .environments import CACHE, MOSEC, TritonFiles, UnavailableError, mosec_environment, server_environment
from .processes import free_ports, running, tree_cpu_ns, wait_until
from .repositories import repository, row

HOST = "127.0.0.1"
START_S = 180.0
ANSWER_S = 30.0
SHARED_MEMORY = Path("/dev/shm")
CACHED_LOGS = CACHE / "logs"
TRITON_MEMORY_BYTES = 256 << 20
"""The Python backend's own shared memory from the start, so that no measurement contains its growing."""
MOSEC_PROGRAM = Path(__file__).resolve().with_name("mosec_server.py")


@dataclass(frozen=True)
class Served:
    """A server that is ready: its processes, and for each link the address that a client is given."""

    name: str
    version: str
    pid: int
    addresses: Mapping[str, str]

    def cpu_ns(self) -> dict[int, int]:
        return tree_cpu_ns(self.pid)


@contextmanager
def triton(logs: Path, instances: int = 1, models: Path | None = None) -> Iterator[Served]:
    """The tritonserver of the wheel with a repository, which is that of repositories.py. Raises UnavailableError."""
    files = TritonFiles(server_environment())
    if not files.stub.is_file():
        raise UnavailableError("Triton is not built: run bench/peers/build.py")
    http, grpc = free_ports(2)
    prefix = f"penstock_peers_{http}_"
    command = [
        str(files.program), f"--model-repository={models or repository('triton', instances)}",
        f"--backend-directory={files.backends}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        f"--backend-config=python,shm-default-byte-size={TRITON_MEMORY_BYTES}",
        f"--http-address={HOST}", f"--http-port={http}", f"--grpc-address={HOST}", f"--grpc-port={grpc}",
        "--allow-metrics=false",
    ]  # fmt: skip
    log = logs / "triton.log"
    try:
        with running(command, log, files.variables()) as process:
            wait_until(partial(answers, f"http://{HOST}:{http}/v2/health/ready"), process, log, START_S)
            said = json.loads(fetched(f"http://{HOST}:{http}/v2"))
            yield Served("triton", said["version"], process.pid, {"http": f"{HOST}:{http}", "grpc": f"{HOST}:{grpc}"})
    finally:
        for left in SHARED_MEMORY.glob(f"{prefix}*"):  # of a server that had to be killed
            left.unlink(missing_ok=True)


@contextmanager
def penstock(
    logs: Path,  # noqa: ARG001 - the bench's server keeps its own log
    instances: int = 1,
    models: Path | None = None,
    gateways: int = 1,
) -> Iterator[Served]:
    """A broker with a repository, which is that of repositories.py, on both links, and with so many gateway processes."""
    http, grpc = free_ports(2)
    options = ("--http-port", str(http), "--grpc-port", str(grpc), "--gateway-processes", str(gateways))
    with own.serving(models or repository("penstock", instances), *options) as broker:
        ports = {"http": f"{HOST}:{http}", "grpc": f"{HOST}:{grpc}"}
        yield Served("penstock", version("penstock"), broker.pid, {**broker.links, **ports})


@contextmanager
def mosec(logs: Path, instances: int = 1) -> Iterator[Served]:
    """An identity worker behind mosec's HTTP server. Raises UnavailableError."""
    environment = mosec_environment()
    if not environment.stamp.exists():
        raise UnavailableError("mosec is not built: run bench/peers/build.py")
    (port,) = free_ports(1)
    command = [str(environment.python), str(MOSEC_PROGRAM), "--address", HOST, "--port", str(port), "--log-level", "warning"]
    log = logs / "mosec.log"
    variables = {"PATH": f"{environment.folder / 'bin'}:/usr/bin:/bin", "PEERS_INSTANCES": str(instances)}
    with running(command, log, variables) as process:
        wait_until(partial(answers, f"http://{HOST}:{port}/inference", row()), process, log, START_S)
        yield Served("mosec", MOSEC.partition("==")[2], process.pid, {"http": f"{HOST}:{port}"})


SERVERS: Mapping[str, Callable[[Path, int], AbstractContextManager[Served]]] = {
    "penstock": penstock, "triton": triton, "mosec": mosec,
}  # fmt: skip


def fetched(url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    """Raises OSError where nobody answers, UnavailableError with the server's words where it refuses."""
    request = urllib.request.Request(url, body, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            content: bytes = answer.read()
    except urllib.error.HTTPError as error:
        raise UnavailableError(f"{url} answered {error.code}: {error.read().decode(errors='replace')}") from None
    return content


def answers(url: str, body: bytes | None = None) -> bool:
    try:
        fetched(url, body)
    except (OSError, UnavailableError):
        return False
    return True


def triton_scores(address: str, model: str, image: bytes) -> list[float]:
    """What a model answers to one image, over Triton's HTTP."""
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 3, 224, 224], "parameters": {"binary_data_size": len(image)}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": False}}).encode()
    answer = fetched(
        f"http://{address}/v2/models/{model}/infer", header + image, {"Inference-Header-Content-Length": str(len(header))}
    )
    numbers: list[float] = json.loads(answer)["outputs"][0]["data"]
    return numbers


def penstock_scores(address: str, model: str, image: npt.NDArray[np.float32]) -> list[float]:
    with Client(address) as client:
        return [float(number) for number in client.infer(model, {"image": image}).outputs["scores"].ravel()]


def mosec_scores(address: str) -> list[float]:
    return [float(number) for number in np.frombuffer(fetched(f"http://{address}/inference", row()), np.float32)]
