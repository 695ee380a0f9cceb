# SPDX-License-Identifier: Apache-2.0
"""The four clients of tritonclient, which stories are told of alike, and `penstock serve` with the models that they ask."""

from __future__ import annotations

import asyncio
import inspect
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gateways  # noqa: F401 - starts what tritonclient starts once, so that no test leaves it behind
import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from running import RunningBroker, add_model

SAMPLES = Path(__file__).resolve().parents[2] / "model_repository"
PROTOCOLS = ("http", "grpc")
TEXT = """
name: "text"
backend: "identity"
max_batch_size: 8
input [ { name: "INPUT0" data_type: TYPE_STRING dims: [ -1 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_STRING dims: [ -1 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""


class Library(NamedTuple):
    """One of the four."""

    name: str
    module: Any
    protocol: str
    is_async: bool

    @property
    def methods(self) -> list[str]:
        """The public ones of its client."""
        found = vars(self.module.InferenceServerClient) | vars(self.module.InferenceServerClient.__mro__[1])
        return sorted(name for name in found if not name.startswith("_"))


LIBRARIES = {
    library.name: library
    for library in (
        Library("http", tritonclient.http, "http", False),
        Library("http.aio", tritonclient.http.aio, "http", True),
        Library("grpc", tritonclient.grpc, "grpc", False),
        Library("grpc.aio", tritonclient.grpc.aio, "grpc", True),
    )
}


class Asked:
    """A client of one of the libraries, whose methods are awaited whether they are coroutines or not."""

    def __init__(self, library: Library, client: Any, ports: Mapping[str, str]) -> None:
        self.library = library
        self.client = client
        self.ports = ports
        self.called: list[str] = []

    async def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What the method returns. Messages of gRPC as documents, where the method can."""
        self.called.append(method)
        function = getattr(self.client, method)
        if self.library.protocol == "grpc" and "as_json" in inspect.signature(function).parameters:
            options["as_json"] = True
        found = function(*arguments, **options)
        return await found if inspect.isawaitable(found) else found

    def input(self, name: str, values: Any, datatype: str, **options: Any) -> Any:
        """An input with its values."""
        given = self.library.module.InferInput(name, list(values.shape), datatype)
        if self.library.protocol == "grpc":
            options.pop("binary_data", None)
        given.set_data_from_numpy(values, **options)
        return given

    def output(self, name: str, **options: Any) -> Any:
        """An output that is asked for."""
        if self.library.protocol == "grpc":
            options.pop("binary_data", None)
        return self.library.module.InferRequestedOutput(name, **options)

    def simple(self, first: int = 0, **options: Any) -> list[Any]:
        """The inputs of `simple`: first, first + 1, ..., and ones."""
        return [
            self.input("INPUT0", np.arange(first, first + 16, dtype=np.int32).reshape(1, 16), "INT32", **options),
            self.input("INPUT1", np.ones((1, 16), np.int32), "INT32", **options),
        ]

    @staticmethod
    def check_simple(result: Any, first: int = 0) -> None:
        """Its sums and its differences."""
        numbers = np.arange(first, first + 16, dtype=np.int32).reshape(1, 16)
        assert np.array_equal(result.as_numpy("OUTPUT0"), numbers + 1)
        assert np.array_equal(result.as_numpy("OUTPUT1"), numbers - 1)


Story = Callable[[Asked], Awaitable[None]]


def tell(story: Story, library: Library, ports: Mapping[str, str], **options: Any) -> Asked:
    """Runs a story with a client of its own, made with these options."""

    async def told() -> Asked:
        client = library.module.InferenceServerClient(ports[library.protocol], **options)
        asked = Asked(library, client, ports)
        try:
            await story(asked)
        finally:
            closed = client.close()
            if closed is not None:
                await closed
        return asked

    return asyncio.run(told())


@contextmanager
def serving(folder: Path, *names: str) -> Iterator[dict[str, str]]:
    """`penstock serve` with both ports: protocol -> HOST:PORT. Its log and its traces are in the folder.

    Models: these samples; `text` gives back strings, `unbatched` has no batch dimension, `failing` fails.
    """
    repository = folder / "models"
    for name in names:
        shutil.copytree(SAMPLES / name, repository / name)
    add_model(repository, "unbatched", max_batch_size=0, width=16)
    add_model(repository, "failing", mode="failing", message="this model fails")
    (repository / "text" / "1").mkdir(parents=True)
    (repository / "text" / "config.pbtxt").write_text(TEXT)
    options = ("--http-port", "0", "--grpc-port", "0", "--trace-file", str(folder / "traces.json"))
    with RunningBroker(folder, repository, *options) as broker:
        yield {protocol: broker.said[protocol] for protocol in PROTOCOLS}
