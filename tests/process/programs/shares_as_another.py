# SPDX-License-Identifier: Apache-2.0
"""A client of a gateway that becomes another user, and tries what only the owner of a region may.

Arguments: PROTOCOL ADDRESS UID KEY REGION, the last two of somebody else's. Says one thing at a time what came of it: to register
that segment, a request in that region, the regions that it is shown, to unregister that one; then it registers a segment of its
own under that name, and says what it is shown.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from tritonclient.utils import InferenceServerException

from penstock.ipc.system_regions import create_system, unlink_system


def say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


def tried(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """What was refused; empty: nothing."""
    try:
        call(*arguments, **options)
    except InferenceServerException as error:
        return str(error.message())
    return ""


def names(protocol: str, client: Any) -> list[str]:
    if protocol == "http":
        return [row["name"] for row in client.get_system_shared_memory_status()]
    return sorted(client.get_system_shared_memory_status().regions)


def main(protocol: str, address: str, uid: int, key: str, region: str) -> None:
    library = importlib.import_module(f"tritonclient.{protocol}")
    with library.InferenceServerClient(address) as first:
        first.is_server_live()  # whatever is imported late is, by who may read it
    os.setuid(uid)
    with library.InferenceServerClient(address) as client:
        say(register=tried(client.register_system_shared_memory, "theirs", key, 64))
        given = library.InferInput("x", [1, 2], "FP32")
        given.set_shared_memory(region, 8)
        say(infer=tried(client.infer, "gate", [given]))
        say(status=names(protocol, client))
        say(unregister=tried(client.unregister_system_shared_memory, region))
        os.close(create_system(f"{key}-own", 64))
        say(own=tried(client.register_system_shared_memory, region, f"{key}-own", 64))
        unlink_system(f"{key}-own")
        say(listed=names(protocol, client))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5])
