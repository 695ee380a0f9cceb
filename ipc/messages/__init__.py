# SPDX-License-Identifier: Apache-2.0
"""Every message of the protocol, a module per sender. This folder is the specification; docs/protocol.md explains it.

A frame is a MessagePack array of messages; a message is a map with string keys whose `type` names it (the lower-case class
name, `Infer` is "infer"). Fields that hold their default are left out. Unknown fields are an error. Times are relative
(`_us`), except those between broker and worker on one machine, which are CLOCK_MONOTONIC nanoseconds (`_ns`).

Payload never travels in a message. A tensor lies in a region (name, offset, byte size), in descriptors that travel beside the
frame on the local link (a message says how many it brings: `fds`), or, over ZeroMQ only, in further message parts (`parts`);
both queue in order of arrival and are popped by that count.

Between broker and worker, names are replaced by positions: tensors are in the order of the model's configuration.
"""

from .base import FEW, PROTOCOL, Message, Name, Row, Shape, Unsigned
from .from_client import (
    Adjust,
    Cancel,
    FromClient,
    Goodbye,
    Hello,
    Infer,
    InputTensor,
    Load,
    OutputPlace,
    Ping,
    Query,
    Register,
    Unload,
    Unregister,
)
from .from_worker import (
    BatchDone,
    FromWorker,
    ItemOutput,
    ItemResult,
    Loaded,
    LoadFailed,
    Ready,
    RegionMapped,
    RegionUnmapped,
    Signature,
)
from .to_client import (
    Adjusted,
    Answer,
    Copied,
    Done,
    Explanation,
    Failed,
    OutputTensor,
    Pong,
    Released,
    Result,
    ToClient,
    Welcome,
)
from .to_worker import (
    GRAPH_LEVEL,
    Accelerator,
    Batch,
    BatchInput,
    Gpu,
    GraphSpec,
    InputSlice,
    LoadModel,
    MapRegion,
    ModelSpec,
    Optimization,
    OutputSlice,
    Placement,
    Start,
    Stop,
    TensorSpec,
    ToWorker,
    UnmapRegion,
    WarmupInput,
    WarmupSample,
)

__all__ = [
    "FEW", "GRAPH_LEVEL", "PROTOCOL", "Accelerator", "Adjust", "Adjusted", "Answer", "Batch", "BatchDone", "BatchInput",
    "Cancel", "Copied", "Done", "Explanation", "Failed", "FromClient", "FromWorker", "Goodbye", "Gpu", "GraphSpec",
    "Hello", "Infer", "InputSlice", "InputTensor", "ItemOutput", "ItemResult", "Load", "LoadFailed", "LoadModel",
    "Loaded", "MapRegion", "Message", "ModelSpec", "Name", "Optimization", "OutputPlace", "OutputSlice", "OutputTensor",
    "Ping", "Placement", "Pong", "Query", "Ready", "RegionMapped", "RegionUnmapped", "Register", "Released", "Result",
    "Row", "Shape", "Signature", "Start", "Stop", "TensorSpec", "ToClient", "ToWorker", "Unload", "UnmapRegion",
    "Unregister", "Unsigned", "WarmupInput", "WarmupSample", "Welcome",
]  # fmt: skip
