# SPDX-License-Identifier: Apache-2.0
"""Every public method of tritonclient's four clients, called on `penstock serve`: none of them is without a story here.

The methods are those that the installed tritonclient has: a release with another one fails until it has a story.
"""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
from gateways import key_of
from triton_libraries import LIBRARIES, Asked, Story, serving, tell
from tritonclient.utils import InferenceServerException, shared_memory

ANSWERED_S = 30.0
NO_HANDLE = base64.b64encode(bytes(64))


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with serving(tmp_path_factory.mktemp("penstock"), "simple") as found:
        yield found


def rows_of(document: Any) -> Any:
    """A list, which gRPC's documents have as their only field, and leave out where it is empty."""
    return document if isinstance(document, list) else next(iter(document.values()), [])


def settings_of(asked: Asked, document: Any) -> dict[str, Any]:
    """Settings as HTTP has them: gRPC's values say their type."""
    if asked.library.protocol == "http":
        return dict(document)
    return {name: next(iter(value.values()), None) for name, value in document["settings"].items()}


# ---- documents ---------------------------------------------------------------------------------------------------------------


async def is_server_live(asked: Asked) -> None:
    assert await asked("is_server_live") is True


async def is_server_ready(asked: Asked) -> None:
    assert await asked("is_server_ready") is True


async def is_model_ready(asked: Asked) -> None:
    assert await asked("is_model_ready", "simple") is True
    assert await asked("is_model_ready", "simple", "1") is True
    assert await asked("is_model_ready", "simple", "2") is False


async def get_server_metadata(asked: Asked) -> None:
    document = await asked("get_server_metadata")
    assert document["name"] == "triton"
    assert {"statistics", "system_shared_memory", "binary_tensor_data"} <= set(document["extensions"])


async def get_model_metadata(asked: Asked) -> None:
    document = await asked("get_model_metadata", "simple")
    assert (document["name"], document["versions"], document["platform"]) == ("simple", ["1"], "onnxruntime_onnx")
    described = [(row["name"], row["datatype"], [int(extent) for extent in row["shape"]]) for row in document["inputs"]]
    assert described == [("INPUT0", "INT32", [-1, 16]), ("INPUT1", "INT32", [-1, 16])]


async def get_model_config(asked: Asked) -> None:
    document = await asked("get_model_config", "simple")
    config = document.get("config", document)
    assert (config["name"], config["max_batch_size"], config["input"][0]["data_type"]) == ("simple", 8, "TYPE_INT32")


async def get_model_repository_index(asked: Asked) -> None:
    found = {row["name"]: row.get("state") for row in rows_of(await asked("get_model_repository_index"))}
    assert {"simple", "text", "failing"} <= found.keys()
    assert found["simple"] == "READY"


async def get_inference_statistics(asked: Asked) -> None:
    await asked("infer", "simple", asked.simple())
    document = await asked("get_inference_statistics", "simple")
    (row,) = document["model_stats"]
    assert (row["name"], row["version"]) == ("simple", "1")
    assert int(row["inference_stats"]["success"]["count"]) >= 1
    assert len((await asked("get_inference_statistics"))["model_stats"]) >= 4


# ---- models that come and go -------------------------------------------------------------------------------------------------


async def load_and_unload(asked: Asked) -> None:
    # Given a model that is unloaded
    await asked("unload_model", "identity_fp32")
    assert await asked("is_model_ready", "identity_fp32") is False
    # When it is loaded with another configuration
    config = {
        "backend": "identity", "max_batch_size": 3,
        "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
        "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
    }  # fmt: skip
    await asked("load_model", "identity_fp32", config=json.dumps(config))
    # Then it is that one; and loaded again it is the file's
    assert await asked("is_model_ready", "identity_fp32") is True
    document = await asked("get_model_config", "identity_fp32")
    assert document.get("config", document)["max_batch_size"] == 3
    await asked("load_model", "identity_fp32")
    document = await asked("get_model_config", "identity_fp32")
    assert document.get("config", document)["max_batch_size"] == 64


# ---- settings ----------------------------------------------------------------------------------------------------------------


async def log_settings(asked: Asked) -> None:
    before = settings_of(asked, await asked("get_log_settings"))
    assert before["log_info"] is True
    changed = settings_of(asked, await asked("update_log_settings", {"log_verbose_level": 1}))
    assert int(changed["log_verbose_level"]) == 1
    await asked("update_log_settings", {"log_verbose_level": int(before.get("log_verbose_level", 0))})
    assert settings_of(asked, await asked("get_log_settings")) == before


async def trace_settings(asked: Asked) -> None:
    before = settings_of(asked, await asked("get_trace_settings"))
    changed = settings_of(asked, await asked("update_trace_settings", model_name="simple", settings={"trace_rate": "7"}))
    assert changed["trace_rate"] in ("7", ["7"])
    await asked("update_trace_settings", model_name="simple", settings={"trace_rate": None})
    assert settings_of(asked, await asked("get_trace_settings", model_name="simple")) == before


# ---- regions -----------------------------------------------------------------------------------------------------------------


async def system_regions(asked: Asked) -> None:
    region = shared_memory.create_shared_memory_region("of_a_story", key_of("of_a_story"), 128)
    try:
        await asked("register_system_shared_memory", "of_a_story", key_of("of_a_story"), 64, offset=0)
        status = await asked("get_system_shared_memory_status")
        rows = status if asked.library.protocol == "http" else list(status["regions"].values())
        assert [(row["name"], row["key"], int(row["byte_size"])) for row in rows] == [("of_a_story", key_of("of_a_story"), 64)]
        await asked("unregister_system_shared_memory", "of_a_story")
        assert not rows_of(await asked("get_system_shared_memory_status"))
    finally:
        shared_memory.destroy_shared_memory_region(region)


async def cuda_regions(asked: Asked) -> None:
    # Given a handle that is none, with a GPU or without one
    with pytest.raises(InferenceServerException, match="failed to register"):
        await asked("register_cuda_shared_memory", "of_a_story", NO_HANDLE, 0, 64)
    assert not rows_of(await asked("get_cuda_shared_memory_status"))
    await asked("unregister_cuda_shared_memory")


# ---- requests ----------------------------------------------------------------------------------------------------------------


async def infer(asked: Asked) -> None:
    asked.check_simple(await asked("infer", "simple", asked.simple(), request_id="of a story"))


async def async_infer(asked: Asked) -> None:
    if asked.library.protocol == "http":
        requests = [await asked("async_infer", "simple", asked.simple(first)) for first in range(8)]
        results = [request.get_result() for request in requests]
    else:
        queue: Queue[Any] = Queue()
        for first in range(8):
            await asked("async_infer", "simple", asked.simple(first), _to(queue), request_id=str(first))
        found = [queue.get(timeout=ANSWERED_S) for _ in range(8)]
        assert [error for _, error in found if error] == []
        results = sorted((result for result, _ in found), key=lambda result: int(result.get_response().id))
    for first, result in enumerate(results):
        asked.check_simple(result, first)


def _to(queue: Queue[Any]) -> Any:
    """A callback that puts its result and its error there."""
    return lambda result, error: queue.put((result, error))


async def stream(asked: Asked) -> None:
    queue: Queue[Any] = Queue()
    await asked("start_stream", _to(queue))
    for first in range(8):
        await asked("async_stream_infer", "simple", asked.simple(first), request_id=str(first))
    found = [queue.get(timeout=ANSWERED_S) for _ in range(8)]
    await asked("stop_stream")
    for first, (result, error) in enumerate(found):  # in their order
        assert error is None
        assert result.get_response().id == str(first)
        asked.check_simple(result, first)


async def stream_infer(asked: Asked) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for first in range(8):
            yield {"model_name": "simple", "inputs": asked.simple(first), "request_id": str(first)}

    answers = await asked("stream_infer", requests())
    found = [await asyncio.wait_for(anext(answers), ANSWERED_S) for _ in range(8)]
    for first, (result, error) in enumerate(found):
        assert error is None
        asked.check_simple(result, first)


async def bodies(asked: Asked) -> None:
    # Given the body that the client would send
    body, json_size = await asked("generate_request_body", asked.simple(), outputs=[asked.output("OUTPUT0", binary_data=True)])
    headers = {} if json_size is None else {"Inference-Header-Content-Length": str(json_size)}
    # When another sends it
    request = urllib.request.Request(f"http://{asked.ports['http']}/v2/models/simple/infer", body, headers=headers)
    with await asyncio.to_thread(urllib.request.urlopen, request, timeout=ANSWERED_S) as answer:
        content, size = answer.read(), int(answer.headers["Inference-Header-Content-Length"])
    # Then the client reads the answer
    result = await asked("parse_response_body", content, header_length=size)
    assert np.array_equal(result.as_numpy("OUTPUT0").ravel(), np.arange(1, 17))


# ---- the client itself -------------------------------------------------------------------------------------------------------


async def plugins(asked: Asked) -> None:
    seen: list[Any] = []

    class Sees:
        def __call__(self, request: Any) -> None:
            request.headers["x-of-a-story"] = "yes"
            seen.append(request)

    added = Sees()
    await asked("register_plugin", added)
    assert await asked("plugin") is added
    assert await asked("is_server_live") is True
    assert len(seen) == 1
    await asked("unregister_plugin")
    assert await asked("plugin") is None


async def close(asked: Asked) -> None:
    assert await asked("is_server_live")
    await asked("close")


STORIES: dict[str, Story] = {
    "is_server_live": is_server_live, "is_server_ready": is_server_ready, "is_model_ready": is_model_ready,
    "get_server_metadata": get_server_metadata, "get_model_metadata": get_model_metadata,
    "get_model_config": get_model_config, "get_model_repository_index": get_model_repository_index,
    "get_inference_statistics": get_inference_statistics,
    "load_model": load_and_unload, "unload_model": load_and_unload,
    "get_log_settings": log_settings, "update_log_settings": log_settings,
    "get_trace_settings": trace_settings, "update_trace_settings": trace_settings,
    "register_system_shared_memory": system_regions, "unregister_system_shared_memory": system_regions,
    "get_system_shared_memory_status": system_regions,
    "register_cuda_shared_memory": cuda_regions, "unregister_cuda_shared_memory": cuda_regions,
    "get_cuda_shared_memory_status": cuda_regions,
    "infer": infer, "async_infer": async_infer, "start_stream": stream, "async_stream_infer": stream, "stop_stream": stream,
    "stream_infer": stream_infer, "generate_request_body": bodies, "parse_response_body": bodies,
    "plugin": plugins, "register_plugin": plugins, "unregister_plugin": plugins, "close": close,
}  # fmt: skip
"""Method -> the story that calls it."""

TOLD = [
    pytest.param(library, story, id=f"{library.name}-{story.__name__}")
    for library in LIBRARIES.values()
    for story in dict.fromkeys(STORIES[method] for method in library.methods if method in STORIES)
]


@pytest.mark.parametrize(("library", "story"), TOLD)
def test_a_client_is_answered_as_by_triton(ports: dict[str, str], library: Any, story: Story, tmp_path: Path) -> None:
    if story is load_and_unload:  # its models have new workers, which the other stories' server would keep
        with serving(tmp_path, "identity_fp32") as own:
            asked = tell(story, library, own)
    else:
        asked = tell(story, library, ports)
    # And the story calls every method that it is said to call
    assert {method for method in library.methods if STORIES.get(method) is story} <= set(asked.called)


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=list(LIBRARIES))
def test_no_method_of_a_client_is_without_a_story(library: Any) -> None:
    assert [method for method in library.methods if method not in STORIES] == []
