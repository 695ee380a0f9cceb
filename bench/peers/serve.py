# SPDX-License-Identifier: Apache-2.0
"""Starts one of the servers as the comparison does, to try it by hand: prints its addresses, and ends with Ctrl-C.

usage: serve.py penstock|triton|mosec [--instances N]
"""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import suppress
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers.environments import UnavailableError
from peers.servers import CACHED_LOGS, SERVERS


def main() -> int:
    parser = argparse.ArgumentParser(description="One of the servers, to try it by hand.")
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("--instances", type=int, default=1, help="of each model")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # what was started is ended
    try:
        with SERVERS[options.server](CACHED_LOGS / "serve", options.instances) as served, suppress(KeyboardInterrupt):
            print(f"{served.name} {served.version}, process {served.pid}", *served.addresses.values(), sep="\n", flush=True)
            signal.pause()
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
