# SPDX-License-Identifier: Apache-2.0
"""A small KServe v2 server of identity models, over HTTP and gRPC, with faults on request. For tests of whatever speaks to one.

usage: serves_kserve.py [--FAULT VALUE ...]      prints {"http": "127.0.0.1:PORT", "grpc": ...} when it serves

Each line on its standard input is answered: `release` lets requests that are held go, `regions` says which are registered.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading

from kserve_grpc_door import open_grpc
from kserve_http_door import Server
from kserve_models import KServe

parser = argparse.ArgumentParser()
for switch in ("no-client-shm", "no-statistics", "no-configuration", "chunked", "one-request"):
    parser.add_argument(f"--{switch}", action="store_true")
for nth in ("fail-nth", "reject-nth", "hang-up-nth", "hold-nth", "garble-nth"):
    parser.add_argument(f"--{nth}", type=int, default=0)
parser.add_argument("--in-use", type=int, default=0, help="so many times a region cannot be unregistered")
parser.add_argument("--count-late-s", type=float, default=0)

kserve = KServe(parser.parse_args())
http = Server(kserve)
threading.Thread(target=http.serve_forever, daemon=True).start()
server, port = open_grpc(kserve)
print(json.dumps({"http": f"127.0.0.1:{http.server_port}", "grpc": f"127.0.0.1:{port}"}), flush=True)
for line in sys.stdin:
    if line.strip() == "release":
        kserve.released.set()
    print(json.dumps({"regions": kserve.regions(), "registered": kserve.registered}), flush=True)
