# SPDX-License-Identifier: Apache-2.0
"""What nvidia-cuda-mps-control is to a broker, without any CUDA: a daemon with `-f`, and else a command to it.

MPS_CONTROL says how: "" works; "refuses" to start; "silent" starts and never answers; "stubborn" does not quit. The daemon
starts a server in a session of its own that no signal but SIGKILL ends, and writes both pids, and which GPUs it
sees, to the pipe directory.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

SERVER = "import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; signal.pause()"


def main() -> int:
    path = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"], "control")
    return serve(path, os.environ.get("MPS_CONTROL", "")) if sys.argv[1:] == ["-f"] else command(path)


def serve(path: Path, mood: str) -> int:
    if mood == "refuses":
        print("An instance of this daemon is already running", flush=True)
        return 1
    server = subprocess.Popen([sys.executable, "-c", SERVER], start_new_session=True)
    (path.parent / "visible").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    (path.parent / "pids").write_text(f"{os.getpid()} {server.pid}")
    listener = socket.socket(socket.AF_UNIX)
    if mood != "silent":
        listener.bind(str(path))
        listener.listen()
    print(f"Starting control daemon using socket {path}", flush=True)
    while True:
        if mood == "silent":
            sys.stdin.read()
            os.wait()
        client, _ = listener.accept()
        with client:
            words = client.recv(100)
            client.sendall(b"done\n")
        if words.startswith(b"quit") and mood != "stubborn":
            server.kill()
            server.wait()
            return 0


def command(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as daemon:
        try:
            daemon.connect(str(path))
        except OSError:
            print("Cannot find MPS control daemon process")
            return 1
        daemon.sendall(sys.stdin.buffer.read())
        return 0 if daemon.recv(100) else 1


if __name__ == "__main__":
    sys.exit(main())
