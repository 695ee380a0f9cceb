# SPDX-License-Identifier: Apache-2.0
"""How the broker starts a gateway: its settings are the only argument, as JSON."""

from __future__ import annotations

import sys

import msgspec

from ...ipc.processes import die_with_parent
from .process import run
from .settings import GatewaySettings

if __name__ == "__main__":
    die_with_parent(int(sys.argv[2]))
    run(msgspec.json.decode(sys.argv[1], type=GatewaySettings), print)
