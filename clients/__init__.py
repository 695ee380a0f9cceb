# SPDX-License-Identifier: Apache-2.0
"""The client library: `Client`, `AsyncClient`, the regions a program may share with a broker, and the errors that calls raise.

Each name is imported when it is first asked for (PEP 562), since the command line and the broker that it starts lie below this
package and need neither the client nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..ipc.errors import BrokerError, CallerError, Code, MachineError, ModelError, PenstockError
    from .async_client import AsyncClient
    from .client import Client
    from .cuda_regions import CudaRegion
    from .device_arrays import DeviceArray
    from .futures import InferFuture
    from .models import Classification, ModelInfo, TensorInfo
    from .regions import MemfdRegion, Placed, Region, SystemRegion
    from .results import InferResult
    from .slots import Slot

__all__ = [
    "AsyncClient",
    "BrokerError",
    "CallerError",
    "Classification",
    "Client",
    "Code",
    "CudaRegion",
    "DeviceArray",
    "InferFuture",
    "InferResult",
    "MachineError",
    "MemfdRegion",
    "ModelError",
    "ModelInfo",
    "PenstockError",
    "Placed",
    "Region",
    "Slot",
    "SystemRegion",
    "TensorInfo",
]

_HOMES = (
    "..ipc.errors", ".client", ".futures", ".models", ".regions", ".results", ".slots", ".device_arrays", ".cuda_regions",
    ".async_client",
)  # fmt: skip
"""The modules that define these names: the one without numpy first, the one with asyncio last."""


def __getattr__(name: str) -> object:
    if name in __all__:
        for home in _HOMES:
            module = importlib.import_module(home, __name__)
            if name in vars(module):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
