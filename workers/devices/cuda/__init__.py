# SPDX-License-Identifier: Apache-2.0
"""A GPU as a device: streams, events, memory, copies and graphs, each with an owner. All of CUDA is reached through ipc/cuda.

Owners acquire when they are made and give back in close(), which may be called again; after it the object is not to be used.
"""

from .copies import Copy, CopyKind, copy_all, fill_zero
from .device import Device
from .events import Event
from .graphs import Graph
from .memory import ALIGNMENT, DeviceBuffer, PinnedBuffer
from .registration import HostRegistration
from .streams import Stream

__all__ = [
    "ALIGNMENT", "Copy", "CopyKind", "Device", "DeviceBuffer", "Event", "Graph", "HostRegistration", "PinnedBuffer", "Stream",
    "copy_all", "fill_zero",
]  # fmt: skip
